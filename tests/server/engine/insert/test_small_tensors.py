"""The short way in is the general way: what it takes is stored and measured alike; what is wrong, the general way refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from support.arrays import DTYPE_NAMES, canonical, normal, random_bits
from support.cases import each
from support.engine import Reports, announce, find, insert, read, send
from tensorus_codecs.checksum import TensorDigest, crc32c
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import small_tensors, tensor_writer
from tensorus_server.engine.insert.small_tensors import SmallTensors
from tensorus_server.engine.insert.stream import InsertStream
from tensorus_server.engine.insert.tensor_writer import TensorWriter
from tensorus_server.limits import INLINE_BYTES_MAX, UNCOMMITTED_ITEMS_MAX
from tensorus_server.model import Checksum, Dataset, Schema, Segment

DATASET = Dataset(1, "dataset", StoragePolicy(), Schema(), 0)

KEY = "0123456789abcdef" * 2

LARGEST_BYTES = INLINE_BYTES_MAX - 21 - 8
"""Canonical bytes of the largest tensor that is surely inline: beside them, a record's header and the chunk index."""

POLICIES = {
    "none": StoragePolicy("none"),
    "lossless": StoragePolicy("lossless"),
    "balanced": StoragePolicy("balanced"),
    "maximum": StoragePolicy("maximum"),
    "auto": StoragePolicy("auto", max_relative_error=1e-3),
    "an encoding": StoragePolicy(encoding=Encoding.from_json([{"id": "int8_block"}, {"id": "gzip"}])),
    "no encoding": StoragePolicy(encoding=Encoding.from_json([])),
    "a broken contract": StoragePolicy("maximum", max_absolute_error=0.0),
}

ARRAYS = {
    **{name: random_bits(name, (3, 5)) for name in DTYPE_NAMES},
    "weights": normal((32, 32)),
    "weights of another size": normal((32, 31), seed=1),
    "float64": normal((40,), "float64"),
    "one value": np.full((9, 9), 3.5, np.float32),
    "zeros": np.zeros((1000,), np.float32),
    "not finite": np.array([1.0, np.nan, np.inf, -0.0], np.float32),
    "tiny": np.full((100,), 1e-30, np.float32),
    "a mean far from zero": normal((500,)) + np.float32(1e4),
    "a scalar": np.array(5, np.int64),
    "the largest": random_bits("uint8", (LARGEST_BYTES,)),
    "more than a row": normal((5000,)),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    opened = CodecPool(1)
    yield opened
    opened.close()


def on_the_general_way(array: np.ndarray[Any, Any], policy: StoragePolicy, pool: CodecPool) -> StoredTensor:
    new = announce("t", array)
    with patch.object(tensor_writer, "new_payload_key", lambda: KEY):
        writer = TensorWriter(DATASET, new, plan(policy, new.spec.dtype), staging=MemoryChunkStore(), pool=pool)
    writer.write(memoryview(canonical(array)))
    stored, staged = writer.seal(None)
    assert staged is None
    return stored


def taken(
    small: SmallTensors,
    array: np.ndarray[Any, Any],
    policy: StoragePolicy,
    *,
    item: int = 0,
    known_crc: bool = False,
    offset: int = 0,
    last: bool = True,
    last_checksum: Checksum | None = None,
    shape: tuple[int, ...] | None = None,
    **fields: Any,
) -> bool:
    new, data = announce("t", array, **fields), canonical(array)
    if shape is not None:
        new = replace(new, spec=replace(new.spec, shape=shape))
    segment = Segment(item, offset, len(data), last, new, last_checksum)
    return small.take(segment, new, plan(policy, new.spec.dtype), memoryview(data), crc32c(data) if known_crc else None)


@each("policy", POLICIES.values(), ids=POLICIES)
@each("known_crc", [False, True])
def test_everything_is_stored_as_on_the_general_way(pool: CodecPool, policy: StoragePolicy, *, known_crc: bool) -> None:
    # All of them at once: neighbours of one size are looked at together.
    arrays = [array for array in ARRAYS.values() for _ in range(2)]
    small = SmallTensors(DATASET)
    for item, array in enumerate(arrays):
        assert taken(small, array, policy, item=item, known_crc=known_crc)
    assert (len(small), small.canonical_bytes) == (len(arrays), sum(array.nbytes for array in arrays))
    assert small.numbers == list(range(len(arrays)))
    with patch.object(small_tensors, "new_payload_key", lambda: KEY):
        written = small.write()
    assert (len(small), small.canonical_bytes) == (0, 0)
    for array, stored in zip(arrays, written, strict=True):
        # By their text: NaN is not equal to itself, and -0.0 is to 0.0.
        assert repr(stored) == repr(on_the_general_way(array, policy, pool))


@each("policy", POLICIES.values(), ids=POLICIES)
def test_one_alone_is_stored_as_on_the_general_way(pool: CodecPool, policy: StoragePolicy) -> None:
    small = SmallTensors(DATASET)
    for item, array in enumerate(ARRAYS.values()):
        assert taken(small, array, policy, item=item)
        with patch.object(small_tensors, "new_payload_key", lambda: KEY):
            (stored,) = small.write()
        assert repr(stored) == repr(on_the_general_way(array, policy, pool))


def test_tensors_of_one_spec_are_stored_as_on_the_general_way(pool: CodecPool) -> None:
    # As they come from one client: their specs are not only equal, but the same, and plans change in between.
    arrays = [normal((32, 32), seed=seed) for seed in range(9)]
    spec, policies = announce("t", arrays[0]).spec, [POLICIES["none"], POLICIES["none"], POLICIES["maximum"]]
    small = SmallTensors(DATASET)
    for item, array in enumerate(arrays):
        new, chunk_plan = replace(announce("t", array), spec=spec), plan(policies[item % 3], spec.dtype)
        data = canonical(array)
        assert small.take(Segment(item, 0, len(data), True, new), new, chunk_plan, memoryview(data), crc32c(data))
    with patch.object(small_tensors, "new_payload_key", lambda: KEY):
        written = small.write()
    for item, (array, stored) in enumerate(zip(arrays, written, strict=True)):
        assert repr(stored) == repr(on_the_general_way(array, policies[item % 3], pool))


def checksum_of(array: np.ndarray[Any, Any]) -> Checksum:
    digest = TensorDigest()
    digest.update(canonical(array))
    return Checksum(TensorDigest.ALGORITHM, digest.digest())


WEIGHTS = normal((32, 32))
WRONG = Checksum(TensorDigest.ALGORITHM, bytes(16))

LEFT: dict[str, Callable[[SmallTensors, StoragePolicy], bool]] = {
    "a part of a tensor": lambda small, policy: taken(small, WEIGHTS, policy, last=False),
    "another offset": lambda small, policy: taken(small, WEIGHTS, policy, offset=4),
    "too few bytes": lambda small, policy: taken(small, WEIGHTS, policy, shape=(33, 32)),
    "too many bytes": lambda small, policy: taken(small, WEIGHTS, policy, shape=(31, 32)),
    "no bytes": lambda small, policy: taken(small, WEIGHTS[:0], policy),
    "more than is surely inline": lambda small, policy: taken(
        small, random_bits("uint8", (LARGEST_BYTES + 1,)), policy
    ),
    "more than a chunk": lambda small, _: taken(small, normal((1025,)), StoragePolicy("none", chunk_bytes=4096)),
    "a wrong checksum": lambda small, policy: taken(small, WEIGHTS, policy, source_checksum=WRONG),
    "a wrong checksum at the end": lambda small, policy: taken(small, WEIGHTS, policy, last_checksum=WRONG),
    "a checksum of another kind": lambda small, policy: taken(
        small, WEIGHTS, policy, last_checksum=Checksum("crc32c", bytes(4))
    ),
}


@each("attempt", LEFT.values(), ids=LEFT)
def test_what_is_unusual_or_wrong_is_left_to_the_general_way(
    attempt: Callable[[SmallTensors, StoragePolicy], bool],
) -> None:
    small = SmallTensors(DATASET)
    assert not attempt(small, StoragePolicy("none"))
    assert small.write() == []


@pytest.mark.parametrize("where", ["source_checksum", "last_checksum"])
def test_a_checksum_that_is_right_is_kept(where: str) -> None:
    small = SmallTensors(DATASET)
    assert taken(small, WEIGHTS, StoragePolicy("maximum"), **{where: checksum_of(WEIGHTS)})
    (stored,) = small.write()
    assert isinstance(stored, StoredTensor)
    assert stored.source_checksum == checksum_of(WEIGHTS)


def test_one_that_cannot_be_encoded_does_not_harm_the_others() -> None:
    small, failure = SmallTensors(DATASET), ValueError("a codec's own")
    encode = small_tensors.encode_chunk

    def fail_at_the_second(canonical_bytes: Any, *arguments: Any) -> Any:
        if canonical_bytes[0] == 1:
            raise failure
        return encode(canonical_bytes, *arguments)

    for item in range(3):
        assert taken(small, np.full(10, item, np.uint8), StoragePolicy("lossless"), item=item)
    with patch.object(small_tensors, "encode_chunk", fail_at_the_second):
        first, second, third = small.write()
    assert second is failure
    assert isinstance(first, StoredTensor)
    assert isinstance(third, StoredTensor)


class TestInAStream:
    """Among items of every kind, the short way shows nowhere but in the time that it takes."""

    def test_every_second_item_on_another_way_keeps_the_order(
        self, engine: Engine, stream: InsertStream, reports: Reports
    ) -> None:
        # Two chunks, and still inline: for the general way.
        both = [WEIGHTS, normal((2048,))]
        policy = StoragePolicy("none", chunk_bytes=4096)
        for item in range(20):
            send(stream, item, f"{item}", both[item % 2], policy=policy)
        assert stream.finish() == (20, 0)
        assert [reports.tensor(item).ordinal for item in range(20)] == list(range(1, 21))
        for item in range(20):
            assert np.array_equal(read(engine, "d", f"{item}"), both[item % 2])

    def test_each_follows_its_own_policy(self, engine: Engine, stream: InsertStream, reports: Reports) -> None:
        spec = announce("t", WEIGHTS).spec
        policies = [None, StoragePolicy("maximum"), None, None, StoragePolicy("none"), None]
        for item, policy in enumerate(policies):
            data = canonical(WEIGHTS)
            new = replace(announce(f"{item}", WEIGHTS, policy=policy), spec=spec)
            stream.receive(Segment(item, 0, len(data), True, new), memoryview(data))
        assert stream.finish() == (6, 0)
        for item, policy in enumerate(policies):
            tensor = insert(engine, "d", f"alone {item}", WEIGHTS, policy=policy)
            assert reports.tensor(item).storage == tensor.storage
        assert reports.tensor(0).storage != reports.tensor(1).storage != reports.tensor(4).storage

    def test_an_abort_commits_those_that_are_here(self, engine: Engine, stream: InsertStream, reports: Reports) -> None:
        for item in range(5):
            send(stream, item, f"{item}", WEIGHTS)
        stream.abort()
        assert len(reports.outcomes) == 5
        assert all(find(engine, "d", f"{item}") for item in range(5))

    def test_they_do_not_wait_for_the_end_once_they_are_flushed(
        self, engine: Engine, stream: InsertStream, reports: Reports
    ) -> None:
        send(stream, 0, "t", WEIGHTS)
        assert reports.outcomes == {}
        stream.flush()
        stream._items.wait()
        assert reports.tensor(0).generation == find(engine, "d", "t").generation

    def test_many_are_flushed_by_themselves(self, stream: InsertStream, reports: Reports) -> None:
        for item in range(UNCOMMITTED_ITEMS_MAX // 4 + 1):
            send(stream, item, f"{item}", WEIGHTS[:1])
        assert len(stream._small) == 1
        assert stream.finish() == (UNCOMMITTED_ITEMS_MAX // 4 + 1, 0)
