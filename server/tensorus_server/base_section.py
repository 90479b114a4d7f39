"""The base section of a payload: for each of its records that is stored as differences, where the record of its base is.

It has the stored form of a chunk table (`chunk_table.py`), with a run for consecutive records of the payload in place of
consecutive chunks of a tensor: payload 0 means that the records need no base. `IndexEnd` says where it is, and how many
payloads build on each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_table import ChunkTable, Run

if TYPE_CHECKING:
    from tensorus_server.model import Locator

__all__ = ["BasePlace", "BaseSection"]


@dataclass(frozen=True)
class BasePlace:
    """Where the record of a base is."""

    locator: Locator
    """Its payload, in the chunk store."""
    number: int
    """The record's number in that payload."""
    depth: int
    """The depth of that payload, or more."""


class BaseSection:
    """A base section that grows record by record. Not thread-safe."""

    def __init__(self) -> None:
        """Start without records."""
        self.depth = 0
        """The depth of the payload: how many payloads with bases build on each other, up to this one."""
        self._locators: dict[str, Locator] = {}
        self._numbers: dict[str, int] = {}
        self._runs: list[Run] = []
        self._count = 0

    def __len__(self) -> int:
        """Return the number of payloads with bases; 0: no record needs a base."""
        return len(self._locators)

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the payloads with bases in the chunk store."""
        return tuple(self._locators)

    def add(self, record: int, base: BasePlace) -> None:
        """Note the base of a record of this payload.

        Args:
            record: its number, larger than those before. The records in between need no base.
        """
        self._fill(record)
        key = base.locator.key
        self._locators.setdefault(key, base.locator)
        self._append(self._numbers.setdefault(key, len(self._numbers) + 1), base.number, 1)
        self.depth = max(self.depth, base.depth + 1)

    def packed(self, records: int) -> bytes:
        """Return the stored form.

        Args:
            records: number of records in the payload; no more are added.
        """
        self._fill(records)
        return ChunkTable(tuple(self._locators.values()), self._runs).packed()

    def _fill(self, record: int) -> None:
        if record > self._count:
            self._append(0, 0, record - self._count)

    def _append(self, payload: int, first: int, count: int) -> None:
        self._count += count
        last = self._runs[-1] if self._runs else None
        if last is not None and payload and (last.payload, last.first + last.count) == (payload, first):
            self._runs[-1] = Run(payload, last.first, last.count + count)
        else:
            self._runs.append(Run(payload, first, count))
