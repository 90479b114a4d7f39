"""Tracks inserts in progress: each request id has at most one stream, and the newest stream wins.

If several processes serve the same inserts, a stream also takes the request's lock, which all of them share (`Peers`). A stream
that finds the lock taken keeps telling the other processes that a newer stream wants it. If several streams want it, the newest
wins in every process, because all processes compare the same tickets.
"""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Alone", "InsertSessions", "Peers"]

_HAND_OVER_S = 30.0
"""How long a stream waits for an older one to end, which may still have to encode chunks and wait for an fsync."""

_LOOK_S = 0.05
"""How often a stream that waits for another process checks whether that process has ended its stream."""


class Peers(Protocol):
    """The other processes that serve the same inserts. Called by one thread at a time; no method blocks."""

    def ticket(self) -> int:
        """Return a number above all tickets that any of the processes has issued."""

    def try_lock(self, request_id: str) -> bool:
        """Take the request's lock; return False if another process has it."""

    def unlock(self, request_id: str) -> None:
        """Release the request's lock."""

    def is_locked(self, request_id: str) -> bool:
        """Return whether another process has the request's lock."""

    def ask(self, request_id: str, ticket: int) -> None:
        """Have `InsertSessions.newer` called in the other processes; delivery is not guaranteed."""

    def close(self) -> None:
        """Release all locks. Idempotent."""


class Alone:
    """The `Peers` of a process that serves its inserts alone."""

    def __init__(self) -> None:
        """Count tickets from 0."""
        self._tickets = itertools.count()

    def ticket(self) -> int:
        """See `Peers`."""
        return next(self._tickets)

    def try_lock(self, _: str) -> bool:
        """See `Peers`."""
        return True

    def unlock(self, _: str) -> None:
        """See `Peers`."""

    def is_locked(self, _: str) -> bool:
        """See `Peers`."""
        return False

    def ask(self, _: str, __: int) -> None:
        """See `Peers`."""

    def close(self) -> None:
        """See `Peers`."""


class InsertSessions:
    """Maps request ids to the streams that hold them. Thread-safe."""

    def __init__(self, peers: Peers | None = None) -> None:
        """Start without streams.

        Args:
            peers: the other processes that serve the same inserts; `close` closes it. None: there are none.
        """
        self._peers = peers or Alone()
        self._changed = threading.Condition()
        self._take_overs: dict[str, Callable[[], None]] = {}
        self._latest: dict[str, int] = {}

    @contextmanager
    def held(self, request_id: str, take_over: Callable[[], None]) -> Iterator[None]:
        """Hold the request for the duration of the block; first end the stream that holds it now.

        Args:
            take_over: called, perhaps several times, when a newer stream wants the request; must end this stream soon.

        Raises:
            SessionTakenOverError: a newer stream took the request first.
            StoreUnavailableError: the older stream did not end in time.
        """
        with self._changed:
            ticket = self._peers.ticket()
            self._latest[request_id] = ticket
            # Wake older streams that wait for the request: they give up.
            self._changed.notify_all()
            if request_id in self._take_overs:
                self._take_overs[request_id]()
            self._wait_for_turn(request_id, ticket)
            self._take_overs[request_id] = take_over
        try:
            yield
        finally:
            with self._changed:
                del self._take_overs[request_id]
                self._peers.unlock(request_id)
                if self._latest.get(request_id) == ticket:
                    del self._latest[request_id]
                self._changed.notify_all()

    def newer(self, request_id: str, ticket: int) -> None:
        """Handle the news that a stream of another process wants the request: end older streams, including waiting ones."""
        with self._changed:
            latest = self._latest.get(request_id)
            if latest is None or latest > ticket:
                return
            del self._latest[request_id]
            self._changed.notify_all()
            if request_id in self._take_overs:
                self._take_overs[request_id]()

    def is_held(self, request_id: str) -> bool:
        """Return whether a stream holds the request."""
        with self._changed:
            return request_id in self._take_overs or self._peers.is_locked(request_id)

    def end(self, request_id: str) -> None:
        """End the stream that holds the request, if any, and wait until it has ended.

        Raises:
            StoreUnavailableError: it did not end in time.
        """
        with self._changed:
            # A loop, since a waiting stream may take the request before this thread notices that the older one has ended.
            while (take_over := self._take_overs.get(request_id)) is not None:
                take_over()
                if not self._wait_for_end(request_id, take_over):
                    raise _not_ended(request_id)
            deadline_s = time.monotonic() + _HAND_OVER_S
            while self._peers.is_locked(request_id):
                if time.monotonic() > deadline_s:
                    raise _not_ended(request_id)
                self._peers.ask(request_id, self._peers.ticket())
                self._changed.wait(_LOOK_S)

    def close(self) -> None:
        """Close the connection to the other processes. Idempotent; no stream may hold a request any more."""
        self._peers.close()

    def _wait_for_turn(self, request_id: str, ticket: int) -> None:
        """Wait until no stream holds the request, and take its lock. Raises the errors of `held`. The lock is held."""
        deadline_s = time.monotonic() + _HAND_OVER_S
        while True:
            if self._latest.get(request_id) != ticket:
                raise SessionTakenOverError(f"a newer stream goes on with insert {request_id}")
            is_here = request_id in self._take_overs
            if not is_here and self._peers.try_lock(request_id):
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                del self._latest[request_id]
                raise StoreUnavailableError(f"the older stream of insert {request_id} has not ended yet")
            if not is_here:
                self._peers.ask(request_id, ticket)
            # A stream of this process notifies when it ends; other processes must be polled.
            self._changed.wait(left_s if is_here else min(left_s, _LOOK_S))

    def _wait_for_end(self, request_id: str, take_over: Callable[[], None]) -> bool:
        """Wait for the stream that registered `take_over`; return whether it has ended. The lock is held."""
        return self._changed.wait_for(lambda: self._take_overs.get(request_id) is not take_over, _HAND_OVER_S)


def _not_ended(request_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the stream of insert {request_id} has not ended yet")
