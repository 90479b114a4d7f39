"""A write log in memory, as several processes share it: what the catalogue keeps for a store of objects."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence

from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError
from tensorus_server.payload_keys import PackedKey, parse_key

__all__ = ["MemoryWriteLog", "SharedLog"]


class SharedLog:
    """What all processes have noted: of each key its writer, None if it is parked, and its generation."""

    def __init__(self) -> None:
        """Start empty."""
        self.lock = threading.Lock()
        self.begun: dict[str, tuple[int | None, int]] = {}
        self.garbage: list[str] = []
        """Keys that were given up, whose objects are to be deleted."""
        self.living: set[int] = set()
        self.numbers = itertools.count(1)

    def commit(self, keys: Iterable[str], member: int) -> list[str]:
        """Do what the commit of a catalogue does; return the keys that it refuses, since others have taken them over."""
        refused = []
        with self.lock:
            for key in keys:
                parsed = parse_key(key)
                if isinstance(parsed, PackedKey):
                    self.begun.pop(f"pack/{parsed.pack}", None)
                elif parsed is not None and self.begun.get(parsed.payload_key) == (member, parsed.generation):
                    del self.begun[parsed.payload_key]
                else:
                    refused.append(key)
        return refused


class MemoryWriteLog:
    """The log as one member uses it. It counts its calls."""

    def __init__(self, shared: SharedLog | None = None) -> None:
        """Join as a new member."""
        self.shared = shared or SharedLog()
        self.begins = 0
        """How often keys were begun."""
        self._member = 0
        self.join()

    @property
    def number(self) -> int:
        """See `WriteLog`."""
        return self._member

    def join(self) -> None:
        """Join under a new number, as a process does whose lease was lost."""
        with self.shared.lock:
            self._member = next(self.shared.numbers)
            self.shared.living.add(self._member)

    def die(self) -> None:
        """End without a word, and be declared dead: whatever was begun is parked."""
        with self.shared.lock:
            self.shared.living.discard(self._member)
            for key, (member, generation) in self.shared.begun.items():
                if member == self._member:
                    self.shared.begun[key] = (None, generation)

    def require(self) -> None:
        """See `WriteLog`: nobody declares this member dead."""

    def begin(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        self.begins += 1
        with self.shared.lock:
            assert not self.shared.begun.keys() & set(keys)
            self.shared.begun.update((key, (self._member, 1)) for key in keys)

    def take_over(self, payload_key: str) -> int:
        """See `WriteLog`."""
        with self.shared.lock:
            if payload_key not in self.shared.begun:
                raise PayloadMissingError(f"nobody writes the payload {payload_key}")
            member, generation = self.shared.begun[payload_key]
            if member is not None and member != self._member and member in self.shared.living:
                raise PayloadBusyError(f"another writer has the payload {payload_key}")
            self.shared.begun[payload_key] = (self._member, generation + 1)
            return generation + 1

    def park(self, payload_key: str) -> None:
        """See `WriteLog`."""
        with self.shared.lock:
            member, generation = self.shared.begun.get(payload_key, (None, 0))
            if member == self._member:
                self.shared.begun[payload_key] = (None, generation)

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """See `WriteLog`."""
        with self.shared.lock:
            mine = self._mine(keys)
            for key in mine:
                del self.shared.begun[key]
            self.shared.garbage += mine
            return mine

    def forget(self, keys: Sequence[str]) -> None:
        """See `WriteLog`."""
        with self.shared.lock:
            for key in self._mine(keys):
                del self.shared.begun[key]

    def _mine(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if self.shared.begun.get(key, (None, 0))[0] == self._member]
