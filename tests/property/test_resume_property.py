"""Wherever an insert is interrupted, and however often, the tensor is stored as without that; little is read for it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.arrays import canonical, normal
from support.deltas import next_step
from support.engine import Reports, announce, engine_on, find, insert, read
from support.marks import mark_tensors
from support.verifying import verified
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_table import IndexEnd
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.options import InsertOptions
from tensorus_server.engine.read.payload import Payload
from tensorus_server.engine.verify.verification import Target
from tensorus_server.model import Checksum, Segment, Tensor, TensorReference

CHUNK = 16 * 1024
"""Large enough that encodings are chosen by the values."""

MARK_EVERY = 3 * CHUNK
CHUNKS = 40
PRESETS = ["none", "fast", "lossless", "balanced", "maximum"]

_requests = itertools.count(1)


def changing() -> np.ndarray[Any, Any]:
    """Return values that suit another encoding every few chunks: normal ones, zeros, integers, and some too large for int8."""
    values = normal((CHUNKS, CHUNK // 4), "float32")
    values[5:9] = 0
    values[9:14] = np.arange(5 * CHUNK // 4).reshape(5, -1) % 97
    values[22:30] = values[22:30].astype(np.float16)
    values[31:33, ::7] = 1e30
    return values.reshape(-1)[:-1001]


VALUES = changing()
BASE = next_step(VALUES, 3, share=0.02)


class CountingFiles(Files):
    """Files that count the bytes which are read of each."""

    def __init__(self) -> None:
        """Start with none."""
        self.names: dict[int, str] = {}
        self.bytes: dict[str, int] = {}

    def open_to_read(self, path: Path) -> int:
        """See `Files`."""
        descriptor = super().open_to_read(path)
        self.names[descriptor] = path.name
        return descriptor

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        """See `Files`."""
        data = super().read(descriptor, offset, length)
        name = self.names[descriptor]
        self.bytes[name] = self.bytes.get(name, 0) + len(data)
        return data


FILES = CountingFiles()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """An engine that has the tensor whole in a dataset of each preset, and with a base."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        mark_tensors(patch, above_bytes=10_000, every_bytes=MARK_EVERY)
        with engine_on(Path(folder), files=FILES) as opened:
            for preset in PRESETS:
                opened.create_dataset(preset, StoragePolicy(preset=preset, chunk_bytes=CHUNK))
                insert(opened, preset, "base", BASE)
                insert(opened, preset, "whole", VALUES)
                # Under a name of its own and another policy, so that neither shares the other's payload.
                policy = StoragePolicy(preset=preset, chunk_bytes=CHUNK, max_relative_error=1.0)
                insert(opened, preset, "whole as differences", VALUES, policy=policy, base=TensorReference("", "base"))
            yield opened


def interrupted(engine: Engine, dataset: str, base: TensorReference | None, stops: list[int], seed: int) -> Tensor:
    """Insert the tensor in a stream for each stop, which sends up to there, and one more to the end; return what it became."""
    request = InsertOptions(request_id=f"request {next(_requests)}")
    policy = StoragePolicy(preset=dataset, chunk_bytes=CHUNK, max_relative_error=1.0) if base else None
    new = announce("t", VALUES, base=base, policy=policy)
    data, random = memoryview(canonical(VALUES)), np.random.default_rng(seed)
    for stop in [*sorted(stops), data.nbytes]:
        reports = Reports()
        stream = engine.open_insert(dataset, reports, request)
        at = next((left.committed_bytes for left in stream.resumable), 0)
        announced = new
        while at < stop:
            end = min(stop, at + int(random.integers(1, 5 * CHUNK)))
            is_last = end == data.nbytes
            checksum = Checksum("crc32c", crc32c(data).to_bytes(4, "big")) if is_last else None
            stream.receive(Segment(0, at, end - at, is_last, announced, checksum), data[at:end])
            at, announced = end, None
        if stop == data.nbytes:
            stream.finish()
        else:
            stream.abort()
    return reports.tensor(0)


def stored(engine: Engine, tensor: Tensor) -> tuple[list[bytes], bytes, bytes, IndexEnd]:
    """Return the records of a tensor, its chunk details, the places of its bases, and the end of its index."""
    with engine._chunk_store.open(tensor.locator.key) as reader:
        payload = Payload(tensor, reader)
        length = tensor.locator.index_length
        index = reader.read(tensor.locator.length - length, length)
        end = IndexEnd.parse(index)
        at, records = 0, []
        for size, _ in ChunkIndex(index[: 8 * end.records]):
            records.append(reader.read(at, size))
            at += size
        bases = payload.read_bases()
        details_at = tensor.locator.length - length - end.details_bytes
        details = reader.read(details_at, end.details_bytes)
    return records, details, b"" if bases is None else bases.packed(), end


@settings(max_examples=settings.default.max_examples // 2)
@given(
    dataset=st.sampled_from(PRESETS),
    with_base=st.booleans(),
    stops=st.lists(st.integers(1, VALUES.nbytes - 1), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_a_resumed_tensor_is_stored_as_without_interruption(
    engine: Engine,
    dataset: str,
    with_base: bool,  # noqa: FBT001
    stops: list[int],
    seed: int,
) -> None:
    base = TensorReference(dataset, "base") if with_base else None
    whole = find(engine, dataset, "whole as differences" if with_base else "whole")
    try:
        found = interrupted(engine, dataset, base, stops, seed)
        assert stored(engine, found) == stored(engine, whole)
        assert (found.storage, found.values, found.chunk_bytes) == (whole.storage, whole.values, whole.chunk_bytes)
        assert read(engine, dataset, "t").tobytes() == read(engine, dataset, whole.id).tobytes()
        assert verified(engine, Target(dataset, ("t",))).damages == []
    finally:
        engine.delete_tensors(dataset, ["t"])


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("dataset", PRESETS)
def test_whoever_resumes_reads_one_chunk_of_what_is_stored(engine: Engine, dataset: str, with_base: bool) -> None:  # noqa: FBT001
    base = TensorReference(dataset, "base") if with_base else None
    FILES.bytes.clear()
    found = interrupted(engine, dataset, base, [VALUES.nbytes - CHUNK], seed=1)
    name = found.locator.payload_key
    assert found.source_checksum.algorithm == "crc32c", "it was not resumed"
    assert 0 < sum(count for key, count in FILES.bytes.items() if name in key) <= CHUNK + 100
    engine.delete_tensors(dataset, ["t"])
