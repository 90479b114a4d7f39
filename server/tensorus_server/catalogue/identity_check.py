"""Checks that a catalogue and its payloads belong together, and that the catalogue has every acknowledged commit.

A store has an identity: a random id, and an epoch that only increases. The catalogue has it in a row. The chunk store has it in
a file next to the payloads, so that a copy of the payloads includes it. The catalogue raises its epoch in a transaction, and
the chunk store's epoch follows before that transaction is reported to anyone. So opening a store finds one of three cases:

    the epochs are equal            the normal case
    the catalogue's is higher       a crash came between the two steps; nothing is missing, and the chunk store catches up
    the chunk store's is higher     the catalogue lacks commits: its log is missing, or it is an older copy

`catalogue/sqlite/epoch.py` raises the epoch often enough that a catalogue without its log is always the third case. Then, and
if the ids differ, the store is not opened, because payloads whose rows are merely missing would look like garbage.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Protocol

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tensorus_server.model import StoreIdentity

__all__ = ["LOSS_QUARANTINE_S", "CatalogueState", "FoundPayloads", "Payloads", "require_match"]

LOSS_QUARANTINE_S = 7 * 86400.0
"""How long unknown payloads stay in quarantine after `--accept-loss`: long enough to find a better copy of the catalogue, even
over a weekend."""

_COUNTED_MAX = 100_000
"""Largest number of payloads that are counted for a message. Listing them takes half a second."""

_KNOWN_SHARE_MIN = 0.9
"""Share of the payloads that the catalogue must know if they have no identity. A crash leaves a few unknown ones."""


@dataclass(frozen=True)
class CatalogueState:
    """The catalogue as found, before the opening changes it."""

    is_new: bool
    """Whether it did not exist."""
    identity: StoreIdentity | None
    """None: it is new, or a version of Tensorus without identities wrote it."""
    has_payloads: Callable[[], bool]
    """Returns whether any of its tensors has a payload in the chunk store."""
    unknown: Callable[[list[str]], set[str]]
    """Returns those of the given payload keys that it does not know."""


class _Published(Protocol):
    @property
    def key(self) -> str:
        """The payload's key."""


class FoundPayloads(Protocol):
    """The methods of a chunk store that the check needs."""

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""

    def published(self) -> Iterator[_Published]:
        """See `PayloadListing`."""


class Payloads(FoundPayloads, Protocol):
    """The methods of a chunk store that a catalogue needs."""

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`."""


def require_match(folder: Path, state: CatalogueState, payloads: FoundPayloads) -> None:
    """Check that the catalogue has a row for every acknowledged payload. Changes nothing.

    Args:
        folder: the store's folder, for the message.

    Raises:
        StoreUnavailableError: rows are missing, or it cannot be determined; the message says what was found and what to do.
    """
    found = payloads.read_identity()
    if found is None:
        _require_agreement(folder, state, payloads)
    elif state.is_new:
        raise _refusal(folder, payloads, f"there are payloads of store {found.id}, and there is no catalogue")
    elif state.identity is None:
        raise _refusal(
            folder,
            payloads,
            f"the catalogue is a copy from before an upgrade, and the payloads are of store {found.id} at epoch {found.epoch}",
        )
    elif state.identity.id != found.id:
        raise _refusal(
            folder, payloads, f"the catalogue is of store {state.identity.id}, and the payloads are of store {found.id}"
        )
    elif state.identity.epoch < found.epoch:
        raise _refusal(
            folder,
            payloads,
            f"the catalogue is older than its payloads: it is at epoch {state.identity.epoch}, the payloads are at epoch "
            f"{found.epoch}; its log (catalogue.db-wal) is missing, or it is an older copy",
        )


def _require_agreement(folder: Path, state: CatalogueState, payloads: FoundPayloads) -> None:
    """Check that the catalogue knows nearly all of the payloads, which have no identity."""
    keys = (stored.key for stored in payloads.published())
    total = unknown = 0
    while batch := list(islice(keys, 1000)):
        total += len(batch)
        unknown += len(batch) if state.is_new else len(state.unknown(batch))
    if total == 0 and state.has_payloads():
        raise _refusal(folder, payloads, "the catalogue has tensors in chunks/, and chunks/ is empty")
    if unknown > total * (1 - _KNOWN_SHARE_MIN):
        what = "there is no catalogue" if state.is_new else f"the catalogue does not know {unknown} of them"
        raise _refusal(folder, payloads, f"there are {total} payloads, and {what}")


def _refusal(folder: Path, payloads: FoundPayloads, what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store in {folder} is not opened, so that nothing of it is lost: {what} ({_rough_count(payloads.published())} in "
        "chunks/). Nothing was changed. Put back what is missing: catalogue.db-wal next to its catalogue.db, or the whole "
        f"folder as it was copied. Or rebuild the catalogue from the payloads: tensorus recover {folder}. Or continue without "
        f"the missing rows: tensorus gc {folder} --accept-loss, which moves payloads without a row to quarantine for "
        f"{LOSS_QUARANTINE_S / 86400:.0f} days. Both take --chunks, too, if the payloads are in an object store"
    )


def _rough_count(found: Iterable[object]) -> str:
    count = sum(1 for _ in islice(found, _COUNTED_MAX))
    return f"{'more than ' if count == _COUNTED_MAX else ''}{count:,} payload{'' if count == 1 else 's'}"
