"""A payload: the chunk records of one generation of a tensor, in order, and then the chunk index.

Chunk index. Little-endian, no padding; 8 bytes a chunk, in order.

     at  size  field
      0     4  stored_bytes  length of the chunk's record; records lie one after the other from the payload's start
      4     4  crc32c        of the record, combined by exclusive or with its seed: `chunk_seed(payload key, chunk number)`

The catalogue holds the index's length and CRC32C, and the payload's length. So damage shows wherever it is: in a record, in
the index, in the order of intact records, or in a record that belongs to another payload.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.checksum import chunk_seed, crc32c
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.model import Tensor

__all__ = ["ENTRY_BYTES", "Payload", "pack_index"]

_ENTRY = np.dtype([("stored_bytes", "<u4"), ("crc32c", "<u4")])

ENTRY_BYTES = _ENTRY.itemsize
"""Of the chunk index, per chunk."""


def pack_index(entries: Sequence[tuple[int, int]]) -> bytes:
    """Return the bytes of the chunk index: of each chunk, its record's length and seeded CRC32C."""
    return np.array(entries, _ENTRY).tobytes()


class Payload:
    """An open payload whose every read is checked. Safe in many threads."""

    def __init__(self, tensor: Tensor, reader: ChunkReader) -> None:
        """Read and check the chunk index of `tensor`'s payload.

        Args:
            reader: of the payload's container; whoever opened it closes it, after the last read.

        Raises:
            DataCorruptError: the index is not what was written.
        """
        self._tensor = tensor
        self._reader = reader
        index = self._read_index()
        self._crcs = index["crc32c"]
        # Where each record begins, and where the last one ends.
        self._bounds = np.zeros(index.size + 1, np.int64)
        np.cumsum(index["stored_bytes"], out=self._bounds[1:])
        records_bytes = tensor.locator.length - tensor.locator.index_length
        if self._bounds[-1] != records_bytes:
            raise self.damage(f"records are {self._bounds[-1]} bytes by the chunk index, expected {records_bytes}")

    def read_record(self, chunk: int) -> tuple[bytes, int]:
        """Return the record of chunk number `chunk` and its CRC32C, not seeded.

        Raises:
            DataCorruptError: the record is not what was written.
        """
        begin, end = int(self._bounds[chunk]), int(self._bounds[chunk + 1])
        record = self._read(self._tensor.locator.offset + begin, end - begin, what=f"chunk {chunk}")
        found = crc32c(record)
        expected = int(self._crcs[chunk]) ^ chunk_seed(self._tensor.locator.payload_key, chunk)
        if found != expected:
            raise self.damage(f"CRC32C of chunk {chunk} is {found:#010x}, expected {expected:#010x}", chunk=chunk)
        return record, found

    def damage(self, message: str, **facts: object) -> DataCorruptError:
        """Return the error that says so of this tensor."""
        return DataCorruptError(message, dataset=self._tensor.dataset, tensor=self._tensor.id, **facts)

    def _read_index(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        locator = self._tensor.locator
        chunk_count = -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)
        if locator.index_length != chunk_count * ENTRY_BYTES or locator.index_length > locator.length:
            raise self.damage(f"chunk index is {locator.index_length} bytes, expected {chunk_count * ENTRY_BYTES}")
        begin = locator.offset + locator.length - locator.index_length
        index = self._read(begin, locator.index_length, what="the chunk index")
        found = crc32c(index)
        if found != locator.index_crc32c:
            raise self.damage(f"CRC32C of the chunk index is {found:#010x}, expected {locator.index_crc32c:#010x}")
        return np.frombuffer(index, _ENTRY)

    def _read(self, offset: int, length: int, *, what: str) -> bytes:
        try:
            return self._reader.read(offset, length)
        except PayloadMissingError as error:
            raise self.damage(f"payload is too short for {what}: {error}") from error
        except PayloadUnreadableError as error:
            raise self.damage(f"the disk cannot read {what}: {error}") from error
