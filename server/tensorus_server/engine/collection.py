"""The engine's collection of garbage: sweeps, the daily listing, and the quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.engine.orphans import empty_quarantine, quarantine_orphans
from tensorus_server.engine.sweep import sweep
from tensorus_server.engine.writing import writing

if TYPE_CHECKING:
    import threading

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import ChunkStore, PayloadStore, Quarantine
    from tensorus_server.engine.insert.committer import Committer
    from tensorus_server.engine.membership import Membership
    from tensorus_server.engine.orphans import Listing
    from tensorus_server.engine.sweep import Swept

__all__ = ["Collection"]

_LIST_EVERY_S = 86400.0

_SWEEP = "sweep"
"""The lease of the member that sweeps."""

_PRUNE_WAIT_S = 60.0
"""How long a sweep waits for another process that is deleting past tensors."""


class Collection:
    """A part of `Engine`, which sets the attributes."""

    _catalogue: Catalogue
    _chunk_store: ChunkStore
    _payloads: PayloadStore
    _committer: Committer
    _membership: Membership | None
    _closing: threading.Event
    _orphan_age_s: float
    _quarantine_s: float

    @writing
    def sweep(self, *, in_grace: bool = False) -> Swept:
        """Delete payloads that are no longer needed; also runs in the background, once a minute. See `sweep.sweep`.

        With `in_grace`, past tensors that nothing needs are deleted first.
        """
        store = self._chunk_store
        if in_grace:
            self._catalogue.snapshots.prune(lambda _: self._closing.is_set(), wait_s=_PRUNE_WAIT_S)
        return sweep(
            self._catalogue,
            self._payloads,
            store,
            packs=store.packs,
            in_grace=in_grace,
            is_closing=self._closing.is_set,
        )

    @writing
    def quarantine_orphans(self, *, dry_run: bool = False) -> Listing:
        """Move payloads without a row to quarantine; also runs in the background, once a day. See `orphans.quarantine_orphans`.

        In a store that several machines share, what runs in the background is a dry run.

        Raises:
            LimitExceededError: there are too many.
            DataCorruptError, StoreUnavailableError: the catalogue is damaged.
        """
        return quarantine_orphans(
            self._catalogue,
            self._chunk_store,
            self._chunk_store.quarantine,
            older_than_s=self._orphan_age_s,
            quarantine_s=self._quarantine_s,
            uncommitted=lambda: self._committer.uncommitted,
            is_closing=self._closing.is_set,
            dry_run=dry_run,
        )

    @property
    def quarantine(self) -> Quarantine:
        """The quarantine of payloads that no row refers to."""
        return self._chunk_store.quarantine

    @writing
    def empty_quarantine(self) -> int:
        """Delete all payloads in quarantine and return how many there were."""
        return empty_quarantine(self._chunk_store.quarantine, at_once=True)

    def _sweep_round(self) -> None:
        if self._membership is not None and not self._membership.leads(_SWEEP):
            # What this process could not give up while a part of the store was away is known to no other.
            self._chunk_store.sweep_unfinished()
            return
        self.sweep()
        if self._catalogue.garbage.claim_listing(_LIST_EVERY_S):
            # What a process leaves behind that shares the store with others is known without a listing.
            self.quarantine_orphans(dry_run=self._membership is not None)
