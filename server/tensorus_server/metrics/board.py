"""The values of all metrics of one process: an array of numbers, which another process may read at any time.

Each series has a fixed place in the array. A server of one process keeps it to itself. A worker's array is in memory that its
supervisor has given it and still has when the worker is dead. So nothing that a worker counted is lost with it, and the
supervisor reads without asking the worker, which may hang.

    place 0    a checksum of the layout: a worker of another version refuses the memory
    place 1    whether the process looks up the sizes of the store, which one of several does
    then       the families in order; each series has one place, or those of its buckets and of their sum

A gauge that has no value is NaN.
"""

from __future__ import annotations

import math
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from tensorus_server.meters import BUCKETS_S
from tensorus_server.metrics.families import FAMILIES, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_server.metrics.families import Family

__all__ = ["GROWING", "PLACES", "Board", "Place"]

_HEAD = 2
_NUMBER_BYTES = 8
_TIMED = len(BUCKETS_S) + 2
"""Places of a histogram: its buckets, the last one without an upper bound, and the sum."""

GROWING = frozenset({Kind.COUNTER, Kind.HISTOGRAM})
"""The kinds whose values only grow."""


@dataclass(frozen=True)
class Place:
    """Where the series of a family are."""

    family: Family
    start: int
    step: int
    """Places of each series."""


def _layout() -> tuple[dict[str, Place], int]:
    places, start = {}, _HEAD
    for family in FAMILIES:
        step = _TIMED if family.kind is Kind.HISTOGRAM else 1
        places[family.name] = Place(family, start, step)
        start += step * len(family.values)
    return places, start


PLACES, _LENGTH = _layout()
"""By the family's name, in the order of the families; the number of places."""

_INDEX = {
    (name, *labels): place.start + place.step * number
    for name, place in PLACES.items()
    for number, labels in enumerate(place.family.values)
}
"""The first place of each series, by the family's name and the values of the labels."""

_CHECKSUM = float(crc32(repr((FAMILIES, BUCKETS_S)).encode()))


class Board:
    """See the module's description. Whoever writes a place from several threads needs a lock; readers need none."""

    def __init__(self, memory: mmap.mmap | None = None) -> None:
        """Start without values, and with the sizes of the store to look up.

        Args:
            memory: shared with another process; None: of this process alone.
        """
        self._memory = memory
        self.values = memoryview(bytearray(_LENGTH * _NUMBER_BYTES) if memory is None else memory).cast("d")
        """All places."""
        if self.values[0] != _CHECKSUM:
            self.values[0], self.values[1] = _CHECKSUM, 1.0
            for place in PLACES.values():
                if place.family.kind not in GROWING:
                    for index in range(place.start, place.start + len(place.family.values)):
                        self.values[index] = math.nan

    @classmethod
    def for_worker(cls, *, looks: bool) -> tuple[Board, int]:
        """Return a board, and the descriptor of its memory, for a process to inherit. The caller closes the descriptor."""
        descriptor = os.memfd_create("tensorus-metrics")
        try:
            os.ftruncate(descriptor, _LENGTH * _NUMBER_BYTES)
            board = cls(mmap.mmap(descriptor, _LENGTH * _NUMBER_BYTES))
        except BaseException:
            os.close(descriptor)
            raise
        board.values[1] = float(looks)
        return board, descriptor

    @classmethod
    def inherited(cls, descriptor: int) -> Board | None:
        """Return the board that this process inherited, and close the descriptor.

        Returns:
            None if the supervisor, which has run since before an upgrade, has metrics of another version.
        """
        try:
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        with memoryview(memory) as raw, raw.cast("d") as values:
            is_same = len(values) == _LENGTH and values[0] == _CHECKSUM
        if not is_same:
            memory.close()
            return None
        return cls(memory)

    @property
    def looks(self) -> bool:
        """Whether the process looks up the sizes of the store."""
        return self.values[1] == 1.0

    def put(self, name: str, value: float | None, *labels: str) -> None:
        """Set a value; None: it has none.

        Raises:
            KeyError: there is no such series.
        """
        self.values[_INDEX[(name, *labels)]] = math.nan if value is None else value

    def put_timings(self, name: str, counts: Sequence[int], sum_s: float) -> None:
        """Set a histogram."""
        start = PLACES[name].start
        for bucket, count in enumerate(counts):
            self.values[start + bucket] = count
        self.values[start + len(counts)] = sum_s

    def close(self) -> None:
        """Give up the memory. Idempotent; nothing may use the board any more."""
        self.values.release()
        if self._memory is not None:
            self._memory.close()
