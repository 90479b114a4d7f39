"""Datasets through both kinds of client: made, listed, changed, deleted, and what they require of their tensors."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import normal
from support.client import facts_of
from tensorus import errors
from tensorus.types import DatasetInfo, DatasetStats, DTypeShare, EncodingShare

VALUES = normal((200, 300))


def test_a_dataset_is_returned_as_it_was_made(client: tensorus.Client, dataset: str) -> None:
    policy = tensorus.Policy(preset="balanced", max_absolute_error=0.5, chunk_bytes=8192)
    schema = tensorus.Schema(dtype="float32", shape=(None, 300), metadata={"layer": int, "note": None})
    before = dt.datetime.now(dt.UTC)
    made = client.create_dataset(dataset, policy=policy, schema=schema)
    assert made == DatasetInfo(dataset, policy, schema, made.created)
    assert before <= made.created <= dt.datetime.now(dt.UTC)
    assert made.created.tzinfo is dt.UTC
    assert client.dataset(dataset) == made
    assert made in client.datasets()


def test_a_dataset_without_settings_takes_anything_and_stores_it_losslessly(
    client: tensorus.Client, dataset: str
) -> None:
    made = client.create_dataset(dataset)
    assert (made.policy, made.schema) == (tensorus.Policy(), tensorus.Schema())
    info = client.insert(dataset, VALUES)
    assert not info.lossy
    assert [share.codecs for share in info.encodings] == [("bf16_planes", "zstd")]


def test_a_preset_is_short_for_a_policy(client: tensorus.Client, dataset: str) -> None:
    assert client.create_dataset(dataset, preset="fast").policy == tensorus.Policy(preset="fast")


def test_an_explicit_chain_comes_back_with_every_step_written_out(client: tensorus.Client, dataset: str) -> None:
    encoding = ["fp16", {"id": "zstd", "configuration": {"level": 5}}]
    made = client.create_dataset(dataset, policy=tensorus.Policy(encoding=encoding))
    assert made.policy.encoding == [
        {"id": "fp16", "configuration": {}},
        {"id": "zstd", "configuration": {"level": 5}},
    ]
    info = client.insert(dataset, VALUES)
    assert [share.codecs for share in info.encodings] == [("fp16", "zstd")]


def test_a_name_that_is_taken_is_refused(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="fast")
    with pytest.raises(errors.AlreadyExistsError, match=dataset) as caught:
        client.create_dataset(dataset, preset="none")
    assert caught.value.reason == "ALREADY_EXISTS"
    assert client.dataset(dataset).policy == tensorus.Policy(preset="fast")


def test_the_message_of_a_name_that_is_taken_says_how_to_take_it(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    with pytest.raises(tensorus.errors.AlreadyExistsError, match="exist_ok=True") as caught:
        client.create_dataset(dataset)
    assert (caught.value.reason, facts_of(caught.value)) == ("ALREADY_EXISTS", {"dataset": dataset})


def test_exist_ok_returns_what_is_there_as_it_is(client: tensorus.Client, dataset: str) -> None:
    made = client.create_dataset(dataset, preset="fast", exist_ok=True)
    assert client.create_dataset(dataset, preset="none", exist_ok=True) == made
    assert client.dataset(dataset) == made


@pytest.mark.parametrize(
    "name", ["a/b/c", "größe 🦦", "-", "a" * 255], ids=["slashes", "Unicode", "a dash", "the longest"]
)
def test_a_name_may_be_any_text(client: tensorus.Client, dataset: str, name: str) -> None:
    named = f"{dataset}/{name}"[: len(name)] if len(name) == 255 else f"{dataset}/{name}"
    assert client.create_dataset(named).name == named
    assert client.dataset(named).name == named
    client.delete_dataset(named)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        pytest.param("", r"name of a dataset is '', 0 bytes", id="empty"),
        pytest.param("a" * 256, r"256 bytes of UTF-8; must be 1 to 255 bytes", id="too long"),
        pytest.param("ä" * 128, r"256 bytes of UTF-8", id="too long in bytes"),
        pytest.param("a\nb", r"must have no control characters", id="a newline"),
        pytest.param("../b", r"part between slashes must not be empty, '\.' or '\.\.'", id="a way up"),
        pytest.param("a//b", r"part between slashes must not be empty", id="an empty part"),
    ],
)
def test_a_name_that_is_not_allowed_is_refused(client: tensorus.Client, name: str, match: str) -> None:
    with pytest.raises(errors.InvalidNameError, match=match) as caught:
        client.create_dataset(name)
    assert caught.value.reason == "INVALID_NAME"


def test_a_name_that_is_no_text_is_refused_by_an_error_of_ours(client: tensorus.Client) -> None:
    with pytest.raises(errors.InvalidNameError):
        client.create_dataset("\ud800")


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        pytest.param(
            {"preset": "zip"}, errors.InvalidPolicyError, r"preset 'zip' is not one of none, fast", id="preset"
        ),
        pytest.param(
            {"preset": "fast", "policy": tensorus.Policy()},
            errors.InvalidPolicyError,
            r"preset and policy cannot be combined",
            id="preset and policy",
        ),
        pytest.param(
            {"policy": tensorus.Policy(preset="fast", encoding=["zstd"])},
            errors.InvalidPolicyError,
            r"policy has both preset .* must have at most one",
            id="preset and encoding",
        ),
        pytest.param(
            {"policy": tensorus.Policy(encoding=["middle_out"])},
            errors.UnsupportedCodecError,
            r"codec 'middle_out' is not one of",
            id="codec",
        ),
        pytest.param(
            {"policy": tensorus.Policy(encoding=["zstd", "fp16"])},
            errors.InvalidPolicyError,
            r"encoding is zstd -> fp16, must be at most one quantizer",
            id="order of codecs",
        ),
        pytest.param(
            {"policy": tensorus.Policy(encoding=[{"id": "zstd", "configuration": {"level": 99}}])},
            errors.InvalidPolicyError,
            r"level of codec zstd is 99, must be an integer from 1 to 22",
            id="a codec's setting",
        ),
        pytest.param(
            {"policy": tensorus.Policy(chunk_bytes=4097)},
            errors.InvalidPolicyError,
            r"chunk_bytes of a policy is 4097, must be a multiple of 16 from 4096 to 2097152",
            id="chunk_bytes",
        ),
        pytest.param(
            {"policy": tensorus.Policy(max_relative_error=-1.0)},
            errors.InvalidPolicyError,
            r"max_relative_error of a policy is -1.0, must be finite and not negative",
            id="max_relative_error",
        ),
        pytest.param(
            {"schema": tensorus.Schema(dtype="float31")},
            errors.UnsupportedDTypeError,
            r"dtype 'float31' is not one of",
            id="a schema's dtype",
        ),
        pytest.param(
            {"schema": tensorus.Schema(shape=(-2,))},
            errors.InvalidShapeError,
            r"shape of the schema is \[-2\]",
            id="a schema's shape",
        ),
        pytest.param(
            {"schema": tensorus.Schema(metadata={"k": set})},  # type: ignore[dict-item]
            errors.InvalidMetadataError,
            r"type of 'k' in a schema is <class 'set'>",
            id="a schema's metadata",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_nothing_made(
    client: tensorus.Client, dataset: str, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        client.create_dataset(dataset, **settings)
    assert dataset not in {info.name for info in client.datasets()}


def test_datasets_come_in_the_order_of_their_creation(client: tensorus.Client, dataset: str) -> None:
    names = [f"{dataset}-{suffix}" for suffix in "cab"]
    for name in names:
        client.create_dataset(name)
    assert [info.name for info in client.datasets() if info.name in names] == names


# ---- Not there ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(lambda client: client.dataset("nowhere"), id="dataset"),
        pytest.param(lambda client: client.update_dataset("nowhere", preset="fast"), id="update_dataset"),
        pytest.param(lambda client: client.delete_dataset("nowhere"), id="delete_dataset"),
        pytest.param(lambda client: client.stats("nowhere"), id="stats"),
        pytest.param(lambda client: client.insert("nowhere", VALUES), id="insert"),
        pytest.param(lambda client: client.insert_many("nowhere", [VALUES]), id="insert_many"),
        pytest.param(lambda client: client.insert_many("nowhere", []), id="insert_many of nothing"),
        pytest.param(lambda client: client.get("nowhere", "t"), id="get"),
        pytest.param(lambda client: list(client.get_many("nowhere", ["t"])), id="get_many"),
        pytest.param(lambda client: list(client.get_many("nowhere", [])), id="get_many of nothing"),
        pytest.param(lambda client: list(client.query("nowhere")), id="query"),
        pytest.param(lambda client: list(client.query("nowhere", sample=3)), id="query with a sample"),
        pytest.param(lambda client: list(client.list("nowhere")), id="list"),
        pytest.param(lambda client: client.info("nowhere", "t"), id="info"),
        pytest.param(lambda client: client.update_metadata("nowhere", "t", {}), id="update_metadata"),
        pytest.param(lambda client: client.delete("nowhere", "t"), id="delete"),
        pytest.param(lambda client: client.delete("nowhere", []), id="delete of nothing"),
    ],
)
def test_a_dataset_that_is_not_there_is_named(client: tensorus.Client, action: Any) -> None:
    with pytest.raises(errors.DatasetNotFoundError, match=r"^there is no such dataset \[dataset=nowhere\]$") as caught:
        action(client)
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert facts_of(caught.value) == {"dataset": "nowhere"}


# ---- Changed and deleted ------------------------------------------------------------------------------------------------


def test_an_update_counts_for_later_tensors_alone(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="none")
    earlier = client.insert(dataset, VALUES, id="earlier")
    updated = client.update_dataset(dataset, preset="int8_only")
    assert updated.policy == tensorus.Policy(preset="int8_only")
    later = client.insert(dataset, VALUES, id="later")
    assert (earlier.lossy, later.lossy) == (False, True)
    assert client.info(dataset, "earlier") == earlier


def test_an_update_leaves_alone_what_it_does_not_name(client: tensorus.Client, dataset: str) -> None:
    schema = tensorus.Schema(dtype="float32")
    made = client.create_dataset(dataset, preset="fast", schema=schema)
    assert client.update_dataset(dataset) == made
    assert client.update_dataset(dataset, preset="none").schema == schema
    assert client.update_dataset(dataset, schema=tensorus.Schema(shape=(1,))).policy == tensorus.Policy(preset="none")
    assert client.update_dataset(dataset, schema=tensorus.Schema()).schema == tensorus.Schema()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"preset": "zip"}, errors.InvalidPolicyError),
        ({"preset": "fast", "policy": tensorus.Policy()}, errors.InvalidPolicyError),
        ({"schema": tensorus.Schema(dtype="float31")}, errors.UnsupportedDTypeError),
        ({"schema": tensorus.Schema(shape=[-2])}, errors.InvalidShapeError),
    ],
    ids=["preset", "preset and policy", "dtype", "shape"],
)
def test_an_update_that_cannot_be_changes_nothing(
    client: tensorus.Client, dataset: str, settings: dict[str, Any], error: type[Exception]
) -> None:
    made = client.create_dataset(dataset, preset="fast")
    with pytest.raises(error):
        client.update_dataset(dataset, **settings)
    assert client.dataset(dataset) == made


def test_a_deleted_dataset_takes_its_tensors_with_it(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    client.insert_many(dataset, [VALUES, VALUES[:1], VALUES[:0]])
    assert client.delete_dataset(dataset) == 3
    with pytest.raises(errors.DatasetNotFoundError):
        client.dataset(dataset)
    client.create_dataset(dataset)
    assert list(client.list(dataset)) == []
    assert client.delete_dataset(dataset) == 0


# ---- Sums ---------------------------------------------------------------------------------------------------------------


def test_an_empty_dataset_has_sums_of_zero(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    assert client.stats(dataset) == DatasetStats(0, 0, 0, 0, 0, 0.0, 0.0, (), ())
    assert client.stats(dataset).ratio == 1.0


def test_sums_are_those_of_the_tensors(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="fp16_only")
    infos = client.insert_many(dataset, [VALUES, VALUES * 3, np.arange(100)])
    found = client.stats(dataset)
    assert (found.tensors, found.lossy_tensors) == (3, 2)
    for name in ("canonical_bytes", "quantized_bytes", "stored_bytes"):
        assert getattr(found, name) == sum(getattr(info, name) for info in infos)
    assert found.worst_relative_error == max(info.relative_error for info in infos)
    assert found.worst_max_absolute_error == max(info.max_absolute_error for info in infos)
    assert {share.dtype: share for share in found.dtypes} == {
        "float32": DTypeShare("float32", 2, 480_000, infos[0].stored_bytes + infos[1].stored_bytes),
        "int64": DTypeShare("int64", 1, 800, infos[2].stored_bytes),
    }
    (first,), (second,), (numbers,) = (info.encodings for info in infos)
    assert found.encodings == (
        EncodingShare(("fp16",), 2, 480_000, first.stored_bytes + second.stored_bytes),
        numbers,
    )


def test_what_came_back_with_the_insert_is_in_info_and_in_stats(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, preset="balanced")
    inserted = client.insert(dataset, VALUES, id="t")
    assert inserted.quantizer_ratio == pytest.approx(2.0, rel=1e-3)
    assert inserted.compressor_ratio > 1.0
    assert inserted.ratio == pytest.approx(inserted.quantizer_ratio * inserted.compressor_ratio)
    assert inserted.relative_error > 0.0
    assert client.info(dataset, "t") == inserted
    stats = client.stats(dataset)
    assert (stats.quantizer_ratio, stats.compressor_ratio) == (inserted.quantizer_ratio, inserted.compressor_ratio)
    assert stats.encodings == inserted.encodings
    assert stats.worst_relative_error == inserted.relative_error


def test_encodings_that_differ_in_settings_are_one_share(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)
    policies = [tensorus.Policy(encoding=[{"id": "gzip", "configuration": {"level": level}}]) for level in (1, 9)]
    infos = [client.insert(dataset, np.zeros(1000), policy=policy) for policy in policies]
    assert client.stats(dataset).encodings == (
        EncodingShare(("gzip",), 2, 16_000, sum(info.encodings[0].stored_bytes for info in infos)),
    )


# ---- Schemas ------------------------------------------------------------------------------------------------------------

SCHEMA = tensorus.Schema(dtype="float32", shape=(None, 3), metadata={"layer": int, "rate": float, "any": None})
FITTING: dict[str, Any] = {"layer": 1, "rate": 0.5, "any": []}

MISFITS: list[Any] = [
    pytest.param(np.zeros((2, 3)), FITTING, r"dtype is float64, the schema requires float32", id="dtype"),
    pytest.param(np.zeros((3, 2), np.float32), FITTING, r"shape is \[3, 2\], the schema requires \[-1, 3\]", id="size"),
    pytest.param(np.zeros(3, np.float32), FITTING, r"shape is \[3\], the schema requires", id="rank"),
    pytest.param(np.zeros((2, 3), np.float32), {"layer": 1, "rate": 0.5}, r"metadata has no 'any'", id="a missing key"),
    pytest.param(
        np.zeros((2, 3), np.float32),
        {**FITTING, "rate": 1},
        r"metadata 'rate' is a int, the schema requires number",
        id="an integer is no number",
    ),
    pytest.param(
        np.zeros((2, 3), np.float32),
        {**FITTING, "layer": True},
        r"metadata 'layer' is a bool, the schema requires integer",
        id="a bool is no integer",
    ),
]


@pytest.mark.parametrize(("array", "metadata", "match"), MISFITS)
def test_a_tensor_that_does_not_fit_is_refused_and_nothing_stored(
    client: tensorus.Client, dataset: str, array: np.ndarray[Any, Any], metadata: dict[str, Any], match: str
) -> None:
    client.create_dataset(dataset, schema=SCHEMA)
    with pytest.raises(errors.SchemaMismatchError, match=match) as caught:
        client.insert(dataset, array, id="t", metadata=metadata)
    assert caught.value.reason == "SCHEMA_MISMATCH"
    assert caught.value.facts["tensor"] == "t"
    assert list(client.list(dataset)) == []


def test_a_tensor_that_fits_is_stored(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, schema=SCHEMA)
    assert client.insert(dataset, np.zeros((9, 3), np.float32), metadata=FITTING).metadata == FITTING


def test_metadata_must_fit_when_it_is_replaced_too(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset, schema=SCHEMA)
    client.insert(dataset, np.zeros((9, 3), np.float32), id="t", metadata=FITTING)
    with pytest.raises(errors.SchemaMismatchError, match=r"metadata has no 'layer'"):
        client.update_metadata(dataset, "t", {"rate": 0.5, "any": None})
    assert client.info(dataset, "t").metadata == FITTING
