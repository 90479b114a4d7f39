"""How the processes of one machine share a cache's folder: each has a share of it, in which it alone writes and removes.

    <folder>/<share>.lock    locked by the process that has the share; the kernel releases it when the process ends
    <folder>/used            8 bytes for each share, little-endian: how many units its blocks take; rewritten all the time

All of them read the blocks of all. A share is no fixed part of the limit: a process may use what others do not. Before it
writes, it says so in `used` and adds up what all say, so that no two take the same room. A process that has more than its fair
part gives some of it back when all is used.
"""

from __future__ import annotations

import fcntl
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["SHARES_MAX", "Shares"]

SHARES_MAX = 256

_NUMBER = struct.Struct("<Q")


class Shares:
    """The shares of a cache's folder, and which of them this process has. Methods raise `OSError`."""

    def __init__(self, folder: Path, count: int, units_max: int) -> None:
        """Take no share yet.

        Args:
            count: of processes that use the folder, 1 to `SHARES_MAX`.
            units_max: of all of them together.
        """
        self._folder = folder
        self.count = count
        self._units_max = units_max
        self.own: int | None = None
        """The share of this process; None: all are taken."""
        self._locks: list[int] = []
        self._used: int | None = None

    @property
    def fair_units(self) -> int:
        """The part of the limit that a process keeps when all is used."""
        return self._units_max // self.count

    def take(self) -> bool:
        """Take a share, unless this process has one; return whether it does."""
        if self.own is None:
            for share in range(self.count):
                if self._lock(share):
                    self.own = share
                    break
        return self.own is not None

    def leftover(self) -> Iterator[int]:
        """Yield the shares that no process can take any more, and that this one is to adopt: there were more processes."""
        if self.own is None:
            return
        for share in range(self.own + self.count, SHARES_MAX, self.count):
            if (self._folder / str(share)).is_dir() and self._lock(share):
                yield share
                os.close(self._locks.pop())

    def declare(self, units: int) -> int:
        """Say how much the blocks of this process take; return how much all take, in units."""
        if self.own is None:
            return self._units_max
        self._write(self.own, units)
        raw = os.pread(self._descriptor(), self.count * _NUMBER.size, 0)
        declared: list[int] = [
            number for (number,) in _NUMBER.iter_unpack(raw[: len(raw) // _NUMBER.size * _NUMBER.size])
        ]
        declared[self.own] = 0
        # No other has more than all may have: a damaged number must not stop the cache for ever.
        return units + sum(min(number, self._units_max) for number in declared)

    def close(self) -> None:
        """Give the shares up. Idempotent."""
        self.own = None
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks.clear()
        if self._used is not None:
            os.close(self._used)
            self._used = None

    def _lock(self, share: int) -> bool:
        descriptor = os.open(self._folder / f"{share}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._locks.append(descriptor)
        return True

    def _write(self, share: int, units: int) -> None:
        os.pwrite(self._descriptor(), _NUMBER.pack(units), share * _NUMBER.size)

    def _descriptor(self) -> int:
        if self._used is None:
            self._used = os.open(self._folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._used
