"""Private folders that live as long as their process, in shared memory or, if that is small, among temporary files.

Each folder has a file that its process keeps locked. A killed process leaves its folder behind, unlocked; the next process that
creates a folder removes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TextIO

__all__ = ["MemoryFolder", "memory_root"]

_PREFIX = "tensorus-memory-"
_LOCK_FILE = "owner.lock"

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - private folders are made in it
_FREE_BYTES_MIN = 2 * 1024**3
"""Free space required to use it: an engine leaves 1 GiB free. Containers often have only 64 MiB there."""

_LOCKED_WITHIN_S = 60.0
"""A folder of at least this age that is not locked has no owner."""


class MemoryFolder:
    """A new folder. The owner must call `remove`, at the latest when the process ends."""

    def __init__(self) -> None:
        """Create the folder, and remove folders of killed processes."""
        root = memory_root()
        _remove_abandoned(root)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        self._lock = (self.path / _LOCK_FILE).open("w")
        _try_lock(self._lock)

    def remove(self) -> None:
        """Remove the folder with its contents. Idempotent."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def memory_root() -> Path:
    """Return the folder in which such folders are created."""
    try:
        has_space = shutil.disk_usage(_SHARED_MEMORY).free >= _FREE_BYTES_MIN
    except OSError:
        has_space = False
    return _SHARED_MEMORY if has_space and os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        # Ignore another user's folder, or one that another process is removing.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _LOCKED_WITHIN_S:
                continue
            with (folder / _LOCK_FILE).open("a") as lock:
                if _try_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def _try_lock(file: TextIO) -> bool:
    import fcntl  # noqa: PLC0415 - missing on Windows, as is the engine

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
