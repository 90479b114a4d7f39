"""Which blocks the cache holds, in the order of their last use.

A Python dict needs about 180 bytes for an entry, which is 150 MB for 200 GiB of blocks. This index needs 22, and 8 to 16 for
its hash table: columns of numbers, a hash table whose chains run through one of them, and a list in the order of use that runs
through two others. Slot 0 stands for "none".

    column   bytes  of each slot
    names        8  the block's name, a number below 2**60
    units        2  its size
    newer        4  the slot that was used next after this one
    older        4  the slot that was used last before this one
    chain        4  the next slot with the same hash, or the next free slot
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BlockIndex"]


class BlockIndex:
    """Sizes of blocks by name, in the order of their last use. Not thread-safe.

    Memory is reserved for all entries, and used for those that there are.
    """

    def __init__(self, entries_max: int) -> None:
        """Start empty.

        Args:
            entries_max: whoever adds one more must remove one first.
        """
        slots = entries_max + 1
        buckets = 1 << max(entries_max, 1).bit_length()
        self._mask = buckets - 1
        self._entries_max = entries_max
        # Reading single numbers from a memoryview takes half the time that it takes from an array of NumPy.
        self._names = memoryview(np.zeros(slots, np.uint64))
        self._units = memoryview(np.zeros(slots, np.uint16))
        self._newer = memoryview(np.zeros(slots, np.uint32))
        self._older = memoryview(np.zeros(slots, np.uint32))
        self._chain = memoryview(np.zeros(slots, np.uint32))
        self._heads = memoryview(np.zeros(buckets, np.uint32))
        self._oldest = self._newest = 0
        self._free = 0
        self._used_slots = 0
        self._length = 0
        self.units = 0
        """Sum of all sizes."""

    def __len__(self) -> int:
        """Return the number of blocks."""
        return self._length

    @property
    def is_full(self) -> bool:
        """Whether a block must be removed before another one is added."""
        return self._length >= self._entries_max

    def __contains__(self, name: int) -> bool:
        """Return whether there is such a block."""
        return self._find(name) != 0

    def __iter__(self) -> Iterator[int]:
        """Yield the names, the least recently used first."""
        slot = self._oldest
        while slot:
            yield self._names[slot]
            slot = self._newer[slot]

    def add(self, name: int, units: int) -> None:
        """Add a block as the most recently used one, in place of one of this name.

        Args:
            name: below 2**60.
            units: its size, below 2**16.
        """
        self.remove(name)
        slot = self._take_slot()
        self._names[slot], self._units[slot] = name, units
        bucket = name & self._mask
        self._chain[slot], self._heads[bucket] = self._heads[bucket], slot
        self._link(slot)
        self._length += 1
        self.units += units

    def touch(self, name: int) -> bool:
        """Make a block the most recently used one; return whether there is one."""
        slot = self._find(name)
        if slot and slot != self._newest:
            self._unlink(slot)
            self._link(slot)
        return slot != 0

    def remove(self, name: int) -> int:
        """Remove a block, and return its size; 0: there is none."""
        bucket = name & self._mask
        before, slot = 0, self._heads[bucket]
        while slot and self._names[slot] != name:
            before, slot = slot, self._chain[slot]
        if not slot:
            return 0
        if before:
            self._chain[before] = self._chain[slot]
        else:
            self._heads[bucket] = self._chain[slot]
        self._unlink(slot)
        self._chain[slot], self._free = self._free, slot
        units = self._units[slot]
        self._length -= 1
        self.units -= units
        return units

    def oldest(self) -> int | None:
        """Return the name of the least recently used block; None: there are no blocks."""
        return self._names[self._oldest] if self._oldest else None

    def _find(self, name: int) -> int:
        slot = self._heads[name & self._mask]
        while slot and self._names[slot] != name:
            slot = self._chain[slot]
        return slot

    def _take_slot(self) -> int:
        if self._free:
            slot, self._free = self._free, self._chain[self._free]
            return slot
        if self._used_slots >= self._entries_max:
            raise ValueError(f"the index holds {self._entries_max} blocks, and no more (entries_max)")
        self._used_slots += 1
        return self._used_slots

    def _link(self, slot: int) -> None:
        self._older[slot], self._newer[slot] = self._newest, 0
        if self._newest:
            self._newer[self._newest] = slot
        else:
            self._oldest = slot
        self._newest = slot

    def _unlink(self, slot: int) -> None:
        older, newer = self._older[slot], self._newer[slot]
        if older:
            self._newer[older] = newer
        else:
            self._oldest = newer
        if newer:
            self._older[newer] = older
        else:
            self._newest = older
