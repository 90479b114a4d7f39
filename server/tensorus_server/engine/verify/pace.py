"""Keeps a verification below a number of bytes per second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Pace"]

_PAUSE_MIN_S = 0.01
"""Shorter pauses are put off: they would be longer than asked for, and many of them cost time."""

_PAUSE_MAX_S = 0.5
"""Longer pauses are taken in parts, so that a caller that has gone is noticed."""


_CREDIT_MAX_S = 1.0
"""How much time in which less was read than allowed is made up for: the time that a read itself takes, but no long wait."""


class Pace:
    """Says how long to pause after each read."""

    def __init__(self, bytes_per_second: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Allow `bytes_per_second`; None: any number.

        Args:
            clock: returns seconds.
        """
        self._bytes_per_second = bytes_per_second
        self._clock = clock
        self._free_s = clock()
        """When everything that was read so far is paid for."""

    def pauses(self, read_bytes: int) -> Iterator[float]:
        """Yield how many seconds to pause now, until the bytes that were just read are paid for.

        The caller pauses after each number, before it takes the next one.
        """
        if self._bytes_per_second is None:
            return
        self._free_s = max(self._free_s, self._clock() - _CREDIT_MAX_S) + read_bytes / self._bytes_per_second
        while (left_s := self._free_s - self._clock()) >= _PAUSE_MIN_S:
            yield min(left_s, _PAUSE_MAX_S)
