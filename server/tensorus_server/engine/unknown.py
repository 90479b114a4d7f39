"""Orphans, payloads that no row knows: found by listing the chunk store, once a day, and moved to its quarantine.

A crash between the publishing of a payload and its commit leaves one. But so does damage to the catalogue, and then it is the
only copy of a tensor. So nothing is deleted because a row is missing, and nothing is even moved unless

    no row has its key: the rows themselves are asked, and then the indexes
    it was published longer ago than any commit takes, and this process is not about to commit it
    every row is intact: the key of a damaged one may be another payload's
    they are few: a crash leaves the payloads of one commit, and many more mean that the catalogue lacks rows

What was moved stays in quarantine for a while, and is deleted by a later listing.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError
from tensorus_server.errors import LimitExceededError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.chunk_store.abc import PayloadListing, Quarantine, StoredKey

__all__ = ["Listing", "empty_quarantine", "set_all_aside", "set_aside"]

_BATCH = 1000

_MOVED_MAX = 100
_MOVED_SHARE_MAX = 0.01
"""So many payloads, or this share of all if that is more, are moved at once."""

_ALWAYS_MOVED = 10
"""So few are moved even where they are more than half of the payloads: a small store may have just crashed."""

_KNOWN_BITS = 2**27
"""Of the set of known keys: 16 MiB. Among a million keys, 1 of 130 unknown payloads is taken for a known one. It waits for a
listing by another process, which hashes keys in another way."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """What a listing of the chunk store found and did."""

    listed: int
    """Payloads, published and kept."""
    moved: int
    """To the quarantine."""
    deleted: int
    """From the quarantine, after their time."""


def set_aside(
    catalogue: Catalogue,
    payloads: PayloadListing,
    quarantine: Quarantine,
    *,
    older_than_s: float,
    quarantine_s: float,
    uncommitted: Callable[[], frozenset[str]],
    is_closing: Callable[[], bool] = lambda: False,
) -> Listing:
    """Move unknown payloads to the quarantine, and delete from there what has been in it for long enough.

    Args:
        older_than_s: how old they must be.
        quarantine_s: how long they stay in quarantine.
        uncommitted: returns the payload keys that this process is about to commit.
        is_closing: returns whether to give up.

    Raises:
        LimitExceededError: they are too many; nothing was moved.
        DataCorruptError, StoreUnavailableError: the catalogue is damaged, or the store closes; nothing was moved.
    """
    listed, unknown = _list_unknown(catalogue, payloads, older_than_s, is_closing)
    moved = 0
    if unknown:
        _require_few(len(unknown), listed)
        catalogue.garbage.require_intact()
        moved = _move(catalogue, quarantine, unknown, quarantine_s, uncommitted)
    return _report(Listing(listed, moved, empty_quarantine(quarantine)))


def set_all_aside(
    catalogue: Catalogue, payloads: PayloadListing, quarantine: Quarantine, *, quarantine_s: float
) -> Listing:
    """Move all unknown payloads to the quarantine, however many: somebody has accepted that their rows are lost.

    No other process may use the store.
    """
    listed, unknown = _list_unknown(catalogue, payloads, 0.0, lambda: False)
    return _report(Listing(listed, _move(catalogue, quarantine, unknown, quarantine_s, frozenset), 0))


def empty_quarantine(quarantine: Quarantine, *, at_once: bool = False) -> int:
    """Delete what has been in quarantine for long enough, or all of it, and return how many payloads that were."""
    entries = [entry for entry in quarantine.entries() if at_once or entry.until_s <= time.time()]
    for entry in entries:
        quarantine.delete(entry)
    return len(entries)


def _list_unknown(
    catalogue: Catalogue, payloads: PayloadListing, older_than_s: float, is_closing: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Return how many payloads there are, and the keys of those that no row has and that are old enough."""
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
    """Yield every payload with its key in the quarantine and in the catalogue."""
    return chain(
        ((stored.key, stored) for stored in payloads.published()),
        ((f"uploads/{stored.key}", stored) for stored in payloads.kept()),
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
        # Asked first: whatever of the batch is no longer uncommitted then has its row when the catalogue is asked.
        under_way = uncommitted()
        unknown = catalogue.garbage.orphans(batch)
        for key in batch:
            if key in unknown and key.rpartition("/")[2] not in under_way:
                try:
                    moved += quarantine.put(key, until_s=until_s)
                except PayloadBusyError:
                    _log.info("payload %s stays, since a writer has it", key)
    return moved


def _report(listing: Listing) -> Listing:
    if listing.moved:
        _log.warning(
            "%d of %d payloads belong to nothing and were moved to quarantine; `tensorus gc --list` shows them",
            listing.moved,
            listing.listed,
        )
    if listing.deleted:
        _log.info("deleted %d payloads from quarantine", listing.deleted)
    return listing


class _KnownKeys:
    """A set of keys in bounded memory: of a key that was added it always says so, and of another one nearly never."""

    def __init__(self) -> None:
        self._bits = bytearray(_KNOWN_BITS // 8)

    def add(self, key: bytes) -> None:
        place = hash(key) % _KNOWN_BITS
        self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, key: bytes) -> bool:
        place = hash(key) % _KNOWN_BITS
        return bool(self._bits[place >> 3] & 1 << (place & 7))
