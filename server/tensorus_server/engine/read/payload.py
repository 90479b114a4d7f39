"""A payload: chunk records, followed by the chunk index.

Chunk index. Little-endian, no padding; 8 bytes per record, in order; in format 2 its end follows (`chunk_table.py`).

     at  size  field
      0     4  stored_bytes  length of the record; records are contiguous from the payload's start
      4     4  crc32c        of the record, combined by exclusive or with its seed: `chunk_seed(payload key, record number)`

The catalogue holds the length and the CRC32C of the index, and the length of the payload. So all damage is detected: in a
record, in the index, in the order of intact records, or by a record of another payload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from tensorus_codecs.checksum import chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.chunk_record import ChunkRecord, Stream, pack_header
from tensorus_codecs.coarse import HEAD_BYTES, CoarseHead
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_server.chunk_details import ChunkDetails
from tensorus_server.chunk_index import ENTRY_BYTES, RecordPlaces
from tensorus_server.chunk_store.abc import PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_table import ChunkTable, IndexEnd
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_codecs.dtypes import DType
    from tensorus_server.chunk_index import IndexCache
    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.model import Locator, Tensor

__all__ = ["ENTRY_BYTES", "Payload", "PayloadIndex", "damage", "pack_entry", "raw_record"]

T = TypeVar("T")

_ENTRY = struct.Struct("<II")


@dataclass(frozen=True)
class PayloadIndex:
    """What the index of a payload says."""

    places: RecordPlaces
    end: IndexEnd | None
    """None: the payload is of format 1."""

    @property
    def overhead_bytes(self) -> int:
        """Bytes between the records and the index."""
        return 0 if self.end is None else self.end.overhead_bytes


class Payload:
    """An open payload; every read is verified. Thread-safe."""

    def __init__(
        self,
        tensor: Tensor,
        reader: ChunkReader,
        cache: IndexCache | None = None,
        locator: Locator | None = None,
    ) -> None:
        """Read and check the chunk index, unless the cache has it.

        Args:
            tensor: the tensor that the payload is read for; errors name it.
            reader: reads the payload; the caller opened it and closes it after the last read.
            cache: a cache of chunk indexes and tables; None: always read them.
            locator: the payload's place; None: the tensor's own.

        Raises:
            DataCorruptError: the index is damaged.
        """
        self._tensor = tensor
        self._reader = reader
        self.locator = tensor.locator if locator is None else locator
        locator = self.locator
        self._cache = cache
        self.index = self._cached("index", locator.index_length, self._read_index)
        self._places = self.index.places
        self._bases: ChunkTable | None = None
        records_bytes = locator.length - locator.index_length - self.index.overhead_bytes
        if self._places.stored_bytes != records_bytes:
            found = self._places.stored_bytes
            raise damage(self._tensor, f"records are {found} bytes by the chunk index, expected {records_bytes}")

    @property
    def depth(self) -> int:
        """How many payloads with bases build on each other, up to this one; 0: no record needs a base."""
        return 0 if self.index.end is None else self.index.end.depth

    def read_record(self, number: int, chunk: int, *, is_base: bool = False) -> tuple[bytes, int]:
        """Return record `number` of the payload, and its CRC32C without the seed.

        Args:
            number: of the record in this payload.
            chunk: of the tensor, whose record it is; errors name it.
            is_base: whether it is instead the record of the chunk's base.

        Raises:
            DataCorruptError: the record is damaged.
        """
        begin, length, seeded_crc32c = self._places.place(number)
        what = f"the base of chunk {chunk}" if is_base else f"chunk {chunk}"
        record = self._read(self.locator.offset + begin, length, what=what, chunk=chunk)
        found = crc32c(record)
        self._require_crc32c(number, what, chunk, found, seeded_crc32c)
        return record, found

    @property
    def fetches_ahead(self) -> bool:
        """Whether `announce` does anything."""
        return self._reader.fetches_ahead

    def record_bytes(self, number: int) -> int:
        """Return the length of record `number`."""
        return self._places.place(number)[1]

    def announce(self, numbers: Sequence[int]) -> None:
        """Say which records `read_record` will be asked for soon, in this order. See `ChunkReader.prefetch`."""
        places = (self._places.place(number) for number in numbers)
        self._reader.prefetch([(self.locator.offset + begin, length) for begin, length, _ in places])

    def read_coarse(self, number: int, chunk: int) -> ChunkRecord | None:
        """Return the record of the coarse form of record `number`; None if it has none, and must be read whole.

        Only the start of the stored record is read. The chunk index verifies it: see `coarse.py`.

        Args:
            number, chunk: as of `read_record`.

        Raises:
            DataCorruptError: the record is damaged.
        """
        begin, length, seeded_crc32c = self._places.place(number)
        begin += self.locator.offset
        what = f"chunk {chunk}"
        head = CoarseHead.parse(self._read(begin, min(length, HEAD_BYTES), what=what, chunk=chunk), length)
        if head is None:
            return None
        streams = self._read(begin + HEAD_BYTES, head.streams_bytes, what=what, chunk=chunk)
        found = head.record_crc32c(streams)
        self._require_crc32c(number, what, chunk, found, seeded_crc32c)
        return head.record(streams)

    def _require_crc32c(self, number: int, what: str, chunk: int, found: int, seeded: int) -> None:
        expected = seeded ^ chunk_seed(self.locator.payload_key, number)
        if found != expected:
            raise damage(self._tensor, f"CRC32C of {what} is {found:#010x}, expected {expected:#010x}", chunk=chunk)

    def read_table(self) -> ChunkTable | None:
        """Return the chunk table; None: the payload has all records of its tensor, in order.

        Raises:
            DataCorruptError: the table is damaged.
        """
        end = self.index.end
        if end is None or not end.table_bytes:
            return None
        return self._cached("table", end.table_bytes, lambda: self._parse_table(end))

    def read_bases(self) -> ChunkTable | None:
        """Return the base section: where the base of each record is; None: no record needs one.

        Raises:
            DataCorruptError: the section is damaged.
        """
        end = self.index.end
        if end is None or not end.bases_bytes:
            return None
        if self._bases is None:
            # Kept here, too, since every chunk asks. Two threads may read it at once.
            self._bases = self._cached("bases", end.bases_bytes, lambda: self._parse_bases(end))
        return self._bases

    def base_of(self, number: int) -> tuple[Locator, int] | None:
        """Return the payload and the number there of the record that record `number` needs as its base; None if none.

        Raises:
            DataCorruptError: the base section is damaged.
        """
        bases = self.read_bases()
        if bases is None:
            return None
        payload, record = bases.place(number)
        return None if payload == 0 else (bases.payloads[payload - 1], record)

    def read_details(self) -> ChunkDetails | None:
        """Return the details of the payload's records; None: it is of format 1.

        Raises:
            DataCorruptError: they are damaged.
        """
        end = self.index.end
        if end is None:
            return None
        stored = self._read_section("the chunk details", 0, end.details_bytes, end.details_crc32c)
        try:
            return ChunkDetails.parse(stored, end.records)
        except (ValueError, LookupError, TypeError) as error:
            raise damage(self._tensor, f"the chunk details are damaged: {error}") from error

    def _read_index(self) -> PayloadIndex:
        locator = self.locator
        if locator.index_length > locator.length:
            raise damage(self._tensor, f"chunk index is {locator.index_length} bytes, the payload {locator.length}")
        index = self._read_section("the chunk index", -locator.index_length, locator.index_length, locator.index_crc32c)
        if locator.index_length % ENTRY_BYTES == 0:
            self._require_records(locator.index_length // ENTRY_BYTES)
            return PayloadIndex(RecordPlaces(index), None)
        try:
            end = IndexEnd.parse(index)
        except ValueError as error:
            raise damage(self._tensor, str(error)) from error
        if not end.table_bytes:
            self._require_records(end.records)
        return PayloadIndex(RecordPlaces(index[: -end.nbytes]), end)

    def _parse_table(self, end: IndexEnd) -> ChunkTable:
        stored = self._read_section("the chunk table", end.details_bytes, end.table_bytes, end.table_crc32c)
        try:
            return ChunkTable.parse(stored)
        except ValueError as error:
            raise damage(self._tensor, str(error)) from error

    def _parse_bases(self, end: IndexEnd) -> ChunkTable:
        before_index = end.details_bytes + end.table_bytes
        stored = self._read_section("the base section", before_index, end.bases_bytes, end.bases_crc32c)
        try:
            bases = ChunkTable.parse(stored)
        except ValueError as error:
            raise damage(self._tensor, f"the base section is damaged: {error}") from error
        if bases.chunk_count != end.records:
            raise damage(self._tensor, f"the base section has {bases.chunk_count} records, expected {end.records}")
        return bases

    def _cached(self, what: str, size: int, load: Callable[[], T]) -> T:
        """Return a part of the payload from the cache, or load it."""
        if self._cache is None:
            return load()
        locator = self.locator
        key = (what, locator.key, locator.offset, locator.length, locator.index_length, locator.index_crc32c)
        return self._cache.get(key, size, load)

    def _require_records(self, found: int) -> None:
        """Check the number of records, if the payload is the tensor's own and has all of them."""
        expected = -(-self._tensor.spec.canonical_bytes // self._tensor.chunk_bytes)
        if self.locator is self._tensor.locator and found != expected:
            raise damage(self._tensor, f"the chunk index has {found} chunks, expected {expected}")

    def _read_section(self, what: str, before_index: int, length: int, expected_crc32c: int) -> bytes:
        """Return bytes that end `before_index` bytes before the index starts, after checking their CRC32C."""
        locator = self.locator
        begin = locator.offset + locator.length - locator.index_length - before_index - length
        section = self._read(begin, length, what=what) if begin >= locator.offset else b""
        found = crc32c(section)
        if found != expected_crc32c or len(section) != length:
            raise damage(self._tensor, f"CRC32C of {what} is {found:#010x}, expected {expected_crc32c:#010x}")
        return section

    def _read(self, offset: int, length: int, *, what: str, **facts: object) -> bytes:
        try:
            return self._reader.read(offset, length)
        except PayloadMissingError as error:
            raise damage(self._tensor, f"payload is too short for {what}: {error}", **facts) from error
        except PayloadUnreadableError as error:
            raise damage(self._tensor, f"the disk cannot read {what}: {error}", **facts) from error


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
