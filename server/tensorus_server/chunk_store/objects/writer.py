"""Writes one payload: small ones go to the packer, larger ones into segments of their own.

A segment is an object, stored by a plain PUT on another thread, at most two at a time. It is complete when what comes next
would make it larger than 9/8 of `SEGMENT_OBJECT_BYTES`, when the payload is kept, or when it ends. So a payload that is being
written takes up to three segments of memory; if all payloads together take more than their budget, each completes its segment
earlier, and waits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tensorus_server.background import result_of
from tensorus_server.chunk_store.abc import ChunkWriter, StagedPayload
from tensorus_server.chunk_store.objects.names import Segment
from tensorus_server.chunk_store.objects.segments import pack_directory
from tensorus_server.errors import EngineError
from tensorus_server.payload_keys import SegmentedKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_server.background import WorkerPool
    from tensorus_server.chunk_store.abc import WriteLog
    from tensorus_server.chunk_store.objects.byte_budget import ByteBudget
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.chunk_store.objects.discarded import Discarded
    from tensorus_server.chunk_store.objects.leases import LogLeases
    from tensorus_server.chunk_store.objects.packer import Packer

__all__ = ["Continued", "SegmentWriter", "WriterParts"]

_IN_FLIGHT_MAX = 2
"""Segments of one payload that are on their way at the same time: one is sent while the other waits for its answer."""

_EARLY_BYTES_MIN = 1024 * 1024
"""A segment is not completed early, for lack of memory, before it has so many bytes."""

_log = logging.getLogger(__name__)


@dataclass
class WriterParts:
    """What all writers of a store share."""

    client: ObjectClient
    writes: WriteLog
    leases: LogLeases
    discarded: Discarded
    packer: Packer
    pool: WorkerPool
    """Its threads store segments."""
    budget: ByteBudget
    """Of the bytes of segments that are in memory."""
    segment_bytes: int
    packed_bytes_max: int
    staged: dict[str, SegmentedKey] = field(default_factory=dict)
    """Finished payloads in segments that are not published yet, by payload key."""
    unkept: set[str] = field(default_factory=set)
    """Payload keys of which segments are stored that no keep has asked for."""


@dataclass(frozen=True)
class Continued:
    """Where a writer goes on."""

    generation: int
    segments: list[Segment]
    length: int
    """Of the segments, in bytes."""


class SegmentWriter(ChunkWriter):
    """See the module's description."""

    def __init__(self, parts: WriterParts, payload_key: str, continued: Continued | None = None) -> None:
        """Start a payload, or go on with a kept one, whose lease is held."""
        self._parts = parts
        self._payload_key = payload_key
        self._generation = 1 if continued is None else continued.generation
        self._segments = [] if continued is None else continued.segments
        self._kept = continued is not None
        # Where the segment that grows starts.
        self._offset = 0 if continued is None else continued.length
        self._buffer = bytearray()
        self._on_their_way: deque[Future[None]] = deque()
        self._ended = False

    def append(self, buffers: Sequence[Buffer]) -> None:
        """See `ChunkWriter`."""
        with self._ended_on_error():
            pieces = [piece for buffer in buffers for piece in _pieces(buffer, self._parts.segment_bytes)]
            size = sum(piece.nbytes for piece in pieces)
            # What is appended together is read together, so it is in one object, if it can be: a record with its header.
            if size <= self._parts.segment_bytes:
                self._complete_before(size)
            for piece in pieces:
                self._complete_before(piece.nbytes)
                self._buffer += piece
                self._parts.budget.take(piece.nbytes)
                if self._parts.budget.is_exhausted and len(self._buffer) >= _EARLY_BYTES_MIN:
                    self._complete()
                    self._wait_for(0)

    def keep(self) -> Future[None]:
        """See `ChunkWriter`."""
        with self._ended_on_error():
            if not self._kept:
                self._parts.leases.hold(self._payload_key)
                self._kept = True
            if self._buffer or not self._segments:
                self._complete()
            self._parts.unkept.discard(self._payload_key)
            return _all_done(list(self._on_their_way))

    def finish(self) -> StagedPayload:
        """See `ChunkWriter`."""
        with self._ended_on_error():
            length = self._offset + len(self._buffer)
            if not self._segments and not self._kept and length <= self._parts.packed_bytes_max:
                self._ended = True
                payload = bytes(self._buffer)
                self._release_buffer()
                self._parts.packer.add(self._payload_key, payload)
                return StagedPayload(self._payload_key, length)
            end = Segment(self._payload_key, self._generation, self._offset, is_end=True)
            if self._segments:
                directory = pack_directory([*self._segments, end], length)
                self._buffer += directory
                self._parts.budget.take(len(directory))
            size = len(self._buffer)
            self._complete(end)
            self._wait_for(0)
            self._ended = True
        self._parts.staged[self._payload_key] = SegmentedKey(self._generation, end.offset, size, self._payload_key)
        self._parts.unkept.discard(self._payload_key)
        return StagedPayload(self._payload_key, length, self._kept)

    def park(self) -> None:
        """See `ChunkWriter`."""
        if not self._kept:
            self.drop()
        elif self._end():
            self._parts.leases.park(self._payload_key)

    def drop(self) -> None:
        """See `ChunkWriter`."""
        if not self._end():
            return
        if self._segments:
            self._parts.discarded.discard(self._payload_key, list(self._on_their_way))
        self._parts.unkept.discard(self._payload_key)
        if self._kept:
            self._parts.leases.unhold(self._payload_key)

    def _complete_before(self, size: int) -> None:
        """Complete the segment that grows if `size` more bytes would make it too large."""
        # Lazily, so that a chunk index that comes last usually needs no object of its own.
        if self._buffer and len(self._buffer) + size > self._parts.segment_bytes * 9 // 8:
            self._complete()

    def _complete(self, segment: Segment | None = None) -> None:
        """Start to store the segment that grows, and start another one."""
        self._wait_for(_IN_FLIGHT_MAX - 1)
        if segment is None:
            segment = Segment(self._payload_key, self._generation, self._offset)
        if not self._segments:
            self._parts.writes.begin([self._payload_key])
            self._parts.unkept.add(self._payload_key)
        # From here on there may be an object.
        self._segments.append(segment)
        data, self._buffer = self._buffer, bytearray()
        self._offset += len(data)
        budget, size = self._parts.budget, len(data)
        try:
            # What was dropped is deleted as soon as an attempt that was under way must have ended: no other may follow.
            future = self._parts.pool.submit(
                self._parts.client.put, segment.name, data, is_wanted=lambda: not self._ended
            )
        except BaseException:
            budget.give(size)
            raise
        future.add_done_callback(lambda _: budget.give(size))
        self._on_their_way.append(future)

    def _wait_for(self, left: int) -> None:
        """Wait until at most `left` segments are on their way; raise the error of one that failed."""
        while len(self._on_their_way) > left:
            result_of(self._on_their_way[0], "a segment")
            self._on_their_way.popleft()

    def _end(self) -> bool:
        """Take no more bytes; return whether it did before."""
        ended, self._ended = self._ended, True
        if not ended:
            self._release_buffer()
            for future in self._on_their_way:
                future.cancel()
        return not ended

    def _release_buffer(self) -> None:
        self._parts.budget.give(len(self._buffer))
        self._buffer = bytearray()

    @contextmanager
    def _ended_on_error(self) -> Iterator[None]:
        """End the write after an error. What was kept stays, so that it can be resumed when the store is back."""
        if self._ended:
            raise ValueError("the payload is finished, parked or dropped")
        try:
            yield
        except BaseException:
            try:
                self.park()
            except EngineError:
                _log.warning("payload %s could not be parked", self._payload_key, exc_info=True)
            raise


def _pieces(buffer: Buffer, size: int) -> Iterator[memoryview]:
    """Yield the bytes of a buffer, in pieces of at most `size`."""
    whole = memoryview(buffer)
    if whole.nbytes == 0:
        return
    # NumPy takes buffers of every format and shape, and `memoryview.cast` does not.
    view = memoryview(np.asarray(whole).reshape(-1).view(np.uint8)) if whole.ndim != 1 or whole.itemsize != 1 else whole
    for start in range(0, view.nbytes, size):
        yield view[start : start + size]


def _all_done(futures: list[Future[None]]) -> Future[None]:
    """Return a future that is done when all others are, with the error of one that failed."""
    done: Future[None] = Future()
    lock = threading.Lock()
    left = len(futures)
    if not left:
        done.set_result(None)

    def count(future: Future[None]) -> None:
        nonlocal left
        error = future.exception() if not future.cancelled() else EngineError("the write was ended")
        with lock:
            left -= 1
            last = left == 0
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        elif last:
            done.set_result(None)

    for future in futures:
        future.add_done_callback(count)
    return done
