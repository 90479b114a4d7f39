"""Deletes payloads that are no longer needed: those of deleted tensors, and those of uploads that nobody resumed.

There are three kinds:
    unfinished     begun by a process that has died: the lock of its folder is free
    expired        its upload has had no mark for longer than it may be resumed, and no writer uses it
    deleted        its tombstone's grace period is over, so readers that began before the deletion have finished

While a backup is made, deleted ones stay, because its copy of the catalogue may need them.

A missing row is no reason to delete a payload here: `orphans.py` handles such payloads, once a day and with more care.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import PayloadStore, Staging

__all__ = ["Swept", "sweep"]

_BATCH = 1000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Swept:
    """How many payloads of each kind were deleted."""

    unfinished: int
    expired: int
    deleted: int


def sweep(
    catalogue: Catalogue,
    payloads: PayloadStore,
    staging: Staging,
    *,
    in_grace: bool = False,
    is_closing: Callable[[], bool] = lambda: False,
) -> Swept:
    """Delete payloads that are no longer needed; after a crash in the middle, the next sweep does the rest.

    Args:
        in_grace: also delete payloads of deleted tensors before their grace period is over. Reads in progress may fail.
        is_closing: returns whether to stop and leave the rest to the next sweep.
    """
    unfinished = staging.sweep_unfinished()
    expired = _sweep_uploads(catalogue, staging, is_closing)
    deleted = 0
    while not is_closing():
        batch = _delete_due(catalogue, payloads, in_grace=in_grace)
        if not batch:
            break
        deleted += batch
    swept = Swept(unfinished, expired, deleted)
    if any(astuple(swept)):
        _log.info("swept %d unfinished, %d expired and %d deleted payloads", *astuple(swept))
    return swept


def _delete_due(catalogue: Catalogue, payloads: PayloadStore, *, in_grace: bool) -> int:
    """Delete a batch of payloads that are due, and return their number."""
    with payloads.sweeping() as may_delete:
        if not may_delete:
            _log.info("a backup is being made: deleted payloads stay until the next sweep")
            return 0
        # Asked for within the block: a backup that ended meanwhile has the payloads of an older state.
        keys = catalogue.garbage.due(_BATCH, in_grace=in_grace)
        for key in keys:
            payloads.delete(key)
        catalogue.garbage.delete(keys)
        return len(keys)


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
