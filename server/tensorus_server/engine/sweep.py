"""Remove what rows say is not needed any more: what was deleted long enough ago, and uploads that nobody went on with.

Three kinds, and how each is known:
    unfinished     begun by a process that is dead: its folder's lock is free
    expired        its upload has not been marked for longer than it may be resumed, and no writer has it
    deleted        a tombstone whose grace is over; readers that began before the deletion are done by then

Nothing is removed here because a row is missing: `unknown.py` looks for such payloads, once a day and with more care.
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
    """How many payloads were removed."""

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
    """Remove what nobody needs any more; a crash in the middle leaves work for the next sweep.

    Args:
        in_grace: remove payloads of deleted tensors whose grace is not over, too. Reads that began before may fail.
        is_closing: returns whether the rest is to be left to the next sweep.
    """
    unfinished = staging.sweep_unfinished()
    expired = _sweep_uploads(catalogue, staging, is_closing)
    deleted = 0
    while not is_closing() and (keys := catalogue.garbage.due(_BATCH, in_grace=in_grace)):
        for key in keys:
            payloads.delete(key)
        catalogue.garbage.delete(keys)
        deleted += len(keys)
    swept = Swept(unfinished, expired, deleted)
    if any(astuple(swept)):
        _log.info("swept %d unfinished, %d expired and %d deleted payloads", *astuple(swept))
    return swept


def _sweep_uploads(catalogue: Catalogue, staging: Staging, is_closing: Callable[[], bool]) -> int:
    expired = 0
    for upload in catalogue.uploads.expired(_BATCH):
        if is_closing():
            break
        # A stream at work is never without a mark for so long, unless it waits for its client: then it goes on to have it.
        with suppress(PayloadBusyError):
            if upload.generation is None:
                staging.drop_kept(upload.payload_key)
                expired += 1
            catalogue.uploads.drop(upload.request_id, upload.item)
    return expired
