"""Which process writes which kept payload: one lock file for all of them, and so one descriptor however many they are.

A payload's lock is one byte of `uploads.lock`, at a place that follows from its key. The kernel keeps it for whoever opened the
file ("open file description lock") and lets go of it however that process ends; the file stays empty. Such a lock never
conflicts with another one of the same opening, so the keys that this process has are noted here as well.

Systems without open file description locks (macOS) have POSIX locks instead, which belong to the process: there, two stores
that one process opens in one folder do not exclude each other.

Source: fcntl(2), "Open file description locks" and "Traditional (process-associated) advisory record locks".
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PayloadLocks"]

_LOCK = struct.Struct("hhqqi4x")
"""struct flock on Linux: type, whence, start, length, process."""

_PLACES = 2**62
"""Payload keys are random: two at one place would exclude each other, which does not happen by chance."""


class PayloadLocks:
    """The locks of one store. Safe in many threads; nothing waits."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, which is made if it is not there."""
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, payload_key: str) -> None:
        """Take the lock of a payload.

        Raises:
            PayloadBusyError: a writer has it, in this process or another.
        """
        with self._lock:
            if payload_key in self._held or not self._change(payload_key, locked=True):
                raise PayloadBusyError(f"another writer has the payload {payload_key}")
            self._held.add(payload_key)

    def release(self, payload_key: str) -> None:
        """Let go of the lock. Without effect where it is not held."""
        with self._lock:
            if payload_key in self._held:
                self._held.discard(payload_key)
                self._change(payload_key, locked=False)

    def close(self) -> None:
        """Let go of every lock. Idempotent."""
        with self._lock:
            self._held.clear()
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _change(self, payload_key: str, *, locked: bool) -> bool:
        """Lock or unlock a payload's byte; False where another process has it."""
        if self._descriptor is None:
            return False
        place = int(payload_key[:16], 16) % _PLACES
        try:
            if hasattr(fcntl, "F_OFD_SETLK"):
                kind = fcntl.F_WRLCK if locked else fcntl.F_UNLCK
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))
            else:
                operation = fcntl.LOCK_EX | fcntl.LOCK_NB if locked else fcntl.LOCK_UN
                fcntl.lockf(self._descriptor, operation, 1, place, os.SEEK_SET)
        except (BlockingIOError, PermissionError):
            return False
        return True
