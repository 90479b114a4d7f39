"""Finds orphans, payloads that no row refers to, by listing the chunk store once a day, and moves them to its quarantine.

A crash between publishing a payload and committing it leaves an orphan. But so does damage to the catalogue, and then the
payload is the only copy of a tensor. So a payload is never deleted just because its row is missing. It is not even moved unless
all of these hold:

    no row has its key; the rows themselves are searched first, then the indexes
    it was published longer ago than any commit takes, and this process is not about to commit it
    every row is intact, since a damaged row may have lost this payload's key
    there are only a few orphans; a crash leaves the payloads of one commit, and more mean that the catalogue lacks rows

Payloads stay in quarantine for a while, and a later listing deletes them.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from tensorus_server.background import STUCK_S
from tensorus_server.chunk_store.abc import PayloadBusyError, StoredKey
from tensorus_server.errors import LimitExceededError, StoreUnavailableError
from tensorus_server.payload_keys import PACK_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import PayloadListing, Quarantine

__all__ = ["Listing", "count_orphans", "empty_quarantine", "quarantine_all_orphans", "quarantine_orphans"]

_BATCH = 1000

_MOVED_MAX = 100
_MOVED_SHARE_MAX = 0.01
"""Limit on the payloads that one listing moves: this number, or this share of all payloads if that is more."""

_ALWAYS_MOVED = 10
"""Up to this many are moved even if they are more than half of all payloads, as they may be in a small store after a crash."""

_KNOWN_BITS = 2**27
"""Size of the set of known keys: 16 MiB. With a million keys, one in 130 orphans is mistaken for a known payload. A listing in
another process finds it, because Python hashes keys differently there."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """The result of a listing of the chunk store."""

    listed: int
    """Payloads that were found, both published and kept ones."""
    moved: int
    """Payloads that were moved to the quarantine."""
    deleted: int
    """Payloads that were deleted from the quarantine, since their time there was over."""
    unknown: int = 0
    """Payloads that would have been moved, had the listing not been a dry run."""


def quarantine_orphans(
    catalogue: Catalogue,
    payloads: PayloadListing,
    quarantine: Quarantine,
    *,
    older_than_s: float,
    quarantine_s: float,
    uncommitted: Callable[[], frozenset[str]],
    is_closing: Callable[[], bool] = lambda: False,
    dry_run: bool = False,
) -> Listing:
    """Move unknown payloads to the quarantine, and delete payloads whose time there is over.

    Args:
        older_than_s: minimum age of a payload to be moved.
        quarantine_s: how long payloads stay in quarantine.
        uncommitted: returns the payload keys that this process is about to commit.
        is_closing: returns whether the store is closing, which ends the listing.
        dry_run: only count the unknown payloads, and log a warning if there are any.

    Raises:
        LimitExceededError: there are too many unknown payloads; nothing was moved.
        DataCorruptError, StoreUnavailableError: the catalogue is damaged, or the store is closing; nothing was moved.
    """
    listed, unknown = _list_unknown(catalogue, payloads, older_than_s, is_closing)
    moved = 0
    if dry_run:
        found = sum(len(catalogue.garbage.orphans(unknown[at : at + _BATCH])) for at in range(0, len(unknown), _BATCH))
        return _report(Listing(listed, 0, 0, found))
    if unknown:
        _require_few(len(unknown), listed)
        catalogue.garbage.require_intact()
        moved = _move(catalogue, quarantine, unknown, quarantine_s, uncommitted)
    return _report(Listing(listed, moved, empty_quarantine(quarantine)))


def quarantine_all_orphans(
    catalogue: Catalogue, payloads: PayloadListing, quarantine: Quarantine, *, quarantine_s: float
) -> Listing:
    """Move all unknown payloads to the quarantine, whatever their number: the operator has accepted that their rows are lost.

    No other process may use the store.
    """
    listed, unknown = _list_unknown(catalogue, payloads, 0.0, lambda: False)
    return _report(Listing(listed, _move(catalogue, quarantine, unknown, quarantine_s, frozenset), 0))


def count_orphans(
    catalogue: Catalogue, payloads: PayloadListing, uncommitted: Callable[[], frozenset[str]]
) -> Iterator[int]:
    """Yield, batch by batch, how many payloads no row refers to. Young ones are left out, since a commit may be under way.

    Unlike `quarantine_orphans`, this relies on the catalogue's indexes, and no transaction takes long.

    Args:
        uncommitted: returns the payload keys that this process is about to commit.
    """
    before_s = time.time() - STUCK_S
    keys = (key for key, stored in _stored(payloads) if stored.modified_s <= before_s)
    while batch := list(islice(keys, _BATCH)):
        # Read before the catalogue is, as in `_move`.
        under_way = uncommitted()
        orphans = catalogue.garbage.orphans(batch)
        yield sum(key.rpartition("/")[2] not in under_way for key in orphans)


def empty_quarantine(quarantine: Quarantine, *, at_once: bool = False) -> int:
    """Delete the payloads whose time in quarantine is over, or all of them, and return how many were deleted."""
    entries = [entry for entry in quarantine.entries() if at_once or entry.until_s <= time.time()]
    for entry in entries:
        quarantine.delete(entry)
    return len(entries)


def _list_unknown(
    catalogue: Catalogue, payloads: PayloadListing, older_than_s: float, is_closing: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Return the number of payloads, and the keys of those that are old enough and that no row refers to."""
    before_s = time.time() - older_than_s
    known = _KnownKeys()
    for known_key in catalogue.garbage.known():
        if is_closing():
            raise StoreUnavailableError("the store is closing")
        known.add(known_key)
    listed, unknown = 0, []
    for key, stored in _stored(payloads):
        listed += 1
        if is_closing():
            raise StoreUnavailableError("the store is closing")
        if stored.modified_s <= before_s and key.encode() not in known:
            unknown.append(key)
    return listed, unknown


def _stored(payloads: PayloadListing) -> Iterator[tuple[str, StoredKey]]:
    """Yield every payload with its key in the quarantine and in the catalogue; of those in packs, the packs."""
    packs = () if payloads.packs is None else payloads.packs.packs()
    return chain(
        ((stored.key, stored) for stored in payloads.published()),
        ((f"uploads/{stored.key}", stored) for stored in payloads.kept()),
        ((key, StoredKey(key, found.modified_s)) for found in packs for key in [PACK_PREFIX + found.pack]),
    )


def _require_few(unknown: int, listed: int) -> None:
    limit = max(_MOVED_MAX, int(_MOVED_SHARE_MAX * listed))
    if unknown > _ALWAYS_MOVED:
        limit = min(limit, listed // 2)
    if unknown > limit:
        raise LimitExceededError(
            f"the catalogue does not know {unknown} of {listed} payloads, limit is {limit} (unknown_payloads_max): nothing was "
            "moved to quarantine, since rows of the catalogue may be missing. `tensorus recover` rebuilds them, and "
            "`tensorus gc --accept-loss` moves the payloads whatever their number",
            limit=limit,
        )


def _move(
    catalogue: Catalogue,
    quarantine: Quarantine,
    keys: list[str],
    quarantine_s: float,
    uncommitted: Callable[[], frozenset[str]],
) -> int:
    until_s = time.time() + quarantine_s
    moved = 0
    for start in range(0, len(keys), _BATCH):
        batch = keys[start : start + _BATCH]
        # Read before the catalogue is: a payload that is no longer uncommitted here already has its row there.
        under_way = uncommitted()
        unknown = catalogue.garbage.orphans(batch)
        for key in batch:
            if key in unknown and key.rpartition("/")[2] not in under_way:
                try:
                    moved += quarantine.put(key, until_s=until_s)
                except PayloadBusyError:
                    _log.info("payload %s is not moved to quarantine, because a writer uses it", key)
    return moved


def _report(listing: Listing) -> Listing:
    if listing.moved:
        _log.warning(
            "%d of %d payloads belong to nothing and were moved to quarantine; `tensorus gc --list` shows them",
            listing.moved,
            listing.listed,
        )
    if listing.unknown:
        _log.warning(
            "%d of %d payloads belong to nothing; `tensorus gc` moves them to quarantine",
            listing.unknown,
            listing.listed,
        )
    if listing.deleted:
        _log.info("deleted %d payloads from quarantine", listing.deleted)
    return listing


class _KnownKeys:
    """A set of keys in bounded memory (a Bloom filter with one hash): no false negatives, and few false positives."""

    def __init__(self) -> None:
        self._bits = bytearray(_KNOWN_BITS // 8)

    def add(self, key: bytes) -> None:
        place = hash(key) % _KNOWN_BITS
        self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, key: bytes) -> bool:
        place = hash(key) % _KNOWN_BITS
        return bool(self._bits[place >> 3] & 1 << (place & 7))
