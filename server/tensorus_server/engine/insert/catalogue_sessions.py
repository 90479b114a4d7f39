"""Decides which of several replicas serves an insert: one lease in the catalogue for each request id.

An insert that no other replica serves costs one short transaction. Leases are given back together, about once a second. A
stream that finds the lease taken asks for it, and so gets the newest ticket. The holder notices that within a second, or at
once if the database has notifications, and ends its stream. If it does not end in time, its lease is taken by force: then its
marks and commits fail, since they check who has the lease.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from tensorus_server.background import LOOK_S
from tensorus_server.catalogue.abc import SESSION, LeaseLostError
from tensorus_server.errors import EngineError, SessionTakenOverError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.engine.membership import Membership

__all__ = ["CatalogueSessions"]

_FORCE_AFTER_S = 3.0
"""How long the holder of a lease has to end its stream and to save its last marks."""

_RELEASE_TIMEOUT_S = 30.0
"""How long a stream waits for leases that are being given back: longer than any statement runs."""

_log = logging.getLogger(__name__)


class CatalogueSessions:
    """The sessions of one replica; implements `Peers`. Thread-safe."""

    look_s = 0.1

    def __init__(self, membership: Membership) -> None:
        """Take leases for the member."""
        self._membership = membership
        self._members = membership.members
        self._newer: Callable[[str, int], None] = lambda _, __: None
        self._changed = threading.Condition(threading.Lock())
        # By request id: the ticket of the newest stream of this replica, and when the lease was asked for; None: it has it.
        self._tickets: dict[str, tuple[int, float | None]] = {}
        # How many streams have a ticket: only the last of them gives the lease back.
        self._users: dict[str, int] = {}
        self._given_back: set[str] = set()
        self._releasing: set[str] = set()
        membership.every_look(self.look)
        self._members.watch(self._told)

    def attach(self, newer: Callable[[str, int], None]) -> None:
        """See `Peers`."""
        self._newer = newer

    def arrive(self, request_id: str, *, contended: bool) -> int:
        """See `Peers`. Takes the lease at once if it is free."""
        name = SESSION + request_id
        self._release_before(request_id)
        asked_s = None
        try:
            ticket = None if contended else self._members.try_acquire(name)
            if ticket is None:
                ticket, asked_s = self._members.ask(name), time.monotonic()
        except EngineError:
            with self._changed:
                if request_id not in self._users:
                    # It may have been done although the answer is lost.
                    self._given_back.add(request_id)
            raise
        with self._changed:
            self._tickets[request_id] = ticket, asked_s
            self._users[request_id] = self._users.get(request_id, 0) + 1
        return ticket

    def try_lock(self, request_id: str, ticket: int) -> bool:
        """See `Peers`."""
        with self._changed:
            newest, asked_s = self._tickets.get(request_id, (ticket, None))
        if newest != ticket:
            raise _newer_stream(request_id)
        if asked_s is None:
            return True
        if not self._take(request_id, ticket, asked_s):
            return False
        with self._changed:
            if self._tickets.get(request_id) == (ticket, asked_s):
                self._tickets[request_id] = ticket, None
        return True

    def unlock(self, request_id: str, ticket: int, *, at_once: bool) -> None:  # noqa: ARG002 - the lease is this process's
        """See `Peers`. A lease is given back with the next look, unless a stream broke, which may go on elsewhere."""
        self._let_go(request_id)
        if at_once:
            try:
                self._release_before(request_id)
            except EngineError as error:
                _log.warning("the lease of insert %s is given back later: %s", request_id, error)

    def withdraw(self, request_id: str, ticket: int) -> None:
        """See `Peers`."""
        self._let_go(request_id)
        try:
            self._members.withdraw(ticket)
            self._release_before(request_id)
        except EngineError as error:
            _log.warning("insert %s stays asked for until this process leaves: %s", request_id, error)

    def is_locked(self, request_id: str) -> bool:
        """See `Peers`."""
        return self._members.holder(SESSION + request_id) not in {None, self._members.number}

    def ask(self, request_id: str, ticket: int) -> None:
        """See `Peers`. The row says it already."""

    def end(self, request_id: str, timeout_s: float) -> bool:
        """See `Peers`."""
        give_up_s = time.monotonic() + timeout_s
        name = SESSION + request_id
        while time.monotonic() < give_up_s:
            ticket, asked_s = self._members.ask(name), time.monotonic()
            try:
                while not self._take(request_id, ticket, asked_s):
                    if time.monotonic() > give_up_s:
                        self._members.withdraw(ticket)
                        return False
                    time.sleep(self.look_s)
            except SessionTakenOverError:
                # A newer stream came meanwhile. It is ended, too.
                continue
            if time.monotonic() - asked_s > _FORCE_AFTER_S:
                # Its stream may go on all the same, and is to learn that it has ended before the lease's row is gone.
                time.sleep(2 * LOOK_S)
            self._members.release([name])
            return True
        return False

    def look(self) -> None:
        """Give back what is not needed any more, and tell streams of which there are newer ones; called once a second.

        Raises:
            EngineError: the database does not answer.
        """
        with self._changed:
            released = self._given_back - self._releasing
        self._release(released)
        with self._changed:
            tickets = {request_id: ticket for request_id, (ticket, _) in self._tickets.items()}
        newest = self._members.newest([SESSION + request_id for request_id in tickets])
        for name, ticket in newest.items():
            request_id = name[len(SESSION) :]
            if ticket > tickets[request_id]:
                self._newer(request_id, ticket)

    def close(self) -> None:
        """See `Peers`. The member gives its leases back when it leaves."""

    def _take(self, request_id: str, ticket: int, asked_s: float) -> bool:
        force = time.monotonic() - asked_s > _FORCE_AFTER_S
        try:
            taken = self._members.take(SESSION + request_id, ticket, force=force)
        except LeaseLostError as error:
            raise _newer_stream(request_id) from error
        if taken and force:
            _log.warning("insert %s was taken from a process that did not end its stream in time", request_id)
        return taken

    def _let_go(self, request_id: str) -> None:
        with self._changed:
            self._users[request_id] -= 1
            if not self._users[request_id]:
                del self._users[request_id], self._tickets[request_id]
                self._given_back.add(request_id)

    def _release_before(self, request_id: str) -> None:
        """Give the lease back if an earlier stream is done with it, so that it is not given back under a new one."""
        with self._changed:
            if not self._changed.wait_for(lambda: request_id not in self._releasing, _RELEASE_TIMEOUT_S):
                raise StoreUnavailableError(f"the lease of insert {request_id} is being given back", retry_after_s=1.0)
            is_left = request_id in self._given_back
        if is_left:
            self._release({request_id})

    def _release(self, released: set[str]) -> None:
        """Give leases back; if the database does not answer, they stay for the next time."""
        if not released:
            return
        with self._changed:
            self._releasing |= released
        try:
            self._members.release([SESSION + request_id for request_id in released])
            with self._changed:
                self._given_back -= released
        finally:
            with self._changed:
                self._releasing -= released
                self._changed.notify_all()

    def _told(self, name: str) -> None:
        if name[len(SESSION) :] in self._tickets:
            self._membership.wake()


def _newer_stream(request_id: str) -> SessionTakenOverError:
    return SessionTakenOverError(f"a newer stream goes on with insert {request_id}")
