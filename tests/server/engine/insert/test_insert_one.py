"""The short way of one tensor is a stream's: what it takes is stored alike; about all else it is silent, and stores nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.cases import each
from support.engine import announce, find, insert, read
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.config import EngineConfig
from tensorus_server.engine.engine import Engine
from tensorus_server.errors import AlreadyExistsError, EngineError, StoredDifferentlyError
from tensorus_server.model import Outcome, Schema, Tensor

ARRAYS = {
    **{name: random_bits(name, (3, 5)) for name in DTYPE_NAMES},
    "weights": normal((32, 32)),
    "one value": np.full((9, 9), 3.5, np.float32),
    "not finite": np.array([1.0, np.nan, np.inf, -0.0], np.float32),
    "a mean far from zero": normal((500,)) + np.float32(1e4),
    "a scalar": np.array(5, np.int64),
    "more than a row": normal((5000,)),
}

POLICIES = {
    "the dataset's": None,
    "none": StoragePolicy("none"),
    "lossless": StoragePolicy("lossless"),
    "maximum": StoragePolicy("maximum"),
    "an encoding": StoragePolicy(encoding=Encoding.from_json([{"id": "int8_block"}, {"id": "gzip"}])),
}

_numbers = itertools.count()

METADATA = {"n": 1, "text": "ä", "list": [1, {"a": None}], "float": 1.5}

WEIGHTS = normal((16, 16))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = open_engine(EngineConfig(tmp_path_factory.mktemp("memory"), in_memory=True, reserve_bytes=0))
    yield engine
    engine.close()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_engine(EngineConfig(tmp_path, in_memory=True, reserve_bytes=0))
    engine.create_dataset("d")
    yield engine
    engine.close()


def insert_one(engine: Engine, array: np.ndarray[Any, Any], tensor_id: str = "t", **fields: Any) -> Tensor | None:
    return engine.insert_one("d", announce(tensor_id, array, **fields), memoryview(canonical(array)))


def alike(tensor: Tensor) -> Tensor:
    """Return the tensor without what differs from one insert to the next."""
    locator = replace(tensor.locator, key="", index_crc32c=0)
    return replace(tensor, dataset="", generation=0, ordinal=0, created_us=0, locator=locator, inline_payload=None)


@each("policy", POLICIES.values(), ids=POLICIES)
@each("array", ARRAYS.values(), ids=ARRAYS)
def test_a_tensor_is_stored_as_by_a_stream(
    shared: Engine, array: np.ndarray[Any, Any], policy: StoragePolicy | None
) -> None:
    one, stream = f"one {next(_numbers)}", f"stream {next(_numbers)}"
    for name in (one, stream):
        shared.create_dataset(name)
    new = announce("t", array, metadata=METADATA, policy=policy)
    committed = shared.insert_one(one, new, memoryview(canonical(array)))
    assert committed is not None
    assert committed.outcome is Outcome.INSERTED
    streamed = insert(shared, stream, "t", array, metadata=METADATA, policy=policy)
    assert repr(alike(committed)) == repr(alike(streamed))
    found, expected = find(shared, one, "t"), find(shared, stream, "t")
    assert repr(alike(found)) == repr(alike(expected))
    assert alike(found) == alike(committed)
    assert canonical(read(shared, one, "t")) == canonical(read(shared, stream, "t"))


def test_numbers_go_on_from_one_insert_to_the_next(engine: Engine) -> None:
    one = insert_one(engine, WEIGHTS, "a")
    streamed = insert(engine, "d", "b", WEIGHTS)
    other = insert_one(engine, WEIGHTS, "c")
    assert one is not None
    assert other is not None
    assert [tensor.ordinal for tensor in (one, streamed, other)] == [1, 2, 3]
    assert [tensor.generation for tensor in (streamed, other)] == [one.generation + 1, one.generation + 2]


def test_the_same_tensor_again_is_stored_already_and_takes_no_number(engine: Engine) -> None:
    first = insert_one(engine, WEIGHTS)
    again = insert_one(engine, WEIGHTS)
    assert first is not None
    assert again is not None
    assert (again.outcome, again.generation) == (Outcome.ALREADY_STORED, first.generation)
    after = insert_one(engine, WEIGHTS, "other")
    assert after is not None
    assert after.ordinal == 2


def test_one_that_replaces_another_takes_its_place(engine: Engine) -> None:
    insert_one(engine, WEIGHTS)
    replaced = insert_one(engine, 2 * WEIGHTS, replace=True)
    assert replaced is not None
    assert replaced.outcome is Outcome.REPLACED
    assert np.array_equal(read(engine, "d", "t"), 2 * WEIGHTS)


REFUSED: dict[str, dict[str, Any]] = {
    "an id that is empty": {"tensor_id": ""},
    "an id with a control character": {"tensor_id": "a\n"},
    "metadata that are too large": {"metadata": {"a": "x" * 70_000}},
    "a key that is too long": {"metadata": {"x" * 2000: 1}},
    "an integer beyond 64 bits": {"metadata": {"a": 2**64}},
    "a generation that is not there": {"if_generation_match": 7},
    "another tensor's id": {"tensor_id": "taken"},
}


@pytest.mark.parametrize("fields", REFUSED.values(), ids=REFUSED)
def test_what_a_stream_refuses_is_left_to_it(engine: Engine, fields: dict[str, Any]) -> None:
    insert(engine, "d", "taken", WEIGHTS)
    assert insert_one(engine, 2 * WEIGHTS, **fields) is None
    with pytest.raises(EngineError):
        insert(engine, "d", fields.pop("tensor_id", "t"), 2 * WEIGHTS, **fields)
    assert engine.dataset_stats("d").tensors == 1


def test_a_schema_that_does_not_fit_is_left_to_a_stream(engine: Engine) -> None:
    engine.update_dataset("d", None, Schema(dtype="int64"))
    assert insert_one(engine, WEIGHTS) is None
    assert insert_one(engine, np.arange(4)) is not None


def test_bytes_that_are_not_the_tensors_are_left_to_a_stream(engine: Engine) -> None:
    new = announce("t", WEIGHTS)
    data = memoryview(canonical(WEIGHTS))
    assert engine.insert_one("d", new, data[:-4]) is None
    assert engine.insert_one("d", announce("t", np.array([True])), memoryview(b"\x02")) is None
    assert engine.dataset_stats("d").tensors == 0


def test_a_large_tensor_is_left_to_a_stream(engine: Engine) -> None:
    assert insert_one(engine, normal((200, 100))) is None


def test_a_dataset_that_is_not_there_is_left_to_a_stream(engine: Engine) -> None:
    assert engine.insert_one("other", announce("t", WEIGHTS), memoryview(canonical(WEIGHTS))) is None


def test_a_dataset_that_has_changed_since_takes_what_it_now_says(engine: Engine) -> None:
    assert insert_one(engine, WEIGHTS, "before") is not None
    engine.update_dataset("d", StoragePolicy("maximum"), Schema(metadata={"n": "integer"}))
    # What was known of the dataset is not so any more; from the next one on it is known again.
    assert insert_one(engine, WEIGHTS, "without n") is None
    assert insert_one(engine, WEIGHTS, "without n") is None
    after = insert_one(engine, WEIGHTS, "after", metadata={"n": 1})
    assert after is not None
    assert alike(after).storage == alike(insert(engine, "d", "stream", WEIGHTS, metadata={"n": 1})).storage
    assert find(engine, "d", "after").storage.lossy
    assert not find(engine, "d", "before").storage.lossy


def test_a_dataset_that_was_created_anew_is_another(engine: Engine) -> None:
    assert insert_one(engine, WEIGHTS, "before") is not None
    engine.delete_dataset("d")
    assert insert_one(engine, WEIGHTS) is None
    engine.create_dataset("d", StoragePolicy("maximum"))
    assert insert_one(engine, WEIGHTS) is not None
    assert find(engine, "d", "t").storage.lossy
    assert engine.dataset_stats("d").tensors == 1


def test_while_others_commit_it_is_left_to_a_stream(engine: Engine) -> None:
    with engine._committer._turn:
        assert insert_one(engine, WEIGHTS) is None
    assert insert_one(engine, WEIGHTS) is not None


def test_a_closed_store_leaves_it_to_a_stream(tmp_path: Path) -> None:
    engine = open_engine(EngineConfig(tmp_path, in_memory=True, reserve_bytes=0))
    engine.create_dataset("d")
    assert insert_one(engine, WEIGHTS) is not None
    engine.close()
    assert insert_one(engine, WEIGHTS, "other") is None


def test_a_store_that_syncs_leaves_it_to_a_stream(tmp_path: Path) -> None:
    engine = open_engine(EngineConfig(tmp_path, reserve_bytes=0))
    engine.create_dataset("d")
    assert insert_one(engine, WEIGHTS) is None
    engine.close()


def test_what_is_refused_says_the_same_whichever_way_came_first(engine: Engine) -> None:
    insert_one(engine, WEIGHTS, metadata={"n": 1})
    with pytest.raises(AlreadyExistsError):
        insert(engine, "d", "t", 2 * WEIGHTS)
    with pytest.raises(StoredDifferentlyError):
        insert(engine, "d", "t", WEIGHTS, metadata={"n": 2})


def test_a_store_in_memory_leaves_nothing_of_its_catalogue_in_the_folder(engine: Engine, tmp_path: Path) -> None:
    insert_one(engine, WEIGHTS)
    insert(engine, "d", "large", normal((400, 100)))
    assert not list(tmp_path.glob("catalogue*"))
    assert np.array_equal(read(engine, "d", "large"), normal((400, 100)))
