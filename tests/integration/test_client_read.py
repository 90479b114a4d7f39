"""Reads through both kinds of client: one tensor, parts of it, many by id; and changes to what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

import tensorus
from support.arrays import DTYPE_NAMES, assert_same_bits, canonical, normal, random_bits
from support.client import FIVE_IDS, MATRIX, facts_of, fill_with_five
from tensorus import errors
from tensorus.types import Progress
from tensorus_codecs.presets import PRESETS

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def filled(remote: tensorus.Client, embedded: tensorus.Client) -> str:
    """The dataset of the tests that only read, in both stores."""
    for client in (remote, embedded):
        fill_with_five(client, "read")
    return "read"


@pytest.fixture
def own(client: tensorus.Client, dataset: str) -> str:
    """The same dataset, for a test that changes it."""
    fill_with_five(client, dataset)
    return dataset


def ids(records: Any) -> list[str]:
    return [record.info.id for record in records]


# ---- get ----------------------------------------------------------------------------------------------------------------


def test_a_tensor_comes_as_torch_where_torch_is_installed(client: tensorus.Client, filled: str) -> None:
    found = client.get(filled, "matrix")
    assert isinstance(found, torch.Tensor)
    assert torch.equal(found, torch.from_numpy(MATRIX))


@pytest.mark.parametrize(("as_", "kind"), [(None, torch.Tensor), ("torch", torch.Tensor), ("numpy", np.ndarray)])
def test_a_tensor_comes_as_asked_for(client: tensorus.Client, filled: str, as_: Any, kind: type) -> None:
    for tensor_id in ("matrix", "scalar", "empty"):
        found = client.get(filled, tensor_id, as_=as_)
        assert isinstance(found, kind)
    assert all(isinstance(record.tensor, kind) for record in client.query(filled, as_=as_))
    assert all(isinstance(record.tensor, kind) for record in client.get_many(filled, ["matrix", "scalar"], as_=as_))


def test_another_kind_of_array_is_refused(client: tensorus.Client, filled: str) -> None:
    with pytest.raises(ValueError, match=r"^as_ is 'jax', must be 'torch' or 'numpy'$"):
        client.get(filled, "matrix", as_="jax")  # type: ignore[arg-type]


def test_what_was_read_belongs_to_the_reader(client: tensorus.Client, filled: str) -> None:
    for as_ in ("numpy", "torch"):
        client.get(filled, "matrix", as_=as_)[:] = 0
        assert client.get(filled, "matrix", as_="numpy").tolist() == MATRIX.tolist()


def some_values(dtype: str) -> np.ndarray[Any, Any]:
    """Return values as they occur: any integers, floats around zero."""
    array = random_bits(dtype, (97, 31))
    return array if array.dtype.kind in "iub" else normal((97, 31)).astype(array.dtype)


def require_back(client: tensorus.Client, dataset: str, arrays: Sequence[np.ndarray[Any, Any]]) -> None:
    """Insert `arrays`, and fail unless each comes back exactly, or as its record says."""
    infos = client.insert_many(dataset, arrays)
    records = client.get_many(dataset, [info.id for info in infos], as_="numpy")
    for array, info, record in zip(arrays, infos, records, strict=True):
        if not info.lossy:
            assert_same_bits(record.tensor, array)
        assert (record.tensor.dtype, record.tensor.shape) == (array.dtype, array.shape)
        assert info.value_checksum == xxhash.xxh3_128(canonical(record.tensor)).hexdigest()


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_every_dtype_back(client: tensorus.Client, dataset: str, preset: str) -> None:
    client.create_dataset(dataset, policy=tensorus.Policy(preset=preset, chunk_bytes=4096))
    require_back(client, dataset, [some_values(dtype) for dtype in DTYPE_NAMES])


@pytest.mark.parametrize("preset", PRESETS)
def test_values_of_any_size_are_stored_by_every_preset(client: tensorus.Client, dataset: str, preset: str) -> None:
    # NaN, infinities, and numbers whose squares overflow are among them.
    client.create_dataset(dataset, preset=preset)
    dtypes = ["float32", "float64", "complex128", "bfloat16"]
    require_back(client, dataset, [random_bits(dtype, (31, 7)) for dtype in dtypes])


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        pytest.param(1, (4,), id="a row"),
        pytest.param((..., -1), (3,), id="a column"),
        pytest.param((slice(0, 2), slice(1, None, 2)), (2, 2), id="a block"),
        pytest.param((1, 2), (), id="an element"),
        pytest.param((1, 2, ...), (), id="an element as an array"),
        pytest.param((), (3, 4), id="all of it"),
        pytest.param(slice(0, 0), (0, 4), id="nothing"),
    ],
)
@pytest.mark.parametrize("as_", ["torch", "numpy"])
def test_a_part_is_what_indexing_the_whole_gives(
    client: tensorus.Client, filled: str, index: Any, shape: tuple[int, ...], as_: Any
) -> None:
    found = client.get(filled, "matrix", index=index, as_=as_)
    expected = MATRIX[index]
    assert tuple(found.shape) == shape == expected.shape
    if as_ == "torch":
        assert isinstance(found, torch.Tensor)
        assert found.tolist() == expected.tolist()
    else:
        assert type(found) is type(expected)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("as_", ["torch", "numpy"])
@pytest.mark.parametrize("index", [(), ...], ids=["an empty tuple", "Ellipsis"])
def test_all_of_a_scalar_is_the_scalar(client: tensorus.Client, filled: str, index: Any, as_: Any) -> None:
    found = client.get(filled, "scalar", index=index, as_=as_)
    assert (tuple(found.shape), found.item()) == ((), 7.0)


@pytest.mark.parametrize(
    ("index", "error", "match"),
    [
        pytest.param(3, IndexError, r"^index 3 is out of bounds for axis 0 with size 3$", id="out of bounds"),
        pytest.param((0, -5), IndexError, r"^index -5 is out of bounds for axis 1 with size 4$", id="from the end"),
        pytest.param(2**63, IndexError, r"index 9223372036854775808", id="beyond 64 bits"),
        pytest.param(2**63 - 1, IndexError, r"index 9223372036854775807", id="at the end of 64 bits"),
        pytest.param((..., 0, ...), IndexError, r"^an index can only have a single ellipsis", id="two ellipses"),
        pytest.param(None, None, None, id="None: no index at all"),
        pytest.param((None,), TypeError, r"^index has a NoneType", id="a new axis"),
        pytest.param([0, 1], TypeError, r"^index has a list", id="a list"),
        # NumPy raises an IndexError here; ours has a reason, and is a ValueError.
        pytest.param(
            (0, 0, 0),
            errors.InvalidSliceError,
            r"^number of slices is 3, the tensor has 2 axes \[dataset=.*, tensor=matrix\]$",
            id="more than axes",
        ),
        pytest.param(
            (..., slice(None), slice(None), slice(None)),
            errors.InvalidSliceError,
            r"^number of slices is 3, the tensor has 2 axes",
            id="more slices than axes",
        ),
        pytest.param(
            slice(None, None, 0), errors.InvalidSliceError, r"^step of axis 0 is 0, must not be 0", id="a step of 0"
        ),
    ],
)
def test_an_index_that_the_tensor_does_not_have_is_refused(
    client: tensorus.Client, filled: str, index: Any, error: type[Exception] | None, match: str
) -> None:
    if error is None:
        assert client.get(filled, "matrix", index=index, as_="numpy").shape == (3, 4)
        return
    with pytest.raises(error, match=match):
        client.get(filled, "matrix", index=index)


@pytest.mark.parametrize("bound", [10**30, 2**63, 2**63 - 1])
def test_a_slice_may_go_as_far_beyond_the_end_as_in_numpy(client: tensorus.Client, filled: str, bound: int) -> None:
    found = client.get(filled, "matrix", index=slice(-bound, bound), as_="numpy")
    assert found.tolist() == MATRIX.tolist()


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(lambda client, dataset: client.get(dataset, "nothing"), id="get"),
        pytest.param(lambda client, dataset: client.get(dataset, "nothing", index=0), id="get with an index"),
        pytest.param(lambda client, dataset: client.info(dataset, "nothing"), id="info"),
        pytest.param(lambda client, dataset: list(client.get_many(dataset, ["nothing"])), id="get_many"),
        pytest.param(lambda client, dataset: client.update_metadata(dataset, "nothing", {}), id="update_metadata"),
    ],
)
def test_a_tensor_that_is_not_there_is_named(client: tensorus.Client, filled: str, action: Any) -> None:
    expected = rf"^there is no such tensor \[dataset={filled}, tensor=nothing\]$"
    with pytest.raises(errors.TensorNotFoundError, match=expected) as caught:
        action(client, filled)
    assert caught.value.reason == "TENSOR_NOT_FOUND"
    assert facts_of(caught.value) == {"dataset": filled, "tensor": "nothing"}


def test_an_id_that_is_no_text_is_refused_by_an_error_of_ours(client: tensorus.Client, filled: str) -> None:
    with pytest.raises(errors.TensorusError):
        client.get(filled, "\ud800")


@pytest.mark.parametrize("canonical_bytes", [5, MIB, 7 * MIB + 3])
@pytest.mark.parametrize("preset", ["none", "lossless"])
def test_progress_of_a_get_rises_to_all_of_it(
    client: tensorus.Client, dataset: str, preset: str, canonical_bytes: int
) -> None:
    client.create_dataset(dataset, preset=preset)
    client.insert(dataset, np.zeros(canonical_bytes, np.uint8), id="t")
    reported: list[Progress] = []
    client.get(dataset, "t", on_progress=reported.append)
    done = [progress.done_bytes for progress in reported]
    assert done == sorted(done)
    assert reported[-1] == Progress("t", canonical_bytes, canonical_bytes)
    assert {(progress.id, progress.total_bytes) for progress in reported} == {("t", canonical_bytes)}


def test_progress_of_a_part_counts_the_part(client: tensorus.Client, filled: str) -> None:
    reported: list[Progress] = []
    client.get(filled, "vector", index=slice(10, 30, 2), on_progress=reported.append)
    assert reported[-1] == Progress("vector", 80, 80)


class MineError(ValueError):
    """What a test raises in the middle; gRPC raises a ValueError of its own, for which it must not be taken."""


def test_what_on_progress_raises_ends_the_get_and_arrives(client: tensorus.Client, filled: str) -> None:
    def on_progress(_: Progress) -> None:
        raise MineError

    with pytest.raises(MineError):
        client.get(filled, "matrix", on_progress=on_progress)
    assert client.get(filled, "matrix", as_="numpy").shape == (3, 4)


# ---- get_many -----------------------------------------------------------------------------------------------------------


def test_many_come_in_the_order_of_their_ids(client: tensorus.Client, filled: str) -> None:
    wanted = ["scalar", "matrix", "empty", "vector", "matrix"]
    records = list(client.get_many(filled, wanted, as_="numpy"))
    assert ids(records) == wanted
    assert [record.tensor.shape for record in records] == [(), (3, 4), (0, 3), (100,), (3, 4)]
    assert [record.info for record in records] == [client.info(filled, tensor_id) for tensor_id in wanted]


def test_ids_may_come_from_a_generator(client: tensorus.Client, filled: str) -> None:
    assert ids(client.get_many(filled, (name for name in ("vector", "bytes")))) == ["vector", "bytes"]


def test_no_ids_are_no_tensors(client: tensorus.Client, filled: str) -> None:
    assert list(client.get_many(filled, [])) == []


def test_a_missing_id_is_raised_at_its_place(client: tensorus.Client, filled: str) -> None:
    records = client.get_many(filled, ["vector", "nothing", "matrix"])
    assert next(records).info.id == "vector"
    with pytest.raises(errors.TensorNotFoundError, match="tensor=nothing"):
        next(records)


def test_more_ids_than_one_request_may_have_are_read(client: tensorus.Client, filled: str) -> None:
    # A server takes 10,000 of them in one call: that is the contract's limit, and no user's.
    assert next(client.get_many(filled, ["scalar"] * 10_001)).info.id == "scalar"


# ---- info, metadata, delete ---------------------------------------------------------------------------------------------


def test_new_metadata_replaces_all_of_the_old(client: tensorus.Client, own: str) -> None:
    before = client.info(own, "matrix")
    updated = client.update_metadata(own, "matrix", {"new": [1, {"a": None}]})
    assert updated.metadata == {"new": [1, {"a": None}]}
    assert client.info(own, "matrix") == updated
    assert (updated.source_checksum, updated.created, updated.stored_bytes) == (
        before.source_checksum,
        before.created,
        before.stored_bytes,
    )
    assert ids(client.query(own, "new EXISTS")) == ["matrix"]
    assert ids(client.query(own, {"layer": 1})) == []
    assert client.update_metadata(own, "matrix", {}).metadata == {}


def test_new_metadata_can_be_filtered_on(client: tensorus.Client, own: str) -> None:
    client.update_metadata(own, "matrix", {"colour": "red"})
    assert ids(client.query(own, {"colour": "red"})) == ["matrix"]


def test_metadata_that_cannot_be_kept_changes_nothing(client: tensorus.Client, own: str) -> None:
    before = client.info(own, "matrix")
    with pytest.raises(errors.InvalidMetadataError):
        client.update_metadata(own, "matrix", {"k": object()})
    assert client.info(own, "matrix") == before


@pytest.mark.parametrize(
    ("wanted", "count", "left"),
    [
        pytest.param("matrix", 1, ["vector", "scalar", "empty", "bytes"], id="one"),
        pytest.param(["matrix", "vector"], 2, ["scalar", "empty", "bytes"], id="several"),
        pytest.param(("matrix", "nothing"), 1, ["vector", "scalar", "empty", "bytes"], id="one that is not there"),
        pytest.param(["matrix", "matrix"], 1, ["vector", "scalar", "empty", "bytes"], id="one twice"),
        pytest.param("nothing", 0, FIVE_IDS, id="none"),
        pytest.param([], 0, FIVE_IDS, id="no ids"),
    ],
)
def test_a_delete_counts_what_was_there(
    client: tensorus.Client, own: str, wanted: Any, count: int, left: list[str]
) -> None:
    assert client.delete(own, wanted) == count
    assert [info.id for info in client.list(own)] == left


def test_an_id_can_be_used_again_after_a_delete(client: tensorus.Client, own: str) -> None:
    before = client.info(own, "matrix")
    client.delete(own, "matrix")
    with pytest.raises(errors.TensorNotFoundError):
        client.get(own, "matrix")
    after = client.insert(own, MATRIX + 1, id="matrix")
    assert after.generation > before.generation
    assert client.get(own, "matrix", as_="numpy")[0, 0] == 1


def test_more_ids_than_one_request_may_have_are_deleted(client: tensorus.Client, own: str) -> None:
    wanted = [*(f"nothing {number}" for number in range(10_000)), "matrix"]
    assert client.delete(own, wanted) == 1


# ---- Large tensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["none", "lossless", "balanced"])
def test_a_tensor_of_many_messages_comes_back(client: tensorus.Client, dataset: str, preset: str) -> None:
    client.create_dataset(dataset, preset=preset)
    array = normal((3000, 1501))
    info = client.insert(dataset, array, id="t")
    found = client.get(dataset, "t", as_="numpy")
    if info.lossy:
        assert np.abs(found - array).max() <= info.max_absolute_error * (1 + 1e-6)
    else:
        assert_same_bits(found, array)
    assert_same_bits(client.get(dataset, "t", index=(slice(None, None, 7), 3), as_="numpy"), found[::7, 3].copy())
