"""Fetches payloads in packs before they are opened.

Payloads that were inserted together follow each other in a pack, and are often read together. Announced ones that do are
fetched by one GET, up to `_FETCH_BYTES_MAX`, several GETs at a time. What was fetched counts towards the readers' budget until
all payloads of its GET were opened or given up; beyond the budget, `open` makes the GET itself.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tensorus_server.background import result_of
from tensorus_server.chunk_store.abc import ChunkStoreError
from tensorus_server.chunk_store.objects.names import pack_name
from tensorus_server.errors import EngineError, StoreUnavailableError
from tensorus_server.limits import SEGMENT_OBJECT_BYTES
from tensorus_server.payload_keys import PackedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.chunk_store.objects.reader import ReaderParts

__all__ = ["PackedAhead"]

_FETCH_BYTES_MAX = SEGMENT_OBJECT_BYTES // 2
"""Up to this size, payloads are fetched together, unless a single one is larger."""

_GAP_BYTES_MAX = 64 * 1024
"""Unneeded bytes between two payloads up to which they are fetched together."""


@dataclass(eq=False)
class _Group:
    """Payloads of one pack that are fetched together."""

    pack: str
    start: int
    end: int
    unopened: set[PackedKey]
    future: Future[memoryview] = field(default_factory=Future)


class PackedAhead:
    """What was fetched and not opened. Thread-safe."""

    def __init__(self, parts: ReaderParts) -> None:
        """Fetch with the threads, and within the budget, of the readers."""
        self._parts = parts
        self._lock = threading.Lock()
        # The groups that have a payload; several reads may have announced it.
        self._groups: dict[PackedKey, list[_Group]] = {}

    def start(self, keys: Sequence[str]) -> Callable[[], None]:
        """See `PayloadStore.fetch_ahead`."""
        packed = [key for key in map(parse_key, keys) if isinstance(key, PackedKey) and key.length]
        groups: list[_Group] = []
        for key in packed:
            end = key.offset + key.length
            last = groups[-1] if groups else None
            if (
                last is not None
                and last.pack == key.pack
                and last.end <= key.offset <= last.end + _GAP_BYTES_MAX
                and end - last.start <= _FETCH_BYTES_MAX
            ):
                last.end = end
                last.unopened.add(key)
            else:
                groups.append(_Group(key.pack, key.offset, end, {key}))
        started = []
        for group in groups:
            if not self._start(group):
                break
            started.append(group)

        def give_up() -> None:
            for group in started:
                self._forget(group, set(group.unopened))

        return give_up

    def take(self, key: PackedKey) -> memoryview | None:
        """Return a payload that was fetched, or wait for it; None: it has to be fetched now."""
        with self._lock:
            groups = self._groups.get(key)
            if not groups:
                return None
            group = groups[0]
        try:
            fetched = result_of(group.future, "a range of a pack")
        except (ChunkStoreError, EngineError, CancelledError):
            # Whoever asks now gets the error of the request for this payload.
            return None
        finally:
            self._forget(group, {key})
        found = fetched[key.offset - group.start : key.offset - group.start + key.length]
        return found if found.nbytes == key.length else None

    def _start(self, group: _Group) -> bool:
        """Start to fetch, if there is memory for it; return whether it did."""
        size = group.end - group.start
        if not self._parts.budget.try_take(size):
            return False
        try:
            group.future = self._parts.pool.submit(self._parts.client.get, pack_name(group.pack), group.start, size)
        except StoreUnavailableError:
            self._parts.budget.give(size)
            return False
        with self._lock:
            for key in group.unopened:
                self._groups.setdefault(key, []).append(group)
        return True

    def _forget(self, group: _Group, keys: set[PackedKey]) -> None:
        """Note that payloads of a group were opened or given up; give its memory back after the last one."""
        with self._lock:
            keys &= group.unopened
            group.unopened -= keys
            for key in keys:
                self._groups[key].remove(group)
                if not self._groups[key]:
                    del self._groups[key]
            is_over = bool(keys) and not group.unopened
        if is_over:
            size = group.end - group.start
            group.future.cancel()
            # Only then, since the request holds the memory until it ends.
            group.future.add_done_callback(lambda _: self._parts.budget.give(size))
