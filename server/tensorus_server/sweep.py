"""Remove payloads that no tensor refers to: what a crash left, and what was deleted long enough ago.

Three kinds, and how each is known:
    unfinished     begun by a process that is dead: its folder's lock is free
    deleted        a tombstone whose grace is over; readers that began before the deletion are done by then
    orphaned       published and never committed: no row and no tombstone has its key, this process is not about to commit it,
                   and it is old enough that no other process can be, either
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import ChunkStore

__all__ = ["Swept", "sweep"]

_BATCH = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """How many payloads were removed."""

    unfinished: int
    deleted: int
    orphaned: int


def sweep(
    catalogue: Catalogue,
    chunk_store: ChunkStore,
    *,
    started_s: float,
    orphan_age_s: float,
    uncommitted: Callable[[], frozenset[str]] = frozenset,
) -> Swept:
    """Remove what nobody needs any more; a crash in the middle leaves work for the next sweep.

    Args:
        started_s: when this process began to publish, in seconds since 1970: what is older and unknown was left by a dead one,
            if no other lives.
        orphan_age_s: how long ago an unknown payload must have been published otherwise: longer than any commit takes.
        uncommitted: returns the payload keys that this process is about to commit. Their age does not tell: clocks differ, and
            are set back.
    """
    before_s = time.time() - orphan_age_s
    if not chunk_store.has_other_users():
        before_s = max(before_s, started_s)
    unfinished = chunk_store.sweep_unfinished()
    deleted = 0
    while keys := catalogue.garbage.due(_BATCH):
        for key in keys:
            chunk_store.delete(key)
        catalogue.garbage.forget(keys)
        deleted += len(keys)
    orphaned = _sweep_orphans(catalogue, chunk_store, before_s, uncommitted)
    if unfinished or deleted or orphaned:
        _log.info("swept %d unfinished, %d deleted and %d orphaned payloads", unfinished, deleted, orphaned)
    return Swept(unfinished, deleted, orphaned)


def _sweep_orphans(
    catalogue: Catalogue, chunk_store: ChunkStore, before_s: float, uncommitted: Callable[[], frozenset[str]]
) -> int:
    orphaned = 0
    batch: list[str] = []

    def remove_unknown() -> int:
        # Asked first: whatever of the batch is no longer uncommitted then has its row when the catalogue is asked.
        under_way = uncommitted()
        orphans = [key for key in catalogue.garbage.unknown(batch) if key.rpartition("/")[2] not in under_way]
        for key in orphans:
            chunk_store.delete(key)
        batch.clear()
        return len(orphans)

    for stored in chunk_store.published():
        if stored.modified_s < before_s:
            batch.append(stored.key)
        if len(batch) == _BATCH:
            orphaned += remove_unknown()
    if batch:
        orphaned += remove_unknown()
    return orphaned
