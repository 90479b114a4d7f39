"""Which inserts are going on: one stream for each request, and the newest wins.

Where several processes serve the same inserts, the stream with a request also has the request's lock between them (`Peers`).
Whoever finds it taken has its holder told, as often as it looks, that a newer stream wants it. Of streams that want it at once
the newest wins in every process, since all of them compare the same tickets.
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
"""How long a stream waits for the older one to end: it has chunks to encode, and a sync to wait for."""

_LOOK_S = 0.05
"""How often one who waits for another process looks whether that has ended its stream."""


class Peers(Protocol):
    """The other processes that serve the same inserts. Called by one thread at a time; nothing waits."""

    def ticket(self) -> int:
        """Return a number above all that any of the processes has given out."""

    def try_lock(self, request_id: str) -> bool:
        """Take the request's lock; return whether no other process has it."""

    def unlock(self, request_id: str) -> None:
        """Let go of the request's lock."""

    def is_locked(self, request_id: str) -> bool:
        """Return whether another process has the request's lock."""

    def ask(self, request_id: str, ticket: int) -> None:
        """Let `InsertSessions.newer` be called in the other processes; perhaps it never is."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class Alone:
    """No other process serves the same inserts; see `Peers`."""

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
    """Request ids and the streams that have them. Safe in many threads."""

    def __init__(self, peers: Peers | None = None) -> None:
        """Start without streams.

        Args:
            peers: other processes that serve the same inserts, which `close` closes; None: there are none.
        """
        self._peers = peers or Alone()
        self._changed = threading.Condition()
        self._take_overs: dict[str, Callable[[], None]] = {}
        self._latest: dict[str, int] = {}

    @contextmanager
    def held(self, request_id: str, take_over: Callable[[], None]) -> Iterator[None]:
        """Have the request for as long as the block runs; a stream that has it is ended first.

        Args:
            take_over: called when a newer stream wants the request, perhaps more than once: must end this one soon.

        Raises:
            SessionTakenOverError: a newer stream was faster.
            StoreUnavailableError: the older stream does not end.
        """
        with self._changed:
            ticket = self._peers.ticket()
            self._latest[request_id] = ticket
            # Whoever else waits for it waits in vain now.
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
        """Take another process's word that a stream of its own wants the request: older ones end, those that wait included."""
        with self._changed:
            latest = self._latest.get(request_id)
            if latest is None or latest > ticket:
                return
            del self._latest[request_id]
            self._changed.notify_all()
            if request_id in self._take_overs:
                self._take_overs[request_id]()

    def is_held(self, request_id: str) -> bool:
        """Return whether a stream has the request."""
        with self._changed:
            return request_id in self._take_overs or self._peers.is_locked(request_id)

    def end(self, request_id: str) -> None:
        """End the stream that has the request, if there is one, and wait until it has.

        Raises:
            StoreUnavailableError: it does not end.
        """
        with self._changed:
            # A newer one may have been waiting, and have it before this thread has seen the older one end.
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
        """Leave the other processes alone. Idempotent; nobody may have a request any more."""
        self._peers.close()

    def _wait_for_turn(self, request_id: str, ticket: int) -> None:
        """Wait until nobody has the request, and take its lock. Errors as of `held`. The lock of this object is held."""
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
            # A stream of this process tells when it has ended.
            self._changed.wait(left_s if is_here else min(left_s, _LOOK_S))

    def _wait_for_end(self, request_id: str, take_over: Callable[[], None]) -> bool:
        """Wait for the stream that is ended by `take_over`; return whether it has ended. The lock is held."""
        return self._changed.wait_for(lambda: self._take_overs.get(request_id) is not take_over, _HAND_OVER_S)


def _not_ended(request_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the stream of insert {request_id} has not ended yet")
