"""Locks of tensors that processes on several machines share, as leases in the catalogue; what `KeyLocks` is on one machine.

An edit of a tensor that nobody else edits costs two short transactions. A lock of a process that has died is free when its
membership has expired. Two edits that both believe to have a tensor, since one of them was declared dead, do no harm: the
second commit finds that the tensor has changed.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from tensorus_server.engine.membership import Membership

__all__ = ["LeaseLocks"]

_PREFIX = "edit/"

_log = logging.getLogger(__name__)


class LeaseLocks:
    """Implements `SharedLocks`. Thread-safe."""

    poll_s = (0.02, 0.1)
    """Other processes are asked by a statement, so less often than a kernel."""

    def __init__(self, membership: Membership) -> None:
        """Take leases for the member."""
        self._members = membership.members
        self._lock = threading.Lock()
        # Locks that could not be released, or that this process may have without knowing it: the database did not answer.
        self._left: set[str] = set()
        membership.every_look(self._release_left)

    def acquire(self, key: str) -> bool:
        """Take the lock of a key; return False if it is held, in this process or another."""
        return self._try_acquire(_PREFIX + key, None)

    def acquire_unless(self, key: str, gate: str) -> bool:
        """Take the lock of a key unless somebody has that of `gate`, in one statement."""
        return self._try_acquire(_PREFIX + key, _PREFIX + gate)

    def release(self, key: str) -> None:
        """Release the lock; if the database does not answer, soon after it does."""
        try:
            self._members.release([_PREFIX + key])
        except EngineError as error:
            _log.warning("a tensor's lock could not be released, which is tried again: %s", error)
            with self._lock:
                self._left.add(_PREFIX + key)

    def close(self) -> None:
        """Do nothing: the member gives its leases back when it leaves."""

    def _try_acquire(self, name: str, unless: str | None) -> bool:
        try:
            acquired = self._members.try_acquire(name, unless=unless) is not None
        except EngineError:
            # It may have been done although the answer is lost.
            with self._lock:
                self._left.add(name)
            raise
        if acquired:
            with self._lock:
                self._left.discard(name)
        return acquired

    def _release_left(self) -> None:
        with self._lock:
            left, self._left = self._left, set()
        try:
            self._members.release(left)
        except EngineError:
            with self._lock:
                self._left |= left
            raise
