"""Who may come in, how much memory they may hold, and who has to leave.

Short calls always come in. Streams come in up to a number, since each has a thread for as long as it lasts, and borrow from one
memory budget while they work. Nobody comes in once the server drains.

A stream is silent while it waits for its client: for the next request, or for room to send an answer. It is never silent while
the client waits for the server. What happens to a silent stream depends on who else is there:

    after 0.25 s   an Insert gives its memory back, if somebody waits for memory; it borrows again at its next message
    after 3 s      it has to leave, if somebody else finds every place taken, or waits for memory that only it holds
    after 60 s     it has to leave (`stall_timeout_s`)

The one that has been silent for longest goes first. What an Insert had durable stays, and can be resumed.
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Admission", "AdmissionLimits", "Place"]

_RETRY_AFTER_S = 1.0
"""What those are told who find every place taken, or no memory."""

_LOOK_S = 0.2
"""How often a stream that waits for memory checks whether its caller still waits, and whether somebody can make room."""

_PAUSE_S = 0.25
"""After which a silent Insert gives its memory back: chunks that were under way have been encoded by then."""

_GIVE_WAY_S = 3.0
"""After which a silent stream makes room for somebody else: more than most networks need to recover a lost packet."""

_WATCH_S = 1.0
"""How often stalled streams are looked for, at least."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdmissionLimits:
    """See `ServerConfig`, whose fields these are."""

    streams_max: int
    memory_budget_bytes: int
    memory_wait_s: float = 10.0
    stall_timeout_s: float = 60.0


class Admission:
    """See the module's description. Safe in many threads."""

    def __init__(self, limits: AdmissionLimits) -> None:
        """Start with nobody inside."""
        self.limits = limits
        self._changed = threading.Condition()
        self._places: set[Place] = set()
        self._leaving: set[Place] = set()
        """Of streams that were dismissed, and have not ended yet."""
        self._calls = 0
        self._borrowed_bytes = 0
        self._waiting: deque[Place] = deque()
        self._drained_s: float | None = None
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    @contextmanager
    def short_call(self) -> Iterator[None]:
        """Let a short call in for as long as the block runs.

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
        """Let a stream in for as long as the block runs, and yield its place.

        Args:
            end: ends the stream because it stalled; called by another thread, must not block and must not raise.
            is_active: whether the caller still waits.

        Raises:
            DrainingError: the server is about to stop.
            TooManyStreamsError: every place is taken, and nobody has been silent for long enough to give way.
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

    @property
    def draining_s(self) -> float | None:
        """For how long calls may still go on, in seconds; None: nothing is about to stop."""
        drained_s = self._drained_s
        return None if drained_s is None else max(drained_s - time.monotonic(), 0.0)

    def drain(self, grace_s: float) -> bool:
        """Let nobody in any more, and wait for those inside, at most `grace_s`; return whether all have left."""
        with self._changed:
            self._drained_s = time.monotonic() + grace_s
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._calls == 0, timeout=grace_s)

    def watch(self) -> None:
        """Begin to dismiss stalled streams, on a thread of its own, until `close`."""
        self._watcher = threading.Thread(target=self._watch, name="tensorus-stalls", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """End what `watch` began. Idempotent."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join(_WATCH_S)

    def dismiss_stalled(self) -> None:
        """Dismiss every stream that has been silent for `stall_timeout_s`."""
        now_s, limit_s = time.monotonic(), self.limits.stall_timeout_s
        with self._changed:
            for place in list(self._leaving):
                if place.silent_s(now_s) >= limit_s and place.dismissed is not None:
                    # It began to send as it was told to go.
                    place.end(place.dismissed)
            for place in list(self._places):
                if place.silent_s(now_s) >= limit_s:
                    self._dismiss(place, now_s, f"limit is {limit_s:g} s (stall_timeout_s)")

    def _watch(self) -> None:
        while not self._closed.wait(min(_WATCH_S, self.limits.stall_timeout_s / 4)):
            try:
                self.dismiss_stalled()
            except Exception:  # noqa: BLE001 - logged with its cause
                # Whatever it is, the other streams are still to be watched.
                _log.exception("looking for stalled streams failed")

    def _borrow(self, place: Place, memory_bytes: int) -> None:
        """Wait until the place holds so much; see `Place.borrow`."""
        give_up_s = time.monotonic() + self.limits.memory_wait_s
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
        """Take memory from silent streams, the longest silent first; return whether there was any. The lock is held."""
        now_s = time.monotonic()
        lenders = [place for place in self._places if place.gives_back and place.borrowed_bytes]
        lenders = [place for place in lenders if place.silent_s(now_s) >= _PAUSE_S]
        for place in sorted(lenders, key=lambda place: place.silent_s(now_s), reverse=True):
            self._take_back(place)
            if self._has_room(more_bytes):
                return True
        return bool(lenders) or self._dismiss_one(with_memory=True)

    def _dismiss_one(self, *, with_memory: bool = False) -> bool:
        """Dismiss the stream that has been silent for longest; False where none has been for long enough. The lock is held."""
        now_s = time.monotonic()
        silent = [place for place in self._places if place.borrowed_bytes or not with_memory]
        longest = max(silent, key=lambda place: place.silent_s(now_s), default=None)
        if longest is None or longest.silent_s(now_s) < _GIVE_WAY_S:
            return False
        self._dismiss(longest, now_s, "and another one needs its place or its memory")
        return True

    def _dismiss(self, place: Place, now_s: float, why: str) -> None:
        """Give the place to others at once; what its stream still holds, it lets go of within moments. The lock is held."""
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

    The calls that say whose turn it is come from the stream's threads, without a lock: whoever reads them a moment too early
    takes back memory that the next message borrows again.
    """

    def __init__(
        self, admission: Admission, end: Callable[[StreamStalledError], None], is_active: Callable[[], bool]
    ) -> None:
        """See `Admission.stream`."""
        self._admission = admission
        self.end = end
        """Ends the stream; its call may replace it by something that tells the client more."""
        self.is_active = is_active
        """Whether the caller still waits."""
        self.owes: Callable[[], bool] = lambda: False
        """Whether the client may be waiting for what the server is still working on."""
        self.gives_back = False
        """Whether it needs no memory while it is silent."""
        self.borrowed_bytes = 0
        """Of the memory budget; only `Admission` writes it."""
        self.dismissed: StreamStalledError | None = None
        """Why it had to leave; None: it is in."""
        self._receives = False
        self.sends = False
        """Whether it waits for the client to take a message: then no other one reaches it."""
        self._moved_s = time.monotonic()

    def borrow(self, memory_bytes: int) -> None:
        """Hold so much of the memory budget, at least; wait for it, in the order in which streams came.

        Raises:
            TooManyStreamsError: it did not become free in time, or the caller has gone.
            DrainingError: the server is about to stop.
            StreamStalledError: the stream had to leave.
        """
        # A stream that needs more than there is has it all.
        memory_bytes = min(memory_bytes, self._admission.limits.memory_budget_bytes)
        if self.borrowed_bytes < memory_bytes:
            self._admission._borrow(self, memory_bytes)  # noqa: SLF001 - the two are one thing

    def requests(self, messages: Iterator[bytes], memory_bytes: int) -> Requests:
        """Return the messages; each borrows so much memory as it arrives."""
        return Requests(self, messages, memory_bytes)

    def begin_receiving(self) -> None:
        """Wait for the client's next message from now on."""
        self._receives, self._moved_s = True, time.monotonic()

    def end_receiving(self) -> None:
        """Note that a message came, or that none will."""
        self._receives, self._moved_s = False, time.monotonic()

    def begin_sending(self) -> None:
        """Wait for the client to take a message from now on."""
        self.sends, self._moved_s = True, time.monotonic()

    def end_sending(self) -> None:
        """Note that it took it."""
        self.sends, self._moved_s = False, time.monotonic()

    def touch(self) -> None:
        """Note that the server has done something for the stream: it is not silent before now."""
        self._moved_s = time.monotonic()

    def silent_s(self, now_s: float) -> float:
        """Return for how long nothing has moved in either direction; 0 while it is the server's turn."""
        waits = self.sends or (self._receives and not self.owes())
        return now_s - self._moved_s if waits else 0.0

    def require_in(self) -> None:
        """Do nothing while the stream has its place.

        Raises:
            StreamStalledError: it had to leave.
        """
        if self.dismissed is not None:
            raise self.dismissed


class Requests:
    """The messages of a stream, which is silent while it waits for the next one."""

    def __init__(self, place: Place, messages: Iterator[bytes], memory_bytes: int) -> None:
        """See `Place.requests`."""
        self._place = place
        self._messages = messages
        self._memory_bytes = memory_bytes

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> bytes:
        """Return the next message. Errors as of `Place.borrow`, and what gRPC raises."""
        self._place.begin_receiving()
        try:
            message = next(self._messages)
        finally:
            self._place.end_receiving()
        self._place.borrow(self._memory_bytes)
        return message
