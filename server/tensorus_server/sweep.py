"""Remove payloads that no tensor refers to: what a crash left, and what was deleted long enough ago.

Four kinds, and how each is known:
    unfinished     begun by a process that is dead: its folder's lock is free
    expired        its upload has not been marked for longer than it may be resumed, and no writer has it; or it has none
    deleted        a tombstone whose grace is over; readers that began before the deletion are done by then
    orphaned       published and never committed: no row and no tombstone has its key, this process is not about to commit it,
                   and it is old enough that no other process can be, either
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError

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
    expired: int
    deleted: int
    orphaned: int


def sweep(
    catalogue: Catalogue,
    chunk_store: ChunkStore,
    *,
    started_s: float,
    orphan_age_s: float,
    uncommitted: Callable[[], frozenset[str]] = frozenset,
    is_closing: Callable[[], bool] = lambda: False,
) -> Swept:
    """Remove what nobody needs any more; a crash in the middle leaves work for the next sweep.

    Args:
        started_s: when this process began to publish, in seconds since 1970: what is older and unknown was left by a dead one,
            if no other lives.
        orphan_age_s: how long ago an unknown payload must have been published otherwise: longer than any commit takes.
        uncommitted: returns the payload keys that this process is about to commit. Their age does not tell: clocks differ, and
            are set back.
        is_closing: returns whether the rest is to be left to the next sweep.
    """
    before_s = time.time() - orphan_age_s
    if not chunk_store.has_other_users():
        before_s = max(before_s, started_s)
    unfinished = chunk_store.sweep_unfinished()
    expired = _sweep_uploads(catalogue, chunk_store, before_s)
    deleted = 0
    while not is_closing() and (keys := catalogue.garbage.due(_BATCH)):
        for key in keys:
            chunk_store.delete(key)
        catalogue.garbage.forget(keys)
        deleted += len(keys)
    orphaned = _sweep_orphans(catalogue, chunk_store, before_s, uncommitted, is_closing)
    swept = Swept(unfinished, expired, deleted, orphaned)
    if any(astuple(swept)):
        _log.info("swept %d unfinished, %d expired, %d deleted and %d orphaned payloads", *astuple(swept))
    return swept


def _sweep_uploads(catalogue: Catalogue, chunk_store: ChunkStore, before_s: float) -> int:
    expired = 0
    for upload in catalogue.uploads.expired(_BATCH):
        # A stream at work is never without a mark for so long, unless it waits for its client: then it goes on to have it.
        with suppress(PayloadBusyError):
            if upload.generation is None:
                chunk_store.drop(upload.payload_key)
                expired += 1
            catalogue.uploads.drop(upload.request_id, upload.item)
    strays = [stored.key for stored in chunk_store.kept() if stored.modified_s < before_s]
    for key in catalogue.uploads.unknown(strays) if strays else []:
        with suppress(PayloadBusyError):
            chunk_store.drop(key)
            expired += 1
    return expired


def _sweep_orphans(
    catalogue: Catalogue,
    chunk_store: ChunkStore,
    before_s: float,
    uncommitted: Callable[[], frozenset[str]],
    is_closing: Callable[[], bool],
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
        if is_closing():
            return orphaned
        if stored.modified_s < before_s:
            batch.append(stored.key)
        if len(batch) == _BATCH:
            orphaned += remove_unknown()
    if batch:
        orphaned += remove_unknown()
    return orphaned
