"""The lock between writers of several processes: `flock` with a timeout.

`flock` serves waiting processes in order, which polling would not. But it has no timeout, and the process that holds the lock
may be suspended. So if the lock is taken, a helper thread waits for it. A caller that times out leaves the helper behind. When
the helper gets the lock, it releases it at once, unless another caller wants it by then.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileLock"]


class FileLock:
    """A lock between processes. Within a process, only one thread at a time may use it."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`; create it if it does not exist."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._changed = threading.Condition()
        self._helper_waits = False
        self._wanted = False
        self._helper_has_it = False

    @property
    def descriptor(self) -> int:
        """The descriptor of the locked file."""
        return self._descriptor

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock; return False if another process still has it after `timeout_s`."""
        with self._changed:
            if not self._helper_waits:
                if self._take_if_free():
                    return True
                descriptor = os.dup(self._descriptor)
                try:
                    threading.Thread(
                        target=self._help, args=(descriptor,), name="tensorus-file-lock", daemon=True
                    ).start()
                except BaseException:
                    os.close(descriptor)
                    raise
                self._helper_waits = True
            self._wanted = True
            try:
                self._changed.wait_for(lambda: self._helper_has_it or not self._helper_waits, timeout_s)
                taken, self._helper_has_it = self._helper_has_it, False
            finally:
                self._wanted = False
            return taken

    def acquire_if_free(self) -> bool:
        """Take the lock if it is free; return whether that succeeded."""
        with self._changed:
            return not self._helper_waits and self._take_if_free()

    def release(self) -> None:
        """Release the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file, which also releases the lock."""
        os.close(self._descriptor)

    def _take_if_free(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _help(self, descriptor: int) -> None:
        """Wait for the lock, and pass it to the caller that wants it."""
        has_it = False
        try:
            # Both descriptors share the lock, so it survives when this one is closed.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            has_it = True
        finally:
            with self._changed:
                self._helper_waits = False
                self._helper_has_it = has_it and self._wanted
                if has_it and not self._wanted:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)
                self._changed.notify_all()
