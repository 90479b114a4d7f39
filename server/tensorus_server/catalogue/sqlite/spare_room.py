"""Room that is kept for deletions on a full disk: a file of the store that is emptied when they need it.

A deletion writes pages to the catalogue's log, and where no block is left, not even what makes room could be committed.
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
"""Between the two it is as large as the catalogue: a transaction writes each of its pages once at most."""

_LOG_OVERHEAD = 65 / 64
"""What the log and its index add to a page: 24 bytes to 4,096, and 8 more."""


class SpareRoom:
    """The file `spare` in the folder of a store; several processes may use it."""

    def __init__(self, folder: Path) -> None:
        """Use the folder."""
        self._path = folder / "spare"
        self._bytes = 0

    def keep_up(self, catalogue_bytes: int) -> None:
        """Take as much room as a catalogue of this size needs, or as much of it as there is.

        Without effect until the catalogue has grown by a quarter, so that this may be called after every commit.
        """
        if sys.platform == "darwin":
            # It has no call that takes room. A deletion on a full disk needs a little of it there.
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

    def release(self) -> bool:
        """Give the room back to the disk, and return whether there was any."""
        self._bytes = 0
        with suppress(OSError):
            had_room = self._path.stat().st_size > 0
            os.truncate(self._path, 0)
            return had_room
        return False
