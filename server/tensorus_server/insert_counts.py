"""What one insert keeps count of: its items and how they ended, and those that wait for each other.

Safe in many threads: items are announced on the stream's, sealed on others, and committed on the committer's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tensorus_server.limits import UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ITEMS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.chunk_store.abc import ChunkStore, StagedPayload
    from tensorus_server.model import Tensor

__all__ = ["Counts", "Together"]


class Together:
    """Sealed items that wait for the others of their insert."""

    def __init__(self, chunk_store: ChunkStore) -> None:
        """Start with none; payloads are in `chunk_store`."""
        self._chunk_store = chunk_store
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, StoredTensor, StagedPayload | None]] = []
        self.inline_bytes = 0
        """Stored bytes of those in memory."""

    def count(self) -> int:
        """Return how many wait."""
        with self._lock:
            return len(self._waiting)

    def add(self, item: int, stored: StoredTensor, staged: StagedPayload | None) -> None:
        """Let one more wait."""
        with self._lock:
            self._waiting.append((item, stored, staged))
            self.inline_bytes += len(stored.inline_payload or b"")

    def take(self) -> list[tuple[int, StoredTensor, StagedPayload | None]]:
        """Return all, which wait no more."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            return waiting

    def park(self) -> int:
        """Leave what was marked to be resumed, drop the rest, and return how many there were."""
        waiting = self.take()
        for _, _, staged in waiting:
            if staged is not None:
                self._chunk_store.park(staged)
        return len(waiting)


class Counts:
    """How many items there were, and how they ended."""

    def __init__(self) -> None:
        """Start with none."""
        self._changed = threading.Condition()
        self._unsettled = 0
        self._uncommitted = 0
        self._uncommitted_bytes = 0
        self.begun = 0
        """Items that were announced."""
        self.succeeded = 0
        """Items that were committed."""
        self.failed = 0
        """Items that were not."""

    @property
    def unsettled(self) -> int:
        """How many were announced, and have no result."""
        return self._unsettled

    def begin(self, items: int = 1) -> None:
        """Count items as announced."""
        with self._changed:
            self._unsettled += items
            self.begun += items

    def end(self, outcomes: Sequence[Tensor | Exception]) -> None:
        """Count items as reported."""
        with self._changed:
            failed = sum(isinstance(outcome, Exception) for outcome in outcomes)
            self._unsettled -= len(outcomes)
            self.succeeded += len(outcomes) - failed
            self.failed += failed
            self._changed.notify_all()

    def begin_commit(self, items: int, inline_bytes: int) -> None:
        """Wait until so much more may wait for its commit, or nothing else does, and count it."""

        def may() -> bool:
            all_items, all_bytes = self._uncommitted + items, self._uncommitted_bytes + inline_bytes
            return not self._uncommitted or (all_items <= UNCOMMITTED_ITEMS_MAX and all_bytes <= UNCOMMITTED_BYTES_MAX)

        with self._changed:
            self._changed.wait_for(may)
            self._uncommitted += items
            self._uncommitted_bytes += inline_bytes

    def end_commit(self, items: int, inline_bytes: int) -> None:
        """Count so much as committed, or as never to be."""
        with self._changed:
            self._uncommitted -= items
            self._uncommitted_bytes -= inline_bytes
            self._changed.notify_all()

    def drop(self, items: int = 1) -> None:
        """Count items as gone without a report."""
        with self._changed:
            self._unsettled -= items
            self._changed.notify_all()

    def changed(self) -> None:
        """Let `wait` look again."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, waiting: Callable[[], int] = lambda: 0) -> None:
        """Wait until every item is settled, but for as many as `waiting` returns."""
        with self._changed:
            self._changed.wait_for(lambda: self._unsettled == waiting())
