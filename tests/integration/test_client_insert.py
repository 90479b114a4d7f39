"""Inserts through both kinds of client: one tensor, many, a part of them, and those that break off."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

import tensorus
from support.arrays import assert_same_bits, canonical, normal, random_bits
from support.client import SCATTERED_ARRAYS
from tensorus import errors
from tensorus._grpc import insert_stream
from tensorus.types import EncodingShare, Progress, ValueSummary

MIB = 1024 * 1024
VALUES = normal((100, 200))


@pytest.fixture
def filled(client: tensorus.Client, dataset: str) -> str:
    """A dataset of this test alone, which stores things as they are."""
    client.create_dataset(dataset, preset="none")
    return dataset


def stored_ids(client: tensorus.Client, dataset: str) -> set[str]:
    return {info.id for info in client.list(dataset)}


# ---- One tensor ---------------------------------------------------------------------------------------------------------


def test_an_insert_returns_all_about_the_tensor(client: tensorus.Client, filled: str) -> None:
    array = np.array([[1.0, np.nan, 3.0], [0.0, np.inf, -4.0]], np.float32)
    metadata = {"layer": 1, "rate": 1.0, "nested": {"list": [None, True, "x"]}}
    before = dt.datetime.now(dt.UTC)
    info = client.insert(filled, array, id="t", metadata=metadata)
    checksum = xxhash.xxh3_128(canonical(array)).hexdigest()
    assert (info.dataset, info.id, info.dtype, info.shape) == (filled, "t", "float32", (2, 3))
    assert info.metadata == metadata
    assert type(info.metadata["rate"]) is float
    assert (info.canonical_bytes, info.quantized_bytes) == (24, 24)
    assert info.stored_bytes > 24
    assert (info.lossy, info.relative_error, info.max_absolute_error) == (False, 0.0, 0.0)
    assert info.fallback_reason == ""
    assert (info.source_checksum, info.value_checksum) == (checksum, checksum)
    assert [(share.codecs, share.chunks, share.canonical_bytes) for share in info.encodings] == [((), 1, 24)]
    assert info.values is not None
    assert (info.values.min, info.values.max, info.values.mean) == (-4.0, 3.0, 0.0)
    assert (info.values.zero_count, info.values.nan_count, info.values.infinity_count) == (1, 1, 1)
    assert before <= info.created <= dt.datetime.now(dt.UTC)
    assert client.info(filled, "t") == info


def test_a_tensor_without_finite_values_has_none_at_a_glance(client: tensorus.Client, filled: str) -> None:
    info = client.insert(filled, np.full(3, np.nan))
    assert info.values == ValueSummary(None, None, None, None, None, 0, 3, 0)
    assert client.insert(filled, np.ones(3, bool)).values is None


def test_what_storing_did_is_measured(client: tensorus.Client, filled: str) -> None:
    info = client.insert(filled, VALUES, id="t", preset="int8_only")
    found = client.get(filled, "t", as_="numpy")
    error = found.astype(np.float64) - VALUES
    assert info.lossy
    relative_error = np.linalg.norm(error) / np.linalg.norm(VALUES.astype(np.float64))
    # Measured in float32, and rounded up.
    assert relative_error * (1 - 1e-9) <= info.relative_error <= relative_error * (1 + 3.2e-5)
    assert info.max_absolute_error == pytest.approx(np.abs(error).max())
    assert info.quantized_bytes < info.canonical_bytes / 3
    assert info.source_checksum == xxhash.xxh3_128(canonical(VALUES)).hexdigest()
    assert info.value_checksum == xxhash.xxh3_128(canonical(found)).hexdigest()
    assert info.encodings == (EncodingShare(("int8_block",), 1, 80_000, info.encodings[0].stored_bytes),)


def test_without_an_id_a_random_one_is_made(client: tensorus.Client, filled: str) -> None:
    ids = [client.insert(filled, VALUES).id for _ in range(3)]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", tensor_id) for tensor_id in ids)


def test_the_same_tensor_may_be_inserted_again(client: tensorus.Client, filled: str) -> None:
    first = client.insert(filled, VALUES, id="t", metadata={"k": 1})
    assert client.insert(filled, VALUES, id="t", metadata={"k": 1}) == first
    assert client.stats(filled).tensors == 1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(VALUES + 1, id="other values"),
        pytest.param(VALUES.reshape(200, 100), id="another shape"),
        pytest.param(VALUES.view(np.int32), id="another dtype"),
    ],
)
def test_another_tensor_under_a_taken_id_is_refused(
    client: tensorus.Client, filled: str, other: np.ndarray[Any, Any]
) -> None:
    first = client.insert(filled, VALUES, id="t")
    with pytest.raises(errors.AlreadyExistsError, match=rf"\[dataset={filled}, tensor=t\]") as caught:
        client.insert(filled, other, id="t")
    assert caught.value.reason == "ALREADY_EXISTS"
    assert client.info(filled, "t") == first


@pytest.mark.parametrize(
    ("settings", "codecs"),
    [
        pytest.param({}, [()], id="the dataset's"),
        pytest.param({"preset": "fp16_only"}, [("fp16",)], id="a preset"),
        pytest.param({"policy": tensorus.Policy(encoding=["planes", "zstd"])}, [("planes", "zstd")], id="a policy"),
        pytest.param({"preset": None, "policy": None}, [()], id="None: the dataset's"),
    ],
)
def test_a_tensor_is_stored_as_asked_for(
    client: tensorus.Client, filled: str, settings: dict[str, Any], codecs: list[tuple[str, ...]]
) -> None:
    info = client.insert(filled, VALUES, **settings)
    assert [share.codecs for share in info.encodings] == codecs


@pytest.mark.parametrize("make", SCATTERED_ARRAYS.values(), ids=SCATTERED_ARRAYS)
def test_an_array_in_any_order_is_stored_by_its_values(
    client: tensorus.Client, filled: str, make: Callable[[], np.ndarray[Any, Any]]
) -> None:
    array = make()
    client.insert(filled, array, id="t")
    assert_same_bits(client.get(filled, "t", as_="numpy"), array.astype(array.dtype.newbyteorder("=")))


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(torch.arange(6).reshape(2, 3).T, id="transposed"),
        pytest.param(torch.ones(3, requires_grad=True), id="with a gradient"),
        pytest.param(torch.arange(5).bfloat16(), id="bfloat16"),
        pytest.param(torch.tensor([1 + 2j]).conj(), id="conjugated"),
    ],
)
def test_a_torch_tensor_comes_back_as_it_was(client: tensorus.Client, filled: str, tensor: torch.Tensor) -> None:
    client.insert(filled, tensor, id="t")
    found = client.get(filled, "t", as_="torch")
    assert found.dtype is tensor.dtype
    assert torch.equal(found, tensor.detach().resolve_conj())
    assert not found.requires_grad


@pytest.mark.parametrize("tensor", [[1, 2], None, "text", 3.0], ids=lambda tensor: type(tensor).__name__)
def test_what_is_no_tensor_is_refused_before_anything_is_sent(
    client: tensorus.Client, filled: str, tensor: object
) -> None:
    with pytest.raises(TypeError, match="is not a tensor"):
        client.insert(filled, tensor)
    assert stored_ids(client, filled) == set()


def test_a_dtype_outside_the_contract_is_refused(client: tensorus.Client, filled: str) -> None:
    with pytest.raises(errors.UnsupportedDTypeError, match="dtype object is not one of"):
        client.insert(filled, np.array([object()]))


@pytest.mark.parametrize(
    ("tensor_id", "match"),
    [
        pytest.param("", r"id of a tensor is '', 0 bytes", id="empty"),
        pytest.param("a" * 513, r"513 bytes of UTF-8; must be 1 to 512", id="too long"),
        pytest.param("a\x00", r"must have no control characters", id="a control character"),
        pytest.param("\ud800", r"not Unicode", id="no Unicode"),
    ],
)
def test_an_id_that_is_not_allowed_is_refused(client: tensorus.Client, filled: str, tensor_id: str, match: str) -> None:
    with pytest.raises(errors.InvalidNameError, match=match):
        client.insert(filled, VALUES, id=tensor_id)


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth):
        value = {"k": value}
    found: dict[str, Any] = value
    return found


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        pytest.param({"k": object()}, errors.InvalidMetadataError, id="an object"),
        pytest.param({"k": {1, 2}}, errors.InvalidMetadataError, id="a set"),
        pytest.param({1: 2}, errors.InvalidMetadataError, id="a key that is no text"),
        pytest.param({"k": 2**63}, errors.InvalidMetadataError, id="an integer beyond 64 bits"),
        pytest.param({"k": "\ud800"}, errors.InvalidMetadataError, id="text that is no Unicode"),
        pytest.param({"k": np.arange(1)}, errors.InvalidMetadataError, id="an array of one"),
        pytest.param({"k": np.arange(3)}, errors.InvalidMetadataError, id="an array of three"),
        pytest.param({"k": "x" * 70_000}, errors.LimitExceededError, id="too large"),
        pytest.param({"k": "x" * 5_000_000}, errors.LimitExceededError, id="too large for a message"),
        pytest.param(nested(17), errors.LimitExceededError, id="too deep"),
        pytest.param(nested(40), errors.InvalidRequestError, id="too deep for protobuf"),
        pytest.param(nested(2000), errors.InvalidRequestError, id="too deep for Python"),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused_and_nothing_stored(
    client: tensorus.Client, filled: str, metadata: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.insert(filled, VALUES, id="t", metadata=metadata)
    assert stored_ids(client, filled) == set()


def test_metadata_too_large_for_a_message_fails_alone(client: tensorus.Client, filled: str) -> None:
    uploads = [
        tensorus.NewTensor(VALUES, "a"),
        tensorus.NewTensor(VALUES, "b", {"k": "x" * 5_000_000}),
        tensorus.NewTensor(VALUES, "c"),
    ]
    with pytest.raises(errors.InsertManyError) as caught:
        client.insert_many(filled, uploads)
    assert [(position, type(error)) for position, error in caught.value.failed] == [(1, errors.LimitExceededError)]
    assert stored_ids(client, filled) == {"a", "c"}


# ---- Progress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("canonical_bytes", [0, 5, MIB, 20 * MIB + 3])
def test_progress_of_an_insert_rises_to_all_of_it(client: tensorus.Client, filled: str, canonical_bytes: int) -> None:
    reported: list[Progress] = []
    client.insert(filled, random_bits("uint8", (canonical_bytes,)), id="t", on_progress=reported.append)
    done = [progress.done_bytes for progress in reported]
    assert done == sorted(done)
    assert reported[-1] == Progress("t", canonical_bytes, canonical_bytes)
    assert {(progress.id, progress.total_bytes) for progress in reported} == {("t", canonical_bytes)}


def test_progress_of_a_lossy_insert_counts_what_went_in(client: tensorus.Client, filled: str) -> None:
    reported: list[Progress] = []
    client.insert(filled, VALUES, preset="int8_only", on_progress=reported.append)
    assert reported[-1].done_bytes == VALUES.nbytes


def test_progress_of_many_counts_all_of_them(client: tensorus.Client, filled: str) -> None:
    reported: list[Progress] = []
    client.insert_many(filled, [VALUES] * 5, on_progress=reported.append)
    done = [progress.done_bytes for progress in reported]
    assert done == sorted(done)
    assert done[-1] == 5 * VALUES.nbytes
    assert {(progress.id, progress.total_bytes) for progress in reported} == {(None, None)}


class MineError(ValueError):
    """What a test raises in the middle; gRPC raises a ValueError of its own, for which it must not be taken."""


def test_what_on_progress_raises_ends_the_insert_and_arrives(client: tensorus.Client, filled: str) -> None:
    def on_progress(_: Progress) -> None:
        raise MineError

    with pytest.raises(MineError):
        client.insert(filled, random_bits("uint8", (20 * MIB,)), id="t", on_progress=on_progress)
    assert stored_ids(client, filled) == set()
    assert client.insert(filled, VALUES, id="t").id == "t"


# ---- Many tensors -------------------------------------------------------------------------------------------------------


def test_many_may_be_arrays_pairs_and_new_tensors(client: tensorus.Client, filled: str) -> None:
    policy = tensorus.Policy(preset="int8_only")
    infos = client.insert_many(
        filled,
        [
            VALUES,
            ("pair", torch.arange(3)),
            tensorus.NewTensor(VALUES, "new", {"k": 1}, policy),
            tensorus.NewTensor(np.float32(5)),
        ],
    )
    assert re.fullmatch("[0-9a-f]{32}", infos[0].id)
    assert (infos[1].id, infos[1].dtype) == ("pair", "int64")
    assert (infos[2].id, infos[2].metadata, infos[2].lossy) == ("new", {"k": 1}, True)
    assert infos[3].shape == ()
    assert [client.info(filled, info.id) for info in infos] == infos


def test_a_state_dict_can_be_inserted_as_it_is(client: tensorus.Client, filled: str) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    infos = client.insert_many(filled, model.state_dict().items())
    assert [info.id for info in infos] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    assert torch.equal(client.get(filled, "0.weight", as_="torch"), model[0].weight)


def test_many_come_back_in_the_order_of_the_input(client: tensorus.Client, filled: str) -> None:
    # Small ones are committed while large ones are still on their way to the disk.
    sizes = [3_000_000, 10, 2_000_000, 0, 20, 1_000_000] * 3
    infos = client.insert_many(filled, (np.zeros(size, np.uint8) for size in sizes))
    assert [info.shape for info in infos] == [(size,) for size in sizes]


def test_none_are_many_too(client: tensorus.Client, filled: str) -> None:
    assert client.insert_many(filled, []) == []


def test_more_small_ones_than_a_message_holds_arrive(
    client: tensorus.Client, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(insert_stream, "_SEGMENTS_MAX", 50)
    infos = client.insert_many(filled, ((f"t{number}", np.full(4, number)) for number in range(120)))
    assert [info.id for info in infos] == [f"t{number}" for number in range(120)]
    assert client.get(filled, "t119", as_="numpy").tolist() == [119] * 4
    assert client.stats(filled).tensors == 120


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        pytest.param(("a", VALUES, 3), r"a tuple of insert_many must be \(id, tensor\)", id="a triple"),
        pytest.param((VALUES, "a"), r"a tuple of insert_many must be \(id, tensor\)", id="a pair the wrong way round"),
        pytest.param((), r"a tuple of insert_many must be \(id, tensor\)", id="an empty tuple"),
        pytest.param(("a", [1, 2]), r"a list is not a tensor", id="a pair with a list"),
        pytest.param(tensorus.NewTensor([1]), r"a list is not a tensor", id="a new tensor with a list"),
        pytest.param([1], r"a list is not a tensor", id="a list"),
    ],
)
def test_what_is_no_tensor_among_many_is_refused(
    client: tensorus.Client, filled: str, tensor: object, match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        client.insert_many(filled, [tensor])


def test_some_that_fail_are_named_and_the_others_stored(client: tensorus.Client, filled: str) -> None:
    client.insert(filled, VALUES, id="taken")
    uploads = [
        tensorus.NewTensor(VALUES, "a"),
        tensorus.NewTensor(VALUES + 1, "taken"),
        tensorus.NewTensor(VALUES, "b", {"k": object()}),
        tensorus.NewTensor(VALUES, ""),
        tensorus.NewTensor(VALUES, "c", policy=tensorus.Policy(preset="zip")),
        tensorus.NewTensor(VALUES, "d"),
        tensorus.NewTensor(VALUES, "\ud800"),
    ]
    with pytest.raises(errors.InsertManyError, match=r"^5 of 7 tensors were not stored; number 1: ") as caught:
        client.insert_many(filled, uploads)
    assert [(position, error.reason) for position, error in caught.value.failed] == [
        (1, "ALREADY_EXISTS"),
        (2, "INVALID_METADATA"),
        (3, "INVALID_NAME"),
        (4, "INVALID_POLICY"),
        (6, "INVALID_NAME"),
    ]
    assert caught.value.reason == "ALREADY_EXISTS"
    assert [info.id for info in caught.value.inserted] == ["a", "d"]
    assert stored_ids(client, filled) == {"taken", "a", "d"}


def test_the_same_id_twice_fails_once(client: tensorus.Client, filled: str) -> None:
    with pytest.raises(errors.InsertManyError) as caught:
        client.insert_many(filled, [("a", VALUES), ("a", VALUES + 1)])
    assert len(caught.value.failed) == len(caught.value.inserted) == 1
    assert stored_ids(client, filled) == {"a"}


@pytest.mark.parametrize("canonical_bytes", [10, 3 * MIB], ids=["small ones", "large ones"])
def test_a_generator_that_raises_ends_the_insert_and_leaves_what_was_complete(
    client: tensorus.Client, filled: str, canonical_bytes: int
) -> None:
    def tensors() -> Iterator[Any]:
        for name in "abc":
            yield name, np.zeros(canonical_bytes, np.uint8)
        raise MineError("in the middle")

    with pytest.raises(MineError, match="in the middle"):
        client.insert_many(filled, tensors())
    assert client.insert(filled, VALUES, id="afterwards").id == "afterwards"
    assert stored_ids(client, filled) == {"a", "b", "c", "afterwards"}


def test_a_tensor_whose_bytes_cannot_be_read_leaves_nothing_of_itself(client: tensorus.Client, filled: str) -> None:
    class Unreadable:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            raise MineError("no bytes")

    with pytest.raises(MineError, match="no bytes"):
        client.insert_many(filled, [("a", Unreadable())])
    assert stored_ids(client, filled) == set()


def test_an_insert_that_cannot_begin_does_not_wait_for_its_tensors(client: tensorus.Client) -> None:
    def endless() -> Iterator[np.ndarray[Any, Any]]:
        while True:
            yield np.zeros(MIB, np.uint8)

    with pytest.raises(errors.DatasetNotFoundError):
        client.insert_many("nowhere", endless())
