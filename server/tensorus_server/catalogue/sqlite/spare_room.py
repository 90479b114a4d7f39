"""Reserves disk space for deletions on a full disk: a file in the store's folder that is truncated when they need space.

A deletion writes pages to the catalogue's log. On a full disk it could not be committed, although it is what frees space.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SpareRoom"]

_BYTES_MIN = 256 * 1024
_BYTES_MAX = 16 * 1024 * 1024
"""Within these bounds, the file is as large as the catalogue: a transaction writes each of its pages at most once."""

_LOG_OVERHEAD = 65 / 64
"""Per page of 4,096 bytes, the log adds 24 bytes, and its index 8 more."""


class SpareRoom:
    """The file `spare` in the folder of a store; several processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Use the file in `folder`, which is created by `keep_up`."""
        self._path = folder / "spare"
        self._bytes = 0

    def keep_up(self, catalogue_bytes: int) -> None:
        """Reserve the space that a catalogue of this size needs, if the disk has it.

        Does nothing until the catalogue has grown by a quarter, so that it is cheap to call after every commit.
        """
        if sys.platform == "darwin":
            # macOS has no posix_fallocate. There, a deletion on a full disk needs some free space.
            return
        wanted = int(min(max(catalogue_bytes * _LOG_OVERHEAD, _BYTES_MIN), _BYTES_MAX))
        if wanted <= self._bytes:
            return
        wanted = min(wanted + wanted // 4, _BYTES_MAX)
        with suppress(OSError):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, wanted)
                self._bytes = wanted
            finally:
                os.close(descriptor)

    def is_reserved(self) -> bool:
        """Return whether any space is reserved."""
        with suppress(OSError):
            return self._path.stat().st_size > 0
        return False

    def release(self) -> bool:
        """Give the space back to the disk, and return whether any was reserved."""
        self._bytes = 0
        with suppress(OSError):
            had_room = self._path.stat().st_size > 0
            os.truncate(self._path, 0)
            return had_room
        return False
