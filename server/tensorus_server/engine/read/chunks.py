"""The chunks of a tensor, in one payload or in several.

A tensor that was never changed has one payload. The chunk table of a changed one names others, which are opened when a chunk in
them is read. At most `_OPEN_MAX` of them are open at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.engine.read.payload import Payload, damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_server.chunk_details import ChunkDetails
    from tensorus_server.chunk_index import IndexCache
    from tensorus_server.chunk_store.abc import ChunkReader
    from tensorus_server.chunk_table import ChunkTable
    from tensorus_server.model import Locator, Tensor

__all__ = ["TensorChunks"]

_OPEN_MAX = 16
"""Other payloads of one tensor that are open at once, apart from those that a read is using."""


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
        table = self.table
        return self.own.locator.key if table is None or payload == 0 else table.payloads[payload - 1].key

    @contextmanager
    def _payload_of(self, chunk: int) -> Iterator[tuple[Payload, int]]:
        """Lend the payload that has a chunk's record, with the record's number there."""
        payload, number = self.place(chunk)
        if payload == 0:
            yield self.own, number
            return
        with self._others.used(payload) as other:
            yield other, number

    def read_details(self, payload: int) -> ChunkDetails | None:
        """Return the details of all records of one payload; None: it is of format 1.

        Args:
            payload: 0: the tensor's own; k: the k-th other payload of the chunk table.
        """
        if payload == 0:
            return self.own.read_details()
        with self._others.used(payload) as other:
            return other.read_details()

    def record_bytes(self, payload: int) -> list[int]:
        """Return the lengths of all records of one payload. Argument as of `read_details`."""
        if payload == 0:
            return self.own.index.places.lengths
        with self._others.used(payload) as other:
            return other.index.places.lengths

    def close(self) -> None:
        """Close the other payloads. Idempotent."""
        self._others.close()

    def _open_other(self, number: int) -> tuple[Payload, ChunkReader]:
        table = self.table
        assert table is not None
        locator: Locator = table.payloads[number - 1]
        reader = self._open_payload(locator.key)
        try:
            payload = Payload(self._tensor, reader, self._cache, locator)
            if self._cache is None:
                # An earlier generation's table is not needed, but whoever reads without a cache verifies what is stored.
                payload.read_table()
        except BaseException:
            reader.close()
            raise
        return payload, reader


class _OpenPayloads:
    """Opens payloads by number, and closes the least recently used ones that nobody is using. Thread-safe."""

    def __init__(self, open_payload: Callable[[int], tuple[Payload, ChunkReader]]) -> None:
        self._open_payload = open_payload
        self._lock = threading.Lock()
        self._open: OrderedDict[int, tuple[Payload, ChunkReader]] = OrderedDict()
        self._users: dict[int, int] = {}

    @contextmanager
    def used(self, number: int) -> Iterator[Payload]:
        """Lend a payload, which stays open meanwhile."""
        with self._lock:
            if number not in self._open:
                self._open[number] = self._open_payload(number)
            self._open.move_to_end(number)
            self._users[number] = self._users.get(number, 0) + 1
            payload, _ = self._open[number]
        try:
            yield payload
        finally:
            with self._lock:
                self._users[number] -= 1
                self._close_unused(_OPEN_MAX)

    def close(self) -> None:
        """Close all payloads."""
        with self._lock:
            self._users.clear()
            self._close_unused(0)

    def _close_unused(self, kept: int) -> None:
        excess = len(self._open) - kept
        if excess <= 0:
            return
        for number in [number for number in self._open if not self._users.get(number)][:excess]:
            _, reader = self._open.pop(number)
            reader.close()
