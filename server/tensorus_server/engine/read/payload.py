"""A payload: the chunk records of one generation of a tensor in order, followed by the chunk index.

Chunk index. Little-endian, no padding; 8 bytes per chunk, in order.

     at  size  field
      0     4  stored_bytes  length of the chunk's record; records are contiguous from the payload's start
      4     4  crc32c        of the record, combined by exclusive or with its seed: `chunk_seed(payload key, chunk number)`

The catalogue holds the length and the CRC32C of the index, and the length of the payload. So all damage is detected: in a
record, in the index, in the order of intact records, or by a record of another payload.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.chunk_record import ChunkRecord, Stream, pack_header
from tensorus_codecs.coarse import HEAD_BYTES, CoarseHead
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_server.chunk_index import ENTRY_BYTES, RecordPlaces
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_codecs.dtypes import DType
    from tensorus_server.chunk_index import IndexCache
    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.model import Tensor

__all__ = ["ENTRY_BYTES", "Payload", "damage", "pack_entry", "raw_record"]

_ENTRY = struct.Struct("<II")


class Payload:
    """An open payload; every read is verified. Thread-safe."""

    def __init__(self, tensor: Tensor, reader: ChunkReader, cache: IndexCache | None = None) -> None:
        """Read and check the chunk index of `tensor`'s payload, unless the cache has it.

        Args:
            reader: reads the payload; the caller opened it and closes it after the last read.
            cache: a cache of chunk indexes; None: always read the index.

        Raises:
            DataCorruptError: the index is damaged.
        """
        self._tensor = tensor
        self._reader = reader
        locator = tensor.locator
        if cache is None:
            self._places = self._read_index()
        else:
            key = (locator.key, locator.offset, locator.length, locator.index_length, locator.index_crc32c)
            self._places = cache.get(key, locator.index_length, self._read_index)
        records_bytes = locator.length - locator.index_length
        if self._places.stored_bytes != records_bytes:
            found = self._places.stored_bytes
            raise damage(self._tensor, f"records are {found} bytes by the chunk index, expected {records_bytes}")

    def read_record(self, chunk: int) -> tuple[bytes, int]:
        """Return the record of chunk number `chunk`, and its CRC32C without the seed.

        Raises:
            DataCorruptError: the record is damaged.
        """
        begin, length, seeded_crc32c = self._places.place(chunk)
        record = self._read(self._tensor.locator.offset + begin, length, what=f"chunk {chunk}")
        found = crc32c(record)
        self._require_crc32c(chunk, found, seeded_crc32c)
        return record, found

    def read_coarse(self, chunk: int) -> ChunkRecord | None:
        """Return the record of the coarse form of chunk number `chunk`; None if it has none, and must be read whole.

        Only the start of the stored record is read. The chunk index verifies it: see `coarse.py`.

        Raises:
            DataCorruptError: the record is damaged.
        """
        begin, length, seeded_crc32c = self._places.place(chunk)
        begin += self._tensor.locator.offset
        head = CoarseHead.parse(self._read(begin, min(length, HEAD_BYTES), what=f"chunk {chunk}"), length)
        if head is None:
            return None
        streams = self._read(begin + HEAD_BYTES, head.streams_bytes, what=f"chunk {chunk}")
        found = head.record_crc32c(streams)
        self._require_crc32c(chunk, found, seeded_crc32c)
        return head.record(streams)

    def _require_crc32c(self, chunk: int, found: int, seeded: int) -> None:
        expected = seeded ^ chunk_seed(self._tensor.locator.payload_key, chunk)
        if found != expected:
            raise damage(
                self._tensor, f"CRC32C of chunk {chunk} is {found:#010x}, expected {expected:#010x}", chunk=chunk
            )

    def _read_index(self) -> RecordPlaces:
        locator = self._tensor.locator
        chunk_count = -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)
        if locator.index_length != chunk_count * ENTRY_BYTES or locator.index_length > locator.length:
            raise damage(
                self._tensor, f"chunk index is {locator.index_length} bytes, expected {chunk_count * ENTRY_BYTES}"
            )
        begin = locator.offset + locator.length - locator.index_length
        index = self._read(begin, locator.index_length, what="the chunk index")
        found = crc32c(index)
        if found != locator.index_crc32c:
            raise damage(
                self._tensor, f"CRC32C of the chunk index is {found:#010x}, expected {locator.index_crc32c:#010x}"
            )
        return RecordPlaces(index)

    def _read(self, offset: int, length: int, *, what: str) -> bytes:
        try:
            return self._reader.read(offset, length)
        except PayloadMissingError as error:
            raise damage(self._tensor, f"payload is too short for {what}: {error}") from error
        except PayloadUnreadableError as error:
            raise damage(self._tensor, f"the disk cannot read {what}: {error}") from error


def damage(tensor: Tensor, message: str, **facts: object) -> DataCorruptError:
    """Return an error with the tensor's identity."""
    return DataCorruptError(message, dataset=tensor.dataset, tensor=tensor.id, **facts)


def pack_entry(record_bytes: int, record_crc32c: int, payload_key: str) -> bytes:
    """Return the chunk index of a payload with this one record."""
    return _ENTRY.pack(record_bytes, record_crc32c ^ chunk_seed(payload_key, 0))


def raw_record(dtype: DType, canonical_bytes: int) -> tuple[bytes, int]:
    """Return the header of a raw chunk's record, and the exclusive or of the record's CRC32C and the chunk's."""
    return _raw_record(dtype.number, dtype.element_bytes, canonical_bytes)


@lru_cache(maxsize=1024)
def _raw_record(dtype_number: int, element_bytes: int, canonical_bytes: int) -> tuple[bytes, int]:
    dtype = dtype_by_number(dtype_number) or opaque_dtype(dtype_number, 8 * element_bytes)
    header = pack_header(ChunkRecord(dtype, 0, 0, canonical_bytes, b"", b"", [Stream(0, bytes(canonical_bytes))]))
    # CRCs are linear, so the header's contribution to the record's CRC is the same whatever follows.
    return header, combine_crc32c(crc32c(header), 0, canonical_bytes)
