"""Locks by key that all processes of a store share, of payloads and of tensors. Locks of a kind use one file and descriptor.

Each key has one byte of the file, whose offset follows from the key; the file stays empty. The lock on the byte belongs to the
opening of the file ("open file description lock"), and the kernel releases it when the process ends, for any reason. Locks of
the same opening never conflict with each other, so this module also records the keys that it holds.

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

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KeyLocks"]

_LOCK = struct.Struct("hhqqi4x")
"""struct flock on Linux: type, whence, start, length, process."""

_PLACES = 2**62
"""Number of offsets. Two keys at the same one would exclude each other, but with random keys that does not happen."""


class KeyLocks:
    """The locks of one file, by keys of at least 16 hexadecimal digits. Thread-safe; no method waits."""

    poll_s = (0.0005, 0.005)
    """How often to look whether another process has released a lock: at first, and at last."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`; create it if it does not exist."""
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self, key: str) -> bool:
        """Take the lock of a key; return False if it is held, in this process or another, or after `close`."""
        with self._lock:
            if key in self._held or not self._change(key, locked=True):
                return False
            self._held.add(key)
            return True

    def acquire_unless(self, key: str, gate: str) -> bool:
        """Take the lock of a key unless somebody has that of `gate`."""
        if not self.acquire(gate):
            return False
        try:
            return self.acquire(key)
        finally:
            self.release(gate)

    def release(self, key: str) -> None:
        """Release the lock; has no effect if it is not held."""
        with self._lock:
            if key in self._held:
                self._held.discard(key)
                self._change(key, locked=False)

    def close(self) -> None:
        """Release all locks. Idempotent."""
        with self._lock:
            self._held.clear()
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def _change(self, key: str, *, locked: bool) -> bool:
        """Lock or unlock a key's byte; return False if another process has locked it."""
        if self._descriptor is None:
            return False
        place = int(key[:16], 16) % _PLACES
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
