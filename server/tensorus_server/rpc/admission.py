"""Admission control: limits concurrent streams and their memory, and ends streams whose clients stall.

Short calls are always admitted. The number of streams is limited, since each occupies a thread while it is open. While they
work, streams reserve memory from a server-wide budget; when it is exhausted, they queue in arrival order. A server that drains
admits no new calls.

A stream is silent while it waits for its client: for the next request, or until the client reads an answer. It is not silent
while the client waits for the server. A silent stream yields to others in steps:

    after 0.25 s   an Insert returns its memory, if another stream waits for memory; it reserves it again at its next message
    after 3 s      the stream is ended, if a new stream finds all places taken, or one waits for memory that only it holds
    after 60 s     the stream is ended (`stall_timeout_s`)

The stream that has been silent for longest goes first. Whatever an Insert made durable is kept, and it can be resumed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tensorus_server.errors import DrainingError, StreamStalledError, TooManyStreamsError
from tensorus_server.meters import Timings
from tensorus_server.rpc.arrivals import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.meters import Trace

__all__ = ["Admission", "AdmissionLimits", "Occupancy", "Place"]

_RETRY_AFTER_S = 1.0
"""When clients are told to retry if all places are taken, or no memory is free."""

_LOOK_S = 0.2
"""How often a stream that waits for memory checks whether its caller is still there, and whether a silent stream can yield."""

_PAUSE_S = 0.25
"""After this, a silent Insert returns its memory: by then, its last chunks are encoded."""

_GIVE_WAY_S = 3.0
"""After this, a silent stream yields its place to another: longer than most networks need to recover a lost packet."""

_WATCH_S = 1.0
"""Longest interval between checks for stalled streams."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdmissionLimits:
    """The limits, with the same names as in `ServerConfig`."""

    streams_max: int
    memory_budget_bytes: int
    memory_wait_s: float = 10.0
    stall_timeout_s: float = 60.0


@dataclass(frozen=True)
class Occupancy:
    """What streams take of a server now."""

    streams: int
    memory_used_bytes: int
    waiting: int
    """Streams that wait for memory."""


class Admission:
    """See the module's description. Thread-safe."""

    def __init__(self, limits: AdmissionLimits) -> None:
        """Start without calls."""
        self.limits = limits
        self.arrivals = Arrivals()
        """Calls whose request has not arrived."""
        self.memory_waits = Timings()
        """How long streams waited for memory that they then got."""
        self._changed = threading.Condition()
        self._places: set[Place] = set()
        self._leaving: set[Place] = set()
        """Places of streams that were told to end and have not ended yet."""
        self._calls = 0
        self._borrowed_bytes = 0
        self._waiting: deque[Place] = deque()
        self._drained_s: float | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def short_call(self) -> Iterator[None]:
        """Admit a short call for the duration of the block.

        Raises:
            DrainingError: the server is about to stop.
        """
        with self._changed:
            self._require_open()
            self._calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._calls -= 1
                self._changed.notify_all()

    @contextmanager
    def stream(
        self, end: Callable[[StreamStalledError], None], *, is_active: Callable[[], bool] = lambda: True
    ) -> Iterator[Place]:
        """Admit a stream for the duration of the block, and yield its place.

        Args:
            end: ends the stream because it stalled; called on another thread, must not block or raise.
            is_active: returns whether the caller is still there.

        Raises:
            DrainingError: the server is about to stop.
            TooManyStreamsError: all places are taken, and no stream has been silent for long enough to yield.
        """
        place = Place(self, end, is_active)
        with self._changed:
            self._require_open()
            if len(self._places) >= self.limits.streams_max and not self._dismiss_one():
                raise TooManyStreamsError(
                    f"{len(self._places)} streams are open, limit is {self.limits.streams_max} (streams_max)",
                    limit=self.limits.streams_max,
                    retry_after_s=_RETRY_AFTER_S,
                )
            self._calls += 1
            self._places.add(place)
        try:
            yield place
        finally:
            with self._changed:
                self._calls -= 1
                self._take_back(place)
                self._places.discard(place)
                self._leaving.discard(place)
                self._changed.notify_all()

    def occupancy(self) -> Occupancy:
        """Return what streams take now."""
        with self._changed:
            return Occupancy(len(self._places), self._borrowed_bytes, len(self._waiting))

    @property
    def draining_s(self) -> float | None:
        """Seconds that calls have left before the server stops; None while it does not drain."""
        drained_s = self._drained_s
        return None if drained_s is None else max(drained_s - time.monotonic(), 0.0)

    def drain(self, grace_s: float) -> bool:
        """Admit no more calls, wait up to `grace_s` for the open ones, and return whether all have ended."""
        with self._changed:
            self._drained_s = time.monotonic() + grace_s
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._calls == 0, timeout=grace_s)

    def watch(self) -> None:
        """Start a thread that ends stalled streams, and calls whose request does not arrive, until `close`."""
        self._watcher = threading.Thread(target=self._watch, name="tensorus-stalls", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop the thread that `watch` started. Idempotent."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join(_WATCH_S)

    def dismiss_stalled(self) -> None:
        """End every stream that has been silent for `stall_timeout_s`."""
        now_s, limit_s = time.monotonic(), self.limits.stall_timeout_s
        with self._changed:
            for place in list(self._leaving):
                if place.silent_s(now_s) >= limit_s and place.dismissed is not None:
                    # It was told to end while it worked, then blocked while sending: end it once more, now by cancelling.
                    place.end(place.dismissed)
            for place in list(self._places):
                if place.silent_s(now_s) >= limit_s:
                    self._dismiss(place, now_s, f"limit is {limit_s:g} s (stall_timeout_s)")

    def _watch(self) -> None:
        while not self._closed.wait(min(_WATCH_S, self.limits.stall_timeout_s / 4)):
            try:
                self.dismiss_stalled()
                self.arrivals.end_late()
            except Exception:  # noqa: BLE001 - logged with its cause
                # This thread must survive any error, or no stream would be watched any more.
                _log.exception("the check for stalled streams failed")

    def _borrow(self, place: Place, memory_bytes: int) -> None:
        """Reserve memory until the place holds `memory_bytes`; see `Place.borrow`."""
        begun_s = time.monotonic()
        give_up_s = begun_s + self.limits.memory_wait_s
        with self._changed:
            place.require_in()
            more_bytes = memory_bytes - place.borrowed_bytes
            self._waiting.append(place)
            try:
                while self._waiting[0] is not place or not self._has_room(more_bytes):
                    self._require_open()
                    place.require_in()
                    if not place.is_active():
                        raise TooManyStreamsError("the caller has gone while its stream waited for memory")
                    left_s = give_up_s - time.monotonic()
                    if left_s <= 0:
                        raise self._no_memory(memory_bytes)
                    if self._waiting[0] is not place or not self._make_room(more_bytes):
                        self._changed.wait(min(_LOOK_S, left_s))
                self._borrowed_bytes += more_bytes
                place.borrowed_bytes = memory_bytes
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()
        waited_s = time.monotonic() - begun_s
        self.memory_waits.observe(waited_s)
        if place.trace is not None:
            now_ns = time.time_ns()
            place.trace.stage("wait for memory", now_ns - int(1e9 * waited_s), now_ns, {"bytes": memory_bytes})

    def _no_memory(self, memory_bytes: int) -> TooManyStreamsError:
        budget_bytes = self.limits.memory_budget_bytes
        return TooManyStreamsError(
            f"{memory_bytes} bytes of memory did not become free within {self.limits.memory_wait_s:g} s (memory_wait_s): "
            f"{self._borrowed_bytes} of {budget_bytes} bytes are in use (memory_budget_bytes)",
            limit=budget_bytes,
            retry_after_s=_RETRY_AFTER_S,
        )

    def _has_room(self, more_bytes: int) -> bool:
        return self._borrowed_bytes + more_bytes <= self.limits.memory_budget_bytes

    def _make_room(self, more_bytes: int) -> bool:
        """Free memory of silent streams, the longest silent first; return whether any was freed. The lock is held."""
        now_s = time.monotonic()
        lenders = [place for place in self._places if place.gives_back and place.borrowed_bytes]
        lenders = [place for place in lenders if place.silent_s(now_s) >= _PAUSE_S]
        for place in sorted(lenders, key=lambda place: place.silent_s(now_s), reverse=True):
            self._take_back(place)
            if self._has_room(more_bytes):
                return True
        return bool(lenders) or self._dismiss_one(with_memory=True)

    def _dismiss_one(self, *, with_memory: bool = False) -> bool:
        """End the longest silent stream; return False if none has been silent for long enough. The lock is held."""
        now_s = time.monotonic()
        silent = [place for place in self._places if place.borrowed_bytes or not with_memory]
        longest = max(silent, key=lambda place: place.silent_s(now_s), default=None)
        if longest is None or longest.silent_s(now_s) < _GIVE_WAY_S:
            return False
        self._dismiss(longest, now_s, "and another stream needs its place or its memory")
        return True

    def _dismiss(self, place: Place, now_s: float, why: str) -> None:
        """Free the place at once, although its stream takes a moment to end and to release its memory. The lock is held."""
        silent_s = place.silent_s(now_s)
        error = StreamStalledError(f"nothing moved on the stream for {silent_s:.1f} s, {why}")
        self._take_back(place)
        self._places.discard(place)
        self._leaving.add(place)
        place.dismissed = error
        self._changed.notify_all()
        place.end(error)

    def _take_back(self, place: Place) -> None:
        self._borrowed_bytes -= place.borrowed_bytes
        place.borrowed_bytes = 0
        self._changed.notify_all()

    def _require_open(self) -> None:
        if self._drained_s is not None:
            raise DrainingError("the server is about to stop")


class Place:
    """What one admitted stream holds, and since when it has been silent.

    The stream's threads write the fields that tell whose turn it is without a lock. A reader may see an old value; the worst it
    then does is free memory that the next message reserves again.
    """

    def __init__(
        self, admission: Admission, end: Callable[[StreamStalledError], None], is_active: Callable[[], bool]
    ) -> None:
        """See `Admission.stream`."""
        self._admission = admission
        self.end = end
        """Ends the stream. The call may replace it by a function that tells the client more."""
        self.is_active = is_active
        """Returns whether the caller is still there."""
        self.owes: Callable[[], bool] = lambda: False
        """Returns whether the server still works on something that the client may be waiting for."""
        self.gives_back = False
        """Whether the stream needs no memory while it is silent."""
        self.borrowed_bytes = 0
        """Reserved of the memory budget; only `Admission` writes it."""
        self.dismissed: StreamStalledError | None = None
        """Why the stream was told to end; None: it was not."""
        self.trace: Trace | None = None
        """Is told of waits for memory; None: nobody traces the call."""
        self._receives = False
        self.sends = False
        """Whether a message waits for the client to read it. No later message, not even an error, reaches the client then."""
        self._moved_s = time.monotonic()

    def borrow(self, memory_bytes: int) -> None:
        """Reserve memory until this stream holds at least `memory_bytes`; streams queue for it in arrival order.

        Raises:
            TooManyStreamsError: the memory did not become free in time, or the caller has gone.
            DrainingError: the server is about to stop.
            StreamStalledError: the stream was told to end.
        """
        # A stream that needs more than the whole budget gets the whole budget.
        memory_bytes = min(memory_bytes, self._admission.limits.memory_budget_bytes)
        if self.borrowed_bytes < memory_bytes:
            self._admission._borrow(self, memory_bytes)  # noqa: SLF001 - the two classes share their state

    def requests(self, messages: Iterator[bytes], memory_bytes: int) -> Requests:
        """Wrap the stream's requests: each reserves `memory_bytes` when it arrives."""
        return Requests(self, messages, memory_bytes)

    def begin_receiving(self) -> None:
        """Note that the stream waits for the client's next message from now on."""
        self._receives, self._moved_s = True, time.monotonic()

    def end_receiving(self) -> None:
        """Note that a message came, or that none will."""
        self._receives, self._moved_s = False, time.monotonic()

    def begin_sending(self) -> None:
        """Note that a message waits for the client to read it from now on."""
        self.sends, self._moved_s = True, time.monotonic()

    def end_sending(self) -> None:
        """Note that the message was sent."""
        self.sends, self._moved_s = False, time.monotonic()

    def touch(self) -> None:
        """Note that the server has done something for the stream, so that its silence counts from now."""
        self._moved_s = time.monotonic()

    def silent_s(self, now_s: float) -> float:
        """Return how long the stream has been silent; 0 while it is the server's turn."""
        waits = self.sends or (self._receives and not self.owes())
        return now_s - self._moved_s if waits else 0.0

    def require_in(self) -> None:
        """Check that the stream still has its place.

        Raises:
            StreamStalledError: the stream was told to end.
        """
        if self.dismissed is not None:
            raise self.dismissed


class Requests:
    """Iterates over a stream's requests; marks the stream silent while it waits for the next one."""

    def __init__(self, place: Place, messages: Iterator[bytes], memory_bytes: int) -> None:
        """See `Place.requests`."""
        self._place = place
        self._messages = messages
        self._memory_bytes = memory_bytes

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> bytes:
        """Return the next message; raises the errors of `Place.borrow` and of gRPC."""
        self._place.begin_receiving()
        try:
            message = next(self._messages)
        finally:
            self._place.end_receiving()
        self._place.borrow(self._memory_bytes)
        return message
