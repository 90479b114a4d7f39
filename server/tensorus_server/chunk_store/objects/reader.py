"""Reads a payload with ranged GETs, some of them ahead.

A payload is a sequence of spans of objects: one for a payload in a pack or in a single segment, several for others. What a
payload's opening has fetched is kept, since the chunk index is in it. `prefetch` starts GETs on threads of their own: announced
ranges that follow each other are merged, up to 4.5 MiB, so that each pays for its round trip. What was fetched is kept until it
was read, or the reader is closed. All readers together keep no more than their budget; beyond it, `prefetch` does nothing, and
`read` makes the GET itself.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from tensorus_server.background import result_of
from tensorus_server.chunk_store.abc import ChunkReader, PayloadMissingError, PayloadUnreadableError
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.limits import SEGMENT_OBJECT_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.background import WorkerPool
    from tensorus_server.chunk_store.objects.byte_budget import ByteBudget
    from tensorus_server.chunk_store.objects.client import ObjectClient

__all__ = ["ObjectReader", "ReaderParts", "Span", "UnreadableReader"]

_FETCH_BYTES_MAX = SEGMENT_OBJECT_BYTES * 9 // 16
"""Up to this size, half of a segment, ranges that follow each other are fetched together: a GET then takes as long to transfer,
at 80 MB/s, as to be answered."""

_GAP_BYTES_MAX = 64 * 1024
"""Unneeded bytes between two ranges up to which they are fetched together."""


@dataclass(frozen=True)
class ReaderParts:
    """What all readers of a store share."""

    client: ObjectClient
    pool: WorkerPool
    """Its threads fetch ahead."""
    budget: ByteBudget
    """Of the bytes that were fetched and not read."""


@dataclass(frozen=True)
class Span:
    """A part of a payload that lies in one object."""

    start: int
    """Of its first byte in the payload."""
    length: int
    """In bytes."""
    name: str
    """Of the object."""
    offset: int = 0
    """Of the first byte in the object."""

    @property
    def end(self) -> int:
        """Of the span in the payload, exclusive."""
        return self.start + self.length


@dataclass
class _Fetch:
    """A range that was requested ahead, within one span."""

    start: int
    end: int
    unread_bytes: int
    """How many announced bytes were not read yet."""
    future: Future[memoryview] = field(default_factory=Future)


class ObjectReader(ChunkReader):
    """An open payload."""

    fetches_ahead: ClassVar[bool] = True

    def __init__(
        self, parts: ReaderParts, key: str, spans: Sequence[Span], held: tuple[int, memoryview] | None = None
    ) -> None:
        """Read the payload that `spans` make up.

        Args:
            parts: what all readers share.
            key: of the payload, for messages.
            spans: in order, without gaps.
            held: bytes of it that are there already, and where they start.
        """
        self._parts = parts
        self._key = key
        self._spans = spans
        self._length = spans[-1].end if spans else 0
        self._held_start, self._held = held or (0, memoryview(b""))
        self._lock = threading.Lock()
        self._fetches: list[_Fetch] = []
        self._closed = False
        parts.budget.take(self._held.nbytes)

    @property
    def length(self) -> int:
        """See `ChunkReader`."""
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        """See `ChunkReader`."""
        if self._closed:
            raise ValueError("the payload is closed")
        if offset + length > self._length:
            raise self._too_short(self._length, offset + length)
        held_end = self._held_start + self._held.nbytes
        if self._held_start <= offset and offset + length <= held_end:
            return bytes(self._held[offset - self._held_start : offset - self._held_start + length])
        pieces = [self._read_piece(*piece) for piece in self._pieces(offset, length)]
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """See `ChunkReader`."""
        wanted = [piece for offset, length in ranges for piece in self._wanted(offset, length)]
        merged: list[tuple[Span, _Fetch]] = []
        for span, start, end in wanted:
            if merged:
                last_span, last = merged[-1]
                is_near = last.end <= start <= last.end + _GAP_BYTES_MAX
                if span is last_span and is_near and end - last.start <= _FETCH_BYTES_MAX:
                    last.end = end
                    last.unread_bytes += end - start
                    continue
            merged.append((span, _Fetch(start, end, end - start)))
        for span, fetch in merged:
            if not self._start(span, fetch):
                return

    def close(self) -> None:
        """See `ChunkReader`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            fetches, self._fetches = self._fetches, []
        for fetch in fetches:
            self._give_back(fetch)
        self._parts.budget.give(self._held.nbytes)
        self._held = memoryview(b"")

    def _pieces(self, offset: int, length: int) -> list[tuple[Span, int, int]]:
        """Divide a range at the spans' borders: spans with starts and ends in the payload."""
        end = offset + length
        return [
            (span, max(offset, span.start), min(end, span.end))
            for span in self._spans_from(offset)
            if span.start < end and span.end > offset
        ]

    def _spans_from(self, offset: int) -> Sequence[Span]:
        """Return the spans from the one that has `offset` on."""
        low, high = 0, len(self._spans)
        while low < high:
            middle = (low + high) // 2
            if self._spans[middle].end <= offset:
                low = middle + 1
            else:
                high = middle
        # A range has few spans, and a payload may have many.
        return self._spans[low : low + _SPANS_OF_A_RANGE]

    def _read_piece(self, span: Span, start: int, end: int) -> memoryview:
        with self._lock:
            fetch = next((one for one in self._fetches if one.start <= start and end <= one.end), None)
        if fetch is None:
            return self._get(span, start, end)
        try:
            fetched = result_of(fetch.future, "a range of a payload")
        except StoreUnavailableError:
            self._forget(fetch)
            raise
        piece = fetched[start - fetch.start : end - fetch.start]
        with self._lock:
            fetch.unread_bytes -= end - start
            is_read = fetch.unread_bytes <= 0
        if is_read:
            self._forget(fetch)
        return piece

    def _get(self, span: Span, start: int, end: int) -> memoryview:
        data = self._parts.client.get(span.name, span.offset + start - span.start, end - start)
        if data.nbytes != end - start:
            raise self._too_short(start + data.nbytes, end)
        return data

    def _wanted(self, offset: int, length: int) -> list[tuple[Span, int, int]]:
        """Return the parts of a range that are neither held nor on their way."""
        if length <= 0 or offset + length > self._length or self._closed:
            return []
        if self._held_start <= offset and offset + length <= self._held_start + self._held.nbytes:
            return []
        with self._lock:
            return [
                (span, start, end)
                for span, start, end in self._pieces(offset, length)
                if not any(one.start <= start and end <= one.end for one in self._fetches)
            ]

    def _start(self, span: Span, fetch: _Fetch) -> bool:
        """Start to fetch, if there is memory for it; return whether it did."""
        size = fetch.end - fetch.start
        if not self._parts.budget.try_take(size):
            return False
        with self._lock:
            if not self._closed:
                try:
                    fetch.future = self._parts.pool.submit(self._get, span, fetch.start, fetch.end)
                except StoreUnavailableError:
                    # `read` will say so.
                    pass
                else:
                    self._fetches.append(fetch)
                    return True
        self._parts.budget.give(size)
        return False

    def _forget(self, fetch: _Fetch) -> None:
        with self._lock:
            if fetch not in self._fetches:
                return
            self._fetches.remove(fetch)
        self._give_back(fetch)

    def _give_back(self, fetch: _Fetch) -> None:
        """Give a fetch's memory back to the budget: only when its GET has ended, since it holds the memory until then."""
        budget, size = self._parts.budget, fetch.end - fetch.start
        fetch.future.cancel()
        fetch.future.add_done_callback(lambda _: budget.give(size))

    def _too_short(self, found: int, needed: int) -> PayloadMissingError:
        return PayloadMissingError(f"payload {self._key} has {found} bytes, {needed} are needed")


_SPANS_OF_A_RANGE = 1024
"""More spans than any range has: those of 8 GiB, or of a chunk record of 1 MiB in objects of 1 KiB."""


class UnreadableReader(ChunkReader):
    """A payload whose segment directory is damaged, so that nothing in it can be found."""

    def __init__(self, message: str) -> None:
        """Raise `message` at every read."""
        self._message = message

    @property
    def length(self) -> int:
        """Raise `PayloadUnreadableError`."""
        raise PayloadUnreadableError(self._message)

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002 - nothing can be read
        """Raise `PayloadUnreadableError`."""
        raise PayloadUnreadableError(self._message)

    def close(self) -> None:
        """See `ChunkReader`."""
