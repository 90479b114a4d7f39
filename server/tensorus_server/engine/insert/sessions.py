"""Tracks inserts in progress: each request id has at most one stream, and the newest stream wins.

If several processes serve the same inserts, a stream also takes the request's lock, which all of them share (`Peers`). A stream
that finds the lock taken keeps telling the other processes that a newer stream wants it. If several streams want it, the newest
wins in every process, because all processes compare the same tickets.

First, a stream has to be the only one of this process: that is decided in memory, under a lock. Only then it waits for other
processes, and without that lock, since they may be on other machines. Of two streams that arrive at the same time, the later
one waits until the other has its ticket, so that tickets are in the order of arrival.
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


class Peers(Protocol):
    """The other processes that serve the same inserts. Thread-safe.

    Methods may take as long as a database takes to answer; they raise `StoreUnavailableError` or `StoreBusyError` if it does
    not. But `attach`, `unlock`, `withdraw` and `close` raise nothing.
    """

    look_s: float
    """How often a stream that waits for another process tries again."""

    def attach(self, newer: Callable[[str, int], None]) -> None:
        """Have `newer` called, as `InsertSessions.newer` says; called once, at the start."""

    def arrive(self, request_id: str, *, contended: bool) -> int:
        """Return a number above all tickets that any of the processes has issued for the request.

        Args:
            contended: whether another stream of this process has the request or waits for it.
        """

    def try_lock(self, request_id: str, ticket: int) -> bool:
        """Take the request's lock; return False if another process has it.

        Raises:
            SessionTakenOverError: a newer stream wants it.
        """

    def unlock(self, request_id: str, ticket: int, *, at_once: bool) -> None:
        """Release the request's lock.

        Args:
            at_once: whether another process may want it soon; otherwise, the release may come somewhat later.
        """

    def withdraw(self, request_id: str, ticket: int) -> None:
        """Forget a ticket whose stream gave up before it had the lock."""

    def is_locked(self, request_id: str) -> bool:
        """Return whether another process has the request's lock."""

    def ask(self, request_id: str, ticket: int) -> None:
        """Have `InsertSessions.newer` called in the other processes; delivery is not guaranteed."""

    def end(self, request_id: str, timeout_s: float) -> bool:
        """Have other processes end their streams of the request, and return whether they have."""

    def close(self) -> None:
        """Release all locks. Idempotent."""


class Alone:
    """The `Peers` of a process that serves its inserts alone."""

    look_s = 0.0

    def __init__(self) -> None:
        """Count tickets from 0."""
        self._tickets = itertools.count()

    def attach(self, newer: Callable[[str, int], None]) -> None:
        """See `Peers`."""

    def arrive(self, _: str, *, contended: bool) -> int:  # noqa: ARG002 - nobody else issues tickets
        """See `Peers`."""
        return next(self._tickets)

    def try_lock(self, _: str, __: int) -> bool:
        """See `Peers`."""
        return True

    def unlock(self, _: str, __: int, *, at_once: bool) -> None:
        """See `Peers`."""

    def withdraw(self, _: str, __: int) -> None:
        """See `Peers`."""

    def is_locked(self, _: str) -> bool:
        """See `Peers`."""
        return False

    def ask(self, _: str, __: int) -> None:
        """See `Peers`."""

    def end(self, _: str, __: float) -> bool:
        """See `Peers`."""
        return True

    def close(self) -> None:
        """See `Peers`."""


class _Claim:
    """A stream that has a request, or wants it. Its fields belong to the lock of the sessions."""

    __slots__ = ("_take_over", "has_it", "has_lock", "is_superseded", "must_end", "ticket")

    def __init__(self, take_over: Callable[[], None]) -> None:
        self._take_over = take_over
        self.ticket: int | None = None
        """None: it has just arrived, and is newer than all others."""
        self.has_lock = False
        """Whether it has the lock of `Peers`; only its own thread uses this."""
        self.has_it = False
        self.is_superseded = False
        """Whether a newer stream wants the request."""
        self.must_end = False
        """Whether it is to end as soon as it has the request."""

    def supersede(self) -> None:
        """Have the stream end, or give up."""
        self.is_superseded = True
        if self.has_it:
            self._take_over()

    def end(self) -> None:
        """Have the stream end, now or as soon as it has begun."""
        self.must_end = True
        if self.has_it:
            self._take_over()


class InsertSessions:
    """Maps request ids to the streams that hold them. Thread-safe."""

    def __init__(self, peers: Peers | None = None) -> None:
        """Start without streams.

        Args:
            peers: the other processes that serve the same inserts; `close` closes it. None: there are none.
        """
        self._peers: Peers = peers or Alone()
        self._changed = threading.Condition()
        # Streams that are being given a ticket; those that have the request, or wait for other processes only; the newest ones.
        self._arriving: set[str] = set()
        self._holders: dict[str, _Claim] = {}
        self._latest: dict[str, _Claim] = {}
        self._peers.attach(self.newer)

    @contextmanager
    def held(self, request_id: str, take_over: Callable[[], None]) -> Iterator[None]:
        """Hold the request for the duration of the block; first end the stream that holds it now.

        Args:
            take_over: called, perhaps several times, when a newer stream wants the request; must end this stream soon, and must
                not block.

        Raises:
            SessionTakenOverError: a newer stream took the request first.
            StoreUnavailableError: the older stream did not end in time, or other processes cannot be asked.
        """
        claim = _Claim(take_over)
        ticket = self._arrive(request_id, claim)
        try:
            self._wait_for_turn(request_id, claim)
        except BaseException:
            if claim.has_lock:
                self._leave(request_id, claim, lambda: self._peers.unlock(request_id, ticket, at_once=True))
            else:
                self._leave(request_id, claim, lambda: self._peers.withdraw(request_id, ticket))
            raise
        broke = True
        try:
            yield
            broke = False
        finally:
            at_once = broke or claim.is_superseded
            self._leave(request_id, claim, lambda: self._peers.unlock(request_id, ticket, at_once=at_once))

    def newer(self, request_id: str, ticket: int) -> None:
        """Handle the news that a stream of another process wants the request: end older streams, including waiting ones."""
        with self._changed:
            for streams in (self._holders, self._latest):
                claim = streams.get(request_id)
                if claim is not None and claim.ticket is not None and claim.ticket < ticket:
                    claim.supersede()
            self._changed.notify_all()

    def is_held(self, request_id: str) -> bool:
        """Return whether a stream holds the request."""
        with self._changed:
            holder = self._holders.get(request_id)
            if holder is not None and holder.has_it:
                return True
        return self._peers.is_locked(request_id)

    def end(self, request_id: str) -> None:
        """End the stream that holds the request, if any, and wait until it has ended.

        Raises:
            StoreUnavailableError: it did not end in time, or other processes cannot be asked.
        """
        with self._changed:
            # A loop, since a waiting stream may take the request before this thread notices that the older one has ended.
            while (holder := self._holders.get(request_id)) is not None:
                holder.end()
                if not self._wait_for_end(request_id, holder):
                    raise _not_ended(request_id)
        if self._peers.is_locked(request_id) and not self._peers.end(request_id, _HAND_OVER_S):
            raise _not_ended(request_id)

    def close(self, timeout_s: float = 0.0) -> bool:  # noqa: ARG002 - nothing is in progress
        """Close the connection to the other processes, and return True. Idempotent; no stream may hold a request any more."""
        self._peers.close()
        return True

    def _arrive(self, request_id: str, claim: _Claim) -> int:
        """Make a stream the newest one of its request, and return its ticket."""
        with self._changed:
            if not self._changed.wait_for(lambda: request_id not in self._arriving, _HAND_OVER_S):
                raise StoreUnavailableError(f"another stream of insert {request_id} is just beginning")
            self._arriving.add(request_id)
            others = [streams.get(request_id) for streams in (self._holders, self._latest)]
            self._latest[request_id] = claim
            for other in others:
                if other is not None:
                    other.supersede()
            # Wake older streams that wait for the request: they give up.
            self._changed.notify_all()
        try:
            claim.ticket = self._peers.arrive(request_id, contended=others != [None, None])
        except BaseException:
            self._leave(request_id, claim, lambda: None)
            raise
        finally:
            with self._changed:
                self._arriving.discard(request_id)
                self._changed.notify_all()
        return claim.ticket

    def _wait_for_turn(self, request_id: str, claim: _Claim) -> None:
        """Wait until no stream holds the request, and take its lock. Raises the errors of `held`."""
        give_up_s = time.monotonic() + _HAND_OVER_S
        assert claim.ticket is not None
        with self._changed:
            while not claim.is_superseded and request_id in self._holders:
                self._wait(request_id, give_up_s, _HAND_OVER_S)
            self._require_newest(request_id, claim)
            # From here on, other streams of this process wait for this one.
            self._holders[request_id] = claim
        while not self._peers.try_lock(request_id, claim.ticket):
            self._peers.ask(request_id, claim.ticket)
            with self._changed:
                if not claim.is_superseded:
                    # Other processes must be asked again.
                    self._wait(request_id, give_up_s, self._peers.look_s)
                self._require_newest(request_id, claim)
        claim.has_lock = True
        with self._changed:
            self._require_newest(request_id, claim)
            claim.has_it = True
            if claim.must_end:
                claim.end()

    def _wait(self, request_id: str, give_up_s: float, longest_s: float) -> None:
        """Wait for a change. The lock is held."""
        left_s = give_up_s - time.monotonic()
        if left_s <= 0:
            raise StoreUnavailableError(f"the older stream of insert {request_id} has not ended yet")
        self._changed.wait(min(left_s, longest_s))

    def _require_newest(self, request_id: str, claim: _Claim) -> None:
        if claim.is_superseded:
            raise SessionTakenOverError(f"a newer stream goes on with insert {request_id}")

    def _leave(self, request_id: str, claim: _Claim, let_go: Callable[[], None]) -> None:
        """Let go of the request, first towards other processes, and then in this one, where the next stream may go on."""
        try:
            let_go()
        finally:
            with self._changed:
                for streams in (self._holders, self._latest):
                    if streams.get(request_id) is claim:
                        del streams[request_id]
                self._changed.notify_all()

    def _wait_for_end(self, request_id: str, holder: _Claim) -> bool:
        """Wait for a stream; return whether it has ended. The lock is held."""
        return self._changed.wait_for(lambda: self._holders.get(request_id) is not holder, _HAND_OVER_S)


def _not_ended(request_id: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the stream of insert {request_id} has not ended yet")
