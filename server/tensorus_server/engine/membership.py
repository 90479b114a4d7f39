"""Keeps this process a member of a store that processes on several machines share (`catalogue/abc/members.py`).

A thread renews the member's row. If it comes too late, the process was declared dead: it joins again under another number, and
whatever it had begun fails at its commit or its next mark, so that the clients repeat it. While the database is away, the
thread tries again every second; reads go on, as far as they need no database.

The thread also declares other members dead, once its own renewals have succeeded for a while: after an outage of the database,
all members have expired, and those that live need a moment to say so.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from typing import TYPE_CHECKING

from tensorus_server.background import LOOK_S, Watched
from tensorus_server.catalogue.abc import NotBegunError
from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError
from tensorus_server.errors import EngineError, StoreUnavailableError
from tensorus_server.limits import MEMBER_LEASE_S, MEMBER_RENEW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import MemberTable

__all__ = ["MemberWrites", "Membership"]

_log = logging.getLogger(__name__)


class Membership:
    """The membership of this process, from its creation to `close`. Thread-safe."""

    def __init__(self, members: MemberTable, name: str | None = None) -> None:
        """Join. Nothing is renewed before `start`.

        Args:
            members: the members of the store; bound to this process alone.
            name: for people; None: the host's name and the number of the process.

        Raises:
            StoreUnavailableError: the database does not answer.
        """
        self.members = members
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.writes = MemberWrites(self)
        """The record of what this process writes, for an object store."""
        self._looks: list[Callable[[], None]] = []
        self._wake = threading.Event()
        self._closing = False
        self._thread: Watched | None = None
        # Taken before the statement was sent: the row expires later than this plus the lease.
        self._renewed_s = self._steady_since_s = time.monotonic()
        self._reaped_s = -math.inf
        self._is_away = False
        members.join(self.name, MEMBER_LEASE_S)

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """Start to renew.

        Args:
            failed: called if the thread ends because of an error.
        """
        self._thread = Watched("membership", self.run, failed)

    def every_look(self, look: Callable[[], None]) -> None:
        """Have `look` called about once a second, and soon after each `wake`; it may raise `EngineError`."""
        self._looks.append(look)

    def wake(self) -> None:
        """Look at once. Does not block."""
        self._wake.set()

    def require(self) -> None:
        """Check that nobody may have declared this process dead, before it begins to write an object.

        Raises:
            StoreUnavailableError: it has not been able to renew its row for too long.
        """
        late_s = time.monotonic() - self._renewed_s
        if late_s > MEMBER_LEASE_S:
            raise StoreUnavailableError(
                f"the catalogue's database has not answered for {late_s:.0f} s, limit is {MEMBER_LEASE_S:.0f} s "
                "(member_lease_s): this process may have been declared dead",
                retry_after_s=LOOK_S,
            )

    def leads(self, lease: str) -> bool:
        """Return whether this process has a lease that one of all has, such as "sweep"; it takes it if it is free."""
        holder = self.members.holder(lease)
        return holder == self.members.number if holder is not None else self.members.try_acquire(lease) is not None

    def close(self, timeout_s: float) -> bool:
        """Stop renewing and leave, which gives everything back at once; return whether the thread has ended in time.

        If the database does not answer, the row expires. Idempotent.
        """
        self._closing = True
        self._wake.set()
        ended = self._thread is None or self._thread.join(timeout_s)
        try:
            self.members.leave()
        except EngineError as error:
            _log.warning("member %s could not leave the store, and expires: %s", self.name, error)
        return ended

    def run(self) -> None:
        """Renew, and look, until `close`."""
        while not self._closing:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            if not self._closing:
                self.step()

    def step(self) -> None:
        """Do what is due now; an error of the database is logged, and the next step tries again."""
        try:
            self._renew_if_due()
            for look in self._looks:
                look()
            self._reap_if_due()
        except EngineError as error:
            if not self._is_away:
                _log.warning("member %s could not look at the catalogue, and tries again: %s", self.name, error)
            self._is_away = True
            self._steady_since_s = math.inf

    def _renew_if_due(self) -> None:
        now_s = time.monotonic()
        if not self._is_away and now_s - self._renewed_s < MEMBER_RENEW_S:
            return
        if now_s - self._renewed_s > MEMBER_LEASE_S:
            # Nothing was renewed for so long that all others may have been cut off, too.
            self._steady_since_s = math.inf
        if not self.members.renew():
            before = self.members.number
            number = self.members.join(self.name, MEMBER_LEASE_S)
            _log.warning(
                "member %d (%s) was declared dead, since it had not renewed its row for %.1f s; it goes on as member %d, and "
                "clients repeat what it was writing",
                *(before, self.name, now_s - self._renewed_s, number),
            )
        self._renewed_s = now_s
        if self._is_away:
            _log.info("member %s reaches the catalogue again", self.name)
            self._is_away = False
        self._steady_since_s = min(self._steady_since_s, now_s)
        if time.monotonic() - now_s > MEMBER_RENEW_S:
            # The database hung, and all others waited for it, too. Their rows have expired, and are renewed now.
            self._steady_since_s = time.monotonic()

    def _reap_if_due(self) -> None:
        now_s = time.monotonic()
        if now_s - max(self._reaped_s, self._steady_since_s) < MEMBER_RENEW_S:
            return
        reaped = self.members.reap()
        self._reaped_s = now_s
        if reaped.members:
            _log.warning("declared dead, since they did not renew their rows: %s", ", ".join(reaped.members))
        if reaped.abandoned:
            _log.info("%d objects that were begun, and that nobody can resume, are left to the sweep", reaped.abandoned)


class MemberWrites:
    """What an object store needs from the catalogue (`WriteLog`). Thread-safe."""

    def __init__(self, membership: Membership) -> None:
        """Belong to `membership`."""
        self._membership = membership
        self._members = membership.members

    @property
    def number(self) -> int | None:
        """See `MemberTable`."""
        return self._members.number

    def require(self) -> None:
        """Check, before each PUT of an object, that nobody may have declared this process dead; costs no statement.

        Raises:
            StoreUnavailableError: somebody may have.
        """
        self._membership.require()

    def begin(self, keys: Sequence[str]) -> None:
        """Record, durably, that objects are about to be written.

        Raises:
            StoreUnavailableError: the database does not answer, or has not for so long that this process may be declared dead.
        """
        self.require()
        self._members.begin(keys)

    def take_over(self, payload_key: str) -> int:
        """Become the writer of a payload that was begun, and return its new generation.

        Raises:
            PayloadBusyError: another living member writes it.
            PayloadMissingError: nothing is known of it: it was committed, or given up.
        """
        try:
            generation = self._members.take_over(payload_key)
        except NotBegunError as error:
            raise PayloadMissingError(f"nothing is known of payload {payload_key}") from error
        if generation is None:
            raise PayloadBusyError(f"another process writes payload {payload_key}")
        return generation

    def park(self, payload_key: str) -> None:
        """See `MemberTable`."""
        self._members.park(payload_key)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """See `MemberTable`."""
        return self._members.abandon(keys)

    def forget(self, keys: Sequence[str]) -> None:
        """See `MemberTable`."""
        self._members.forget(keys)
