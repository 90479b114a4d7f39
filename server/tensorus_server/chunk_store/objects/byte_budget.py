"""How much memory something may take in the whole process."""

from __future__ import annotations

import threading

__all__ = ["ByteBudget"]


class ByteBudget:
    """A number of bytes that many threads take from and give back to. Nobody waits for it. Thread-safe."""

    def __init__(self, total: int) -> None:
        """Start with `total` bytes."""
        self._total = total
        self._lock = threading.Lock()
        self._taken = 0
        self.peak = 0
        """The most bytes that were taken at one time."""

    @property
    def taken(self) -> int:
        """Bytes that are taken now."""
        return self._taken

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing is left, or more was taken than there was."""
        return self._taken >= self._total

    def take(self, size: int) -> None:
        """Take bytes, whether or not there are so many."""
        with self._lock:
            self._taken += size
            self.peak = max(self.peak, self._taken)

    def try_take(self, size: int) -> bool:
        """Take bytes if there are so many, and return whether there were."""
        with self._lock:
            if self._taken + size > self._total:
                return False
            self._taken += size
            self.peak = max(self.peak, self._taken)
            return True

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._taken -= size
