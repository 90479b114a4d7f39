"""Locks on kept payloads, so that only one process writes each. All use one lock file, and so a single descriptor.

Each payload has one byte of `uploads.lock`, whose offset follows from the payload's key; the file stays empty. The lock on it
belongs to the opening of the file ("open file description lock"), and the kernel releases it when the process ends, for any
reason. Locks of the same opening never conflict with each other, so this module also records the keys that it holds.

On systems without open file description locks (macOS), POSIX locks are used, which belong to the process. There, two stores
that one process opens in the same folder do not exclude each other.

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
"""Number of offsets. Two payloads at the same one would exclude each other, but with random keys that does not happen."""


class PayloadLocks:
    """The locks of one store. Thread-safe; no method waits."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`; create it if it does not exist."""
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, payload_key: str) -> None:
        """Take the lock of a payload.

        Raises:
            PayloadBusyError: a writer holds it, in this process or another.
        """
        with self._lock:
            if payload_key in self._held or not self._change(payload_key, locked=True):
                raise PayloadBusyError(f"another writer has the payload {payload_key}")
            self._held.add(payload_key)

    def release(self, payload_key: str) -> None:
        """Release the lock; has no effect if it is not held."""
        with self._lock:
            if payload_key in self._held:
                self._held.discard(payload_key)
                self._change(payload_key, locked=False)

    def close(self) -> None:
        """Release all locks. Idempotent."""
        with self._lock:
            self._held.clear()
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _change(self, payload_key: str, *, locked: bool) -> bool:
        """Lock or unlock a payload's byte; return False if another process has locked it."""
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
