"""Damage to stored bytes is always found, and named: dataset, tensor and, where it is in a chunk, the chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from support.arrays import canonical
from support.engine import INDEX_ENTRY_BYTES, announce, assemble
from tensorus_codecs.base import Base
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.pipeline import encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.chunk_index import ChunkIndex
from tensorus_server.chunk_store.abc import PayloadUnreadableError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.insert.tensor_writer import TensorWriter
from tensorus_server.engine.read.payload import ENTRY_BYTES, Payload, pack_entry
from tensorus_server.engine.read.reader import ReadPlan, TensorReader
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Dataset, Locator, Schema, SliceSet, Tensor

DATASET = Dataset(1, "weights", StoragePolicy(), Schema(), 0)


@dataclass(frozen=True)
class Stored:
    """A tensor, and the payload that its writer made of it."""

    tensor: Tensor
    payload: bytes
    array: np.ndarray[Any, Any]

    @property
    def record_ends(self) -> list[int]:
        """Where each chunk's record ends within the payload."""
        index = np.frombuffer(self.payload[-self.tensor.locator.index_length :], "<u4")
        return np.cumsum(index[::2]).tolist()


@pytest.fixture(scope="module")
def pool() -> Iterator[CodecPool]:
    opened = CodecPool(1)
    yield opened
    opened.close()


def store(array: np.ndarray[Any, Any], preset: str, pool: CodecPool, tensor_id: str = "layer") -> Stored:
    """Return a tensor in chunks of 4 KiB, and its payload."""
    chunk_store = MemoryChunkStore()
    new = announce(tensor_id, array)
    chunk_plan = plan(StoragePolicy(preset=preset, chunk_bytes=4096), new.spec.dtype)
    writer = TensorWriter(DATASET, new, chunk_plan, staging=chunk_store, pool=pool)
    writer.write(memoryview(canonical(array)))
    stored, staged = writer.seal(None)
    assert staged is None
    assert stored.inline_payload is not None
    return Stored(stored.committed(1, 1, 0), stored.inline_payload, array)


def smooth(count: int) -> np.ndarray[Any, Any]:
    """Return values that every codec makes smaller."""
    return (np.arange(count) // 16 * 0.25).astype(np.float32)


KINDS = {
    "raw": (np.random.default_rng(1).integers(0, 256, 4300, np.uint8), "none"),
    "compressed": (smooth(4000), "lossless"),
    "compressed whole": (smooth(4000), "fast"),
    "quantized": (smooth(3000), "maximum"),
    "half precision": (smooth(1100), "fp16_only"),
    "one chunk": (np.arange(25, dtype=np.int16).reshape(5, 5), "none"),
    "a scalar": (np.array(1.5), "none"),
}


@pytest.fixture(scope="module", params=KINDS)
def stored(request: pytest.FixtureRequest, pool: CodecPool) -> Stored:
    array, preset = KINDS[request.param]
    return store(array, preset, pool)


def read(stored: Stored, payload: bytes, pool: CodecPool, **accepted: Any) -> np.ndarray[Any, Any]:
    """Read the whole tensor as if `payload` were what is stored of it, inline."""
    reader = TensorReader(None, MemoryChunkStore(), pool)  # type: ignore[arg-type]
    tensor = replace(stored.tensor, inline_payload=payload)
    plan_ = ReadPlan(tensor, None)
    return assemble(plan_.result, list(reader.read(tensor, plan_, **accepted)))


def positions(stored: Stored) -> list[int]:
    """Return every byte of headers, borders and chunk index, and one of 7 between: a CRC covers them alike."""
    length = len(stored.payload)
    borders = [0, *stored.record_ends, length]
    near = {position for border in borders for position in range(border - 40, border + 40)}
    return sorted(near.union(range(0, length, 7)).intersection(range(length)))


def damaged_chunk(stored: Stored, position: int) -> str | None:
    """Return the number of the chunk that a byte belongs to; None: it is the chunk index's."""
    for chunk, end in enumerate(stored.record_ends):
        if position < end:
            return str(chunk)
    return None


def test_the_stored_bytes_are_as_many_as_the_report_says(stored: Stored) -> None:
    assert len(stored.payload) == stored.tensor.storage.stored_bytes == stored.tensor.locator.length
    chunks = -(-stored.array.nbytes // 4096)
    assert stored.tensor.locator.index_length == chunks * INDEX_ENTRY_BYTES == chunks * ENTRY_BYTES
    assert stored.record_ends[-1] == len(stored.payload) - stored.tensor.locator.index_length


def test_an_intact_payload_is_read(stored: Stored, pool: CodecPool) -> None:
    found = read(stored, stored.payload, pool)
    assert found.shape == stored.array.shape
    exact = stored.array.astype(np.float64)
    error = float(np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact))
    assert error == pytest.approx(stored.tensor.storage.relative_error, rel=3.2e-5)
    # What the preset promises.
    assert error <= (0.01 if stored.tensor.storage.lossy else 0)


def test_every_flipped_bit_is_found_and_named(stored: Stored, pool: CodecPool) -> None:
    # Which bit of the byte goes around.
    for position in positions(stored):
        damaged = bytearray(stored.payload)
        damaged[position] ^= 1 << position % 8
        with pytest.raises(DataCorruptError) as caught:
            read(stored, bytes(damaged), pool)
        facts = caught.value.facts
        assert (facts["dataset"], facts["tensor"]) == ("weights", "layer")
        assert facts.get("chunk") == damaged_chunk(stored, position)


def test_every_truncation_is_found(stored: Stored, pool: CodecPool) -> None:
    for length in positions(stored):
        with pytest.raises(DataCorruptError, match=r"payload is too short for .* \[dataset=weights, tensor=layer\]"):
            read(stored, stored.payload[:length], pool)


@pytest.mark.parametrize("kind", ["compressed", "quantized", "raw"])
def test_a_flipped_bit_is_found_where_stored_bytes_pass_through(pool: CodecPool, kind: str) -> None:
    array, preset = KINDS[kind]
    stored = store(array, preset, pool)
    everything = frozenset({"zstd", "bf16_planes", "rotated_planes", "planes", "int8_block", "fp16", "lz4", "gzip"})
    reader = TensorReader(None, MemoryChunkStore(), pool)  # type: ignore[arg-type]
    for position in range(0, len(stored.payload), 7):
        damaged = bytearray(stored.payload)
        damaged[position] ^= 0x10
        tensor = replace(stored.tensor, inline_payload=bytes(damaged))
        with pytest.raises(DataCorruptError):
            list(reader.read(tensor, ReadPlan(tensor, None), everything))


@pytest.mark.parametrize("kind", ["compressed", "raw"])
def test_a_flipped_bit_is_found_where_a_slice_is_gathered(pool: CodecPool, kind: str) -> None:
    array, preset = KINDS[kind]
    stored = store(array, preset, pool)
    reader = TensorReader(None, MemoryChunkStore(), pool)  # type: ignore[arg-type]
    for position in range(0, len(stored.payload), 7):
        damaged = bytearray(stored.payload)
        damaged[position] ^= 0x10
        tensor = replace(stored.tensor, inline_payload=bytes(damaged))
        part = ReadPlan(tensor, SliceSet((slice(None, None, 2),)))
        with pytest.raises(DataCorruptError) as caught:
            list(reader.read(tensor, part))
        assert caught.value.facts.get("chunk") == damaged_chunk(stored, position)


def test_damage_outside_of_what_is_read_harms_nobody(pool: CodecPool) -> None:
    array, preset = KINDS["raw"]
    stored = store(array, preset, pool)
    damaged = bytearray(stored.payload)
    damaged[100] ^= 1
    tensor = replace(stored.tensor, inline_payload=bytes(damaged))
    reader = TensorReader(None, MemoryChunkStore(), pool)  # type: ignore[arg-type]
    part = ReadPlan(tensor, SliceSet((slice(4096, None),)))
    assert np.array_equal(assemble(part.result, list(reader.read(tensor, part))), array[4096:])


class TestMisplacement:
    """Intact records in the wrong place are damage, too: their CRCs are seeded with the payload's key and their number."""

    @pytest.fixture
    def two_chunks(self, pool: CodecPool) -> Stored:
        return store(np.random.default_rng(2).integers(0, 256, 8192, np.uint8), "none", pool)

    def test_two_records_that_changed_places_are_found(self, two_chunks: Stored, pool: CodecPool) -> None:
        first, second = two_chunks.record_ends
        payload = two_chunks.payload
        assert first == second - first
        swapped = payload[first:second] + payload[:first] + payload[second:]
        with pytest.raises(DataCorruptError, match=r"CRC32C of chunk 0 is .*, expected .* tensor=layer\]"):
            read(two_chunks, swapped, pool)

    def test_two_records_that_changed_places_with_their_index_entries_are_found(
        self, two_chunks: Stored, pool: CodecPool
    ) -> None:
        # As if the writer itself had mixed them up: length, index and its CRC agree, and only the seed does not.
        first, second = two_chunks.record_ends
        payload = two_chunks.payload
        index = payload[second + ENTRY_BYTES :] + payload[second : second + ENTRY_BYTES]
        swapped = payload[first:second] + payload[:first] + index
        locator = replace(two_chunks.tensor.locator, index_crc32c=crc32c(index))
        mixed_up = replace(two_chunks, tensor=replace(two_chunks.tensor, locator=locator))
        with pytest.raises(DataCorruptError, match="CRC32C of chunk 0") as caught:
            read(mixed_up, swapped, pool)
        assert caught.value.facts["chunk"] == "0"

    def test_the_payload_of_another_tensor_is_found(self, two_chunks: Stored, pool: CodecPool) -> None:
        other = store(two_chunks.array[::-1].copy(), "none", pool, "other")
        with pytest.raises(DataCorruptError, match="CRC32C of the chunk index"):
            read(two_chunks, other.payload, pool)

    def test_the_payload_and_index_of_another_tensor_are_found(self, two_chunks: Stored, pool: CodecPool) -> None:
        # The same values, even: what tells them apart is the key alone.
        twin = store(two_chunks.array, "none", pool, "twin")
        locator = replace(two_chunks.tensor.locator, index_crc32c=twin.tensor.locator.index_crc32c)
        mixed_up = replace(two_chunks, tensor=replace(two_chunks.tensor, locator=locator))
        with pytest.raises(DataCorruptError, match="CRC32C of chunk 0"):
            read(mixed_up, twin.payload, pool)

    def test_a_record_of_another_length_is_found(self, pool: CodecPool) -> None:
        # Its CRC fits, seed and all; but the tensor needs another number of bytes there.
        stored = store(np.zeros(5000, np.uint8), "none", pool)
        shorter = replace(stored.tensor, spec=replace(stored.tensor.spec, shape=(4999,)))
        with pytest.raises(
            DataCorruptError, match="chunk 1 has 904 canonical bytes of uint8, expected 903 of uint8"
        ) as caught:
            read(replace(stored, tensor=shorter), stored.payload, pool)
        assert caught.value.facts["chunk"] == "1"

    def test_a_record_of_wider_elements_is_found(self, pool: CodecPool) -> None:
        stored = store(np.zeros(100, np.uint16), "none", pool)
        other = store(np.zeros(200, np.uint8), "none", pool)
        confused = replace(stored.tensor, spec=other.tensor.spec)
        with pytest.raises(DataCorruptError, match="200 canonical bytes of uint16, expected 200 of uint8"):
            read(replace(stored, tensor=confused), stored.payload, pool)


class TestChunkIndex:
    """What the catalogue says of the index is compared with what lies there."""

    @pytest.fixture
    def small(self, pool: CodecPool) -> Stored:
        return store(np.arange(100, dtype=np.uint8), "none", pool)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"index_length": 16}, "CRC32C of the chunk index is"),
            ({"index_length": 0}, "CRC32C of the chunk index is 0x00000000"),
            ({"length": 4}, "chunk index is 8 bytes, the payload 4"),
            ({"index_crc32c": 1}, r"CRC32C of the chunk index is 0x[0-9a-f]{8}, expected 0x00000001"),
            ({"length": 1000}, "payload is too short for the chunk index: payload has 129 bytes"),
            ({"offset": 1}, "payload is too short for the chunk index"),
        ],
        ids=str,
    )
    def test_a_locator_that_does_not_fit_is_damage(
        self, small: Stored, pool: CodecPool, fields: dict[str, int], message: str
    ) -> None:
        tensor = replace(small.tensor, locator=replace(small.tensor.locator, **fields))
        with pytest.raises(DataCorruptError, match=message):
            read(replace(small, tensor=tensor), small.payload, pool)

    def test_records_that_do_not_add_up_to_the_payload_are_damage(self, small: Stored, pool: CodecPool) -> None:
        index = ChunkIndex.of([(122, 0)]).packed()
        locator = replace(small.tensor.locator, index_crc32c=crc32c(index))
        tensor = replace(small.tensor, locator=locator)
        with pytest.raises(DataCorruptError, match="records are 122 bytes by the chunk index, expected 121"):
            read(replace(small, tensor=tensor), small.payload[:-8] + index, pool)

    def test_a_payload_may_begin_anywhere_in_its_container(self, small: Stored, pool: CodecPool) -> None:
        locator = replace(small.tensor.locator, offset=1000)
        moved = replace(small, tensor=replace(small.tensor, locator=locator))
        assert np.array_equal(read(moved, bytes(1000) + small.payload + b"more", pool), small.array)


def test_a_record_that_needs_a_base_is_damage_in_a_payload_without_bases(pool: CodecPool) -> None:
    stored = store(np.arange(1000, dtype=np.float32), "none", pool)
    dtype = stored.tensor.spec.dtype
    base = Base(canonical(stored.array), dtype)
    encoded = encode_chunk(base.canonical, dtype, plan(StoragePolicy(preset="none"), dtype), base=base)
    record, key = b"".join(map(bytes, encoded.record)), stored.tensor.locator.payload_key
    payload = record + pack_entry(len(record), encoded.crc32c, key)
    locator = Locator(key, 0, len(payload), ENTRY_BYTES, crc32c(payload[len(record) :]))
    tensor = replace(stored.tensor, locator=locator)
    with pytest.raises(DataCorruptError, match="chunk 0 needs a base, and its payload names none"):
        read(replace(stored, tensor=tensor), payload, pool)


def test_a_disk_that_cannot_read_is_damage(pool: CodecPool) -> None:
    stored = store(np.arange(100, dtype=np.uint8), "none", pool)

    class Broken(BytesReader):
        def read(self, offset: int, length: int) -> bytes:
            raise PayloadUnreadableError("Input/output error")

    with pytest.raises(DataCorruptError, match=r"the disk cannot read the chunk index: Input/output error \[dataset="):
        Payload(stored.tensor, Broken(stored.payload))
