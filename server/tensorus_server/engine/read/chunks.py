"""The chunks of a tensor, in one payload or in several.

A tensor that was never changed has one payload. The chunk table of a changed one names others, which are opened when a chunk in
them is read. So are the payloads with the bases of chunks that are stored as differences. At most `_OPEN_MAX` of all these are
open at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from tensorus_codecs.base import Base, base_digest
from tensorus_codecs.checksum import chunk_seed
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import decode_record
from tensorus_server.engine.read.payload import Payload, damage
from tensorus_server.errors import DataCorruptError, StoreUnavailableError, TensorNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_server.chunk_details import ChunkDetails
    from tensorus_server.chunk_index import IndexCache
    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.chunk_table import ChunkTable
    from tensorus_server.model import Locator, Tensor

__all__ = ["RecordPlace", "TensorChunks"]

_OPEN_MAX = 16
"""Other payloads of one tensor that are open at once, apart from those that a read is using."""


@dataclass(frozen=True)
class RecordPlace:
    """Where a chunk's record is."""

    key: str
    """Of its payload in the chunk store."""
    offset: int
    """In the payload's container."""
    length: int
    crc32c: int
    """Of the record, without a seed."""


class TensorChunks:
    """Reads and verifies the chunk records of a tensor. Thread-safe. Close it after the last read."""

    def __init__(
        self,
        tensor: Tensor,
        own: ChunkReader,
        open_payload: Callable[[str], ChunkReader],
        cache: IndexCache | None = None,
    ) -> None:
        """Read the index and the chunk table of the tensor's own payload.

        Args:
            own: an open reader of the tensor's own payload, which the caller closes.
            open_payload: opens another payload by its key; raises `TensorNotFoundError` if the tensor was deleted,
                `DataCorruptError` if the payload is missing, `StoreUnavailableError` if it cannot be opened now.
            cache: see `Payload`.

        Raises:
            DataCorruptError: an index or the chunk table is damaged.
        """
        self._tensor = tensor
        self._open_payload = open_payload
        self._cache = cache
        self.own = Payload(tensor, own, cache)
        self._others = _OpenPayloads(self._open_other)
        self.table: ChunkTable | None = self.own.read_table()
        """None: all records are in the tensor's own payload."""
        expected = -(-tensor.spec.canonical_bytes // tensor.chunk_bytes)
        if self.table is not None and self.table.chunk_count != expected:
            raise damage(tensor, f"the chunk table has {self.table.chunk_count} chunks, expected {expected}")

    def read_record(self, chunk: int) -> tuple[bytes, int]:
        """Return the record of chunk number `chunk`, and its CRC32C.

        Raises:
            DataCorruptError: the record is damaged, or its payload is missing.
            TensorNotFoundError, StoreUnavailableError: see `open_payload` of the constructor.
        """
        with self._payload_of(chunk) as (payload, number):
            return payload.read_record(number, chunk)

    @property
    def fetches_ahead(self) -> bool:
        """Whether `announce` does anything."""
        return self.own.fetches_ahead

    def record_bytes_of(self, chunk: int) -> int:
        """Return about how many bytes a chunk's record has: of one in another payload, those of the chunk."""
        payload, number = self.place(chunk)
        return self._tensor.chunk_bytes if payload else self.own.record_bytes(number)

    def announce(self, chunks: Sequence[int]) -> None:
        """Say which records `read_record` will be asked for soon, in this order. Errors are left to it."""
        for payload, places in groupby(map(self.place, chunks), key=itemgetter(0)):
            numbers = [number for _, number in places]
            if payload == 0:
                self.own.announce(numbers)
                continue
            # Opening it takes a request, which the first of these chunks would make anyway.
            with suppress(DataCorruptError, StoreUnavailableError, TensorNotFoundError), self._other(payload) as other:
                other.announce(numbers)

    def decode(self, chunk: int, record: ChunkRecord) -> memoryview:
        """Return the canonical bytes of a chunk.

        Args:
            record: the chunk's record.

        Raises:
            DataCorruptError: the record does not decode, or a base that it needs is damaged or missing.
            UnsupportedCodecError: a codec is not installed.
            TensorNotFoundError, StoreUnavailableError: see `open_payload` of the constructor.
        """
        try:
            return decode_record(record, base=self._base_of(chunk, record) if record.filter else None)
        except UnsupportedCodecError:
            raise
        except CorruptChunkError as error:
            raise damage(self._tensor, f"chunk {chunk}: {error}", chunk=chunk) from error

    def _base_of(self, chunk: int, record: ChunkRecord) -> Base | None:
        """Return the base that a chunk's record needs; None if it needs none. Errors as of `decode`."""
        if base_digest(record) is None:
            return None
        with self._payload_of(chunk) as (payload, number):
            return self._read_base(payload, number, chunk)

    def _read_base(self, payload: Payload, number: int, chunk: int) -> Base:
        """Return the base of a record of a payload. It may have a base itself, in another payload."""
        place = payload.base_of(number)
        if place is None:
            raise damage(self._tensor, f"chunk {chunk} needs a base, and its payload names none", chunk=chunk)
        locator, base_number = place
        try:
            with self._others.used(locator) as other:
                # Also bounds the recursion, whatever the payloads say.
                if other.depth >= payload.depth:
                    raise damage(
                        self._tensor,
                        f"the base of chunk {chunk} has the depth {other.depth}, must be below {payload.depth}",
                        chunk=chunk,
                    )
                record = parse_record(other.read_record(base_number, chunk, is_base=True)[0])
                base = None if base_digest(record) is None else self._read_base(other, base_number, chunk)
                return Base(decode_record(record, base=base), self._tensor.spec.dtype)
        except UnsupportedCodecError:
            raise
        except (CorruptChunkError, IndexError) as error:
            raise damage(
                self._tensor,
                f"the base of chunk {chunk}, record {base_number} of payload {locator.key}: {error}",
                chunk=chunk,
                base=locator.key,
            ) from error
        except (DataCorruptError, StoreUnavailableError) as error:
            # Of a base that has a base itself, the error names the payload that is damaged.
            error.facts.setdefault("base", locator.key)
            raise

    def read_coarse(self, chunk: int) -> ChunkRecord | None:
        """Return the record of a chunk's coarse form; None if it has none. Errors as of `read_record`."""
        with self._payload_of(chunk) as (payload, number):
            return payload.read_coarse(number, chunk)

    def place(self, chunk: int) -> tuple[int, int]:
        """Return the number of the payload that has a chunk's record, and the record's number there.

        The tensor's own payload has the number 0, and the k-th other payload of the chunk table has the number k.
        """
        table = self.table
        return (0, chunk) if table is None else table.place(chunk)

    def key(self, payload: int) -> str:
        """Return the key of a payload in the chunk store. Argument as of `read_details`."""
        return self.locator(payload).key

    def locator(self, payload: int) -> Locator:
        """Return the place of a payload. Argument as of `read_details`."""
        table = self.table
        return self.own.locator if table is None or payload == 0 else table.payloads[payload - 1]

    @contextmanager
    def _payload_of(self, chunk: int) -> Iterator[tuple[Payload, int]]:
        """Lend the payload that has a chunk's record, with the record's number there."""
        payload, number = self.place(chunk)
        if payload == 0:
            yield self.own, number
            return
        with self._other(payload) as other:
            yield other, number

    def _other(self, payload: int) -> AbstractContextManager[Payload]:
        """Lend another payload of the chunk table, by its number there, from 1."""
        assert self.table is not None
        return self._others.used(self.table.payloads[payload - 1])

    def read_details(self, payload: int) -> ChunkDetails | None:
        """Return the details of all records of one payload; None: it is of format 1.

        Args:
            payload: 0: the tensor's own; k: the k-th other payload of the chunk table.
        """
        if payload == 0:
            return self.own.read_details()
        with self._other(payload) as other:
            return other.read_details()

    def record_bytes(self, payload: int) -> list[int]:
        """Return the lengths of all records of one payload. Argument as of `read_details`."""
        if payload == 0:
            return self.own.index.places.lengths
        with self._other(payload) as other:
            return other.index.places.lengths

    def depth(self, payload: int) -> int:
        """Return the depth of one payload: see `Payload.depth`. Argument as of `read_details`."""
        if payload == 0:
            return self.own.depth
        with self._other(payload) as other:
            return other.depth

    def record_place(self, chunk: int) -> RecordPlace | None:
        """Return where a chunk's record is; None if it is stored as differences to a base.

        Raises:
            DataCorruptError: the index of its payload is damaged, or the payload is missing.
            TensorNotFoundError, StoreUnavailableError: see `open_payload` of the constructor.
        """
        with self._payload_of(chunk) as (payload, number):
            if payload.depth and payload.base_of(number) is not None:
                return None
            locator = payload.locator
            begin, length, seeded_crc32c = payload.index.places.place(number)
            record_crc32c = seeded_crc32c ^ chunk_seed(locator.payload_key, number)
            return RecordPlace(locator.key, locator.offset + begin, length, record_crc32c)

    def base_of(self, chunk: int) -> tuple[Locator, int] | None:
        """Return the payload and the number there of the record that a chunk's record needs as its base; None if none."""
        with self._payload_of(chunk) as (payload, number):
            return payload.base_of(number)

    def close(self) -> None:
        """Close the other payloads. Idempotent."""
        self._others.close()

    def _open_other(self, locator: Locator) -> tuple[Payload, ChunkReader]:
        reader = self._open_payload(locator.key)
        try:
            payload = Payload(self._tensor, reader, self._cache, locator)
            if self._cache is None:
                # An earlier generation's table is not needed, but whoever reads without a cache verifies what is stored.
                payload.read_table()
                payload.read_bases()
        except BaseException:
            reader.close()
            raise
        return payload, reader


class _OpenPayloads:
    """Opens payloads, and closes the least recently used ones that nobody is using. Thread-safe."""

    def __init__(self, open_payload: Callable[[Locator], tuple[Payload, ChunkReader]]) -> None:
        self._open_payload = open_payload
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[Payload, ChunkReader]] = OrderedDict()
        self._users: dict[str, int] = {}
        self._closed = False

    @contextmanager
    def used(self, locator: Locator) -> Iterator[Payload]:
        """Lend a payload, which stays open meanwhile."""
        key = locator.key
        with self._lock:
            if key not in self._open:
                self._open[key] = self._open_payload(locator)
            self._open.move_to_end(key)
            self._users[key] = self._users.get(key, 0) + 1
            payload, _ = self._open[key]
        try:
            yield payload
        finally:
            with self._lock:
                self._users[key] -= 1
                self._close_unused(0 if self._closed else _OPEN_MAX)

    def close(self) -> None:
        """Close all payloads; those that a thread is using, or still opens, when it is done."""
        with self._lock:
            self._closed = True
            self._close_unused(0)

    def _close_unused(self, kept: int) -> None:
        excess = len(self._open) - kept
        if excess <= 0:
            return
        for key in [key for key in self._open if not self._users.get(key)][:excess]:
            _, reader = self._open.pop(key)
            reader.close()
