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

from tensorus_codecs.checksum import chunk_seed, crc32c
from tensorus_server.chunk_index import ENTRY_BYTES, RecordPlaces
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_server.chunk_index import IndexCache
    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.model import Tensor

__all__ = ["ENTRY_BYTES", "Payload"]


class Payload:
    """An open payload whose every read is checked. Safe in many threads."""

    def __init__(self, tensor: Tensor, reader: ChunkReader, cache: IndexCache | None = None) -> None:
        """Read and check the chunk index of `tensor`'s payload, unless the cache has it.

        Args:
            reader: of the payload's container; whoever opened it closes it, after the last read.
            cache: None: read it in any case.

        Raises:
            DataCorruptError: the index is not what was written.
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
            raise self.damage(f"records are {found} bytes by the chunk index, expected {records_bytes}")

    def read_record(self, chunk: int) -> tuple[bytes, int]:
        """Return the record of chunk number `chunk` and its CRC32C, not seeded.

        Raises:
            DataCorruptError: the record is not what was written.
        """
        begin, length, seeded_crc32c = self._places.place(chunk)
        record = self._read(self._tensor.locator.offset + begin, length, what=f"chunk {chunk}")
        found = crc32c(record)
        expected = seeded_crc32c ^ chunk_seed(self._tensor.locator.payload_key, chunk)
        if found != expected:
            raise self.damage(f"CRC32C of chunk {chunk} is {found:#010x}, expected {expected:#010x}", chunk=chunk)
        return record, found

    def damage(self, message: str, **facts: object) -> DataCorruptError:
        """Return the error that says so of this tensor."""
        return DataCorruptError(message, dataset=self._tensor.dataset, tensor=self._tensor.id, **facts)

    def _read_index(self) -> RecordPlaces:
        locator = self._tensor.locator
        chunk_count = -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)
        if locator.index_length != chunk_count * ENTRY_BYTES or locator.index_length > locator.length:
            raise self.damage(f"chunk index is {locator.index_length} bytes, expected {chunk_count * ENTRY_BYTES}")
        begin = locator.offset + locator.length - locator.index_length
        index = self._read(begin, locator.index_length, what="the chunk index")
        found = crc32c(index)
        if found != locator.index_crc32c:
            raise self.damage(f"CRC32C of the chunk index is {found:#010x}, expected {locator.index_crc32c:#010x}")
        return RecordPlaces(index)

    def _read(self, offset: int, length: int, *, what: str) -> bytes:
        try:
            return self._reader.read(offset, length)
        except PayloadMissingError as error:
            raise self.damage(f"payload is too short for {what}: {error}") from error
        except PayloadUnreadableError as error:
            raise self.damage(f"the disk cannot read {what}: {error}") from error
