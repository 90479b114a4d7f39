"""The lock that writers of several processes take turns by: `flock`, with a limit on the wait.

`flock` serves those who wait in turn, which polling would not; but it waits for ever, and the process that has the lock may
have been stopped. So where the lock is not free a helper thread waits for it. Whoever gives up leaves the helper behind. It
lets go of the lock as soon as it has it, unless somebody wants it again by then.
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
    """One thread at a time; other processes as they like."""

    def __init__(self, path: Path) -> None:
        """Use the file at `path`, which is made if it is not there."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._changed = threading.Condition()
        self._helper_waits = False
        self._wanted = False
        self._helper_has_it = False

    @property
    def descriptor(self) -> int:
        """Of the locked file."""
        return self._descriptor

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock; False where another process has it for so long."""
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
        """Take the lock if nobody has it; return whether it is taken."""
        with self._changed:
            return not self._helper_waits and self._take_if_free()

    def release(self) -> None:
        """Let go of the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _take_if_free(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _help(self, descriptor: int) -> None:
        """Wait for the lock, and hand it over to whoever wants it."""
        has_it = False
        try:
            # The lock belongs to both descriptors: closing this one leaves it with the other.
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
