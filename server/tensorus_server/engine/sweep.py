"""Deletes payloads that are no longer needed: those of deleted tensors, and those of uploads that nobody resumed.

There are four kinds:
    unfinished     begun by a process that has died: the lock of its folder is free
    expired        its upload has had no mark for longer than it may be resumed, and no writer uses it
    deleted        its tombstone's grace period is over, so readers that began before the deletion have finished
    packed         likewise, but its bytes are in a pack, which `packs.py` deletes or empties

While a backup is made, deleted ones stay, because its copy of the catalogue may need them.

A missing row is no reason to delete a payload here: `orphans.py` handles such payloads, once a day and with more care.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError
from tensorus_server.engine.packs import PacksSwept, sweep_packs
from tensorus_server.payload_keys import PACK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import PackStore, PayloadStore, Staging

__all__ = ["Swept", "sweep"]

_BATCH = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """How many payloads of each kind were deleted."""

    unfinished: int
    expired: int
    deleted: int
    packs: int = 0
    """Packs that were deleted, with all that was in them."""
    emptied: int = 0
    """Packs whose payloads were moved to new ones, because little of them was needed."""
    moved: int = 0
    """Payloads that were moved."""
    moved_bytes: int = 0


def sweep(
    catalogue: Catalogue,
    payloads: PayloadStore,
    staging: Staging,
    *,
    packs: PackStore | None = None,
    in_grace: bool = False,
    is_closing: Callable[[], bool] = lambda: False,
) -> Swept:
    """Delete payloads that are no longer needed; after a crash in the middle, the next sweep does the rest.

    Args:
        packs: the store's packs; None: it has none.
        in_grace: also delete payloads of deleted tensors before their grace period is over. Reads in progress may fail.
        is_closing: returns whether to stop and leave the rest to the next sweep.
    """
    unfinished = staging.sweep_unfinished()
    expired = _sweep_uploads(catalogue, staging, is_closing)
    deleted, deleted_packs = _delete_due(catalogue, payloads, packs, in_grace=in_grace, is_closing=is_closing)
    moved = PacksSwept()
    if packs is not None:
        moved = sweep_packs(catalogue.packs, packs, is_closing=is_closing)
        # In their grace period, and of packs that were just retired.
        more, retired = _delete_due(catalogue, payloads, packs, in_grace=in_grace, is_closing=is_closing)
        deleted, deleted_packs = deleted + more, deleted_packs + retired
    swept = Swept(unfinished, expired, deleted, deleted_packs, moved.emptied, moved.moved, moved.moved_bytes)
    if any(astuple(swept)):
        _log.info(
            "swept %d unfinished, %d expired and %d deleted payloads, and %d packs; emptied %d packs of %d payloads, %d bytes",
            *astuple(swept),
        )
    return swept


def _delete_due(
    catalogue: Catalogue,
    payloads: PayloadStore,
    packs: PackStore | None,
    *,
    in_grace: bool,
    is_closing: Callable[[], bool],
) -> tuple[int, int]:
    """Delete the payloads and the packs whose tombstones are due, and return how many of each."""
    deleted = deleted_packs = 0
    while not is_closing():
        with payloads.sweeping() as may_delete:
            if not may_delete:
                _log.info("a backup is being made: deleted payloads stay until the next sweep")
                break
            # Asked for within the block: a backup that ended meanwhile has the payloads of an older state.
            keys = catalogue.garbage.due(_BATCH, in_grace=in_grace)
            for key in keys:
                if packs is not None and (pack := key.removeprefix(PACK_PREFIX)) != key:
                    packs.delete_pack(pack)
                    deleted_packs += 1
                else:
                    payloads.delete(key)
                    deleted += 1
            catalogue.garbage.delete(keys)
        if not keys:
            break
    return deleted, deleted_packs


def _sweep_uploads(catalogue: Catalogue, staging: Staging, is_closing: Callable[[], bool]) -> int:
    expired = 0
    for upload in catalogue.uploads.expired(_BATCH):
        if is_closing():
            break
        # An active stream sets marks more often than this. One that has been waiting for its client for so long still holds
        # its payload, which is then busy and stays.
        with suppress(PayloadBusyError):
            if upload.generation is None:
                staging.drop_kept(upload.payload_key)
                expired += 1
            catalogue.uploads.drop(upload.request_id, upload.item)
    return expired
