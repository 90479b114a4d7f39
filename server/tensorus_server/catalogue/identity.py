"""Which catalogue and which payloads belong together, and whether the catalogue has all that was acknowledged.

A store has an identity: a random id, and an epoch that only grows. The catalogue holds it in a row, and the chunk store in a
file beside the payloads, so that it travels with them. The catalogue raises its epoch in a transaction, and the chunk store
follows before anybody is told of that transaction. So there are three cases at an opening:

    epochs are equal                    all is well
    the catalogue's is higher           a crash came between the two; nothing is missing, and the chunk store catches up
    the chunk store's is higher         the catalogue lacks commits: its log is missing, or it is an older copy

`catalogue/sqlite/epoch.py` says when the epoch is raised, so that a catalogue without its log is always of the third case.
In that case, and where the two are of different stores, the store is not opened: payloads whose rows are only missing look like
garbage.
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

__all__ = ["LOSS_QUARANTINE_S", "CataloguePast", "Payloads", "require_match"]

LOSS_QUARANTINE_S = 7 * 86400.0
"""How long payloads stay in quarantine that a catalogue does not know which was adopted by `--accept-loss`: long enough to find
a better copy of the catalogue after a weekend."""

_COUNTED_MAX = 100_000
"""Payloads that a message counts: half a second of listing."""

_KNOWN_SHARE_MIN = 0.9
"""Of the payloads of a store without an identity, so many the catalogue must know. A crash leaves a few that it does not."""


@dataclass(frozen=True)
class CataloguePast:
    """What a catalogue held before this opening."""

    is_new: bool
    """Whether there was none."""
    identity: StoreIdentity | None
    """None: it is new, or was written by a version of Tensorus without identities."""
    has_payloads: Callable[[], bool]
    """Whether any of its tensors has its payload in the chunk store."""
    unknown: Callable[[list[str]], set[str]]
    """Returns those of some payload keys that it does not know."""


class _Published(Protocol):
    @property
    def key(self) -> str:
        """Of the payload."""


class Payloads(Protocol):
    """What the opening asks of a chunk store."""

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`."""

    def published(self) -> Iterator[_Published]:
        """See `PayloadListing`."""


def require_match(folder: Path, past: CataloguePast, payloads: Payloads) -> None:
    """Do nothing if the catalogue has all that was acknowledged of these payloads. Changes nothing.

    Args:
        folder: of the store, for the message.

    Raises:
        StoreUnavailableError: it has not, or nobody can tell; says what is there and what the ways out are.
    """
    found = payloads.read_identity()
    if found is None:
        _require_agreement(folder, past, payloads)
    elif past.is_new:
        raise _refusal(folder, payloads, f"there are payloads of store {found.id}, and there is no catalogue")
    elif past.identity is None:
        raise _refusal(
            folder,
            payloads,
            f"the catalogue is a copy from before an upgrade, and the payloads are of store {found.id} at epoch {found.epoch}",
        )
    elif past.identity.id != found.id:
        raise _refusal(
            folder, payloads, f"the catalogue is of store {past.identity.id}, and the payloads are of store {found.id}"
        )
    elif past.identity.epoch < found.epoch:
        raise _refusal(
            folder,
            payloads,
            f"the catalogue is older than its payloads: it is at epoch {past.identity.epoch}, the payloads are at epoch "
            f"{found.epoch}; its log (catalogue.db-wal) is missing, or it is an older copy",
        )


def _require_agreement(folder: Path, past: CataloguePast, payloads: Payloads) -> None:
    """Require of payloads without an identity that the catalogue knows nearly all of them."""
    keys = (stored.key for stored in payloads.published())
    total = unknown = 0
    while batch := list(islice(keys, 1000)):
        total += len(batch)
        unknown += len(batch) if past.is_new else len(past.unknown(batch))
    if total == 0 and past.has_payloads():
        raise _refusal(folder, payloads, "the catalogue has tensors in chunks/, and chunks/ is empty")
    if unknown > total * (1 - _KNOWN_SHARE_MIN):
        what = "there is no catalogue" if past.is_new else f"the catalogue does not know {unknown} of them"
        raise _refusal(folder, payloads, f"there are {total} payloads, and {what}")


def _refusal(folder: Path, payloads: Payloads, what: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store in {folder} is not opened, so that nothing of it is lost: {what} ({_rough_count(payloads.published())} in "
        "chunks/). Nothing was changed. Put back what is missing: catalogue.db-wal beside its catalogue.db, or the whole "
        f"folder as it was copied. Or rebuild the catalogue from the payloads: tensorus recover {folder}. Or go on without "
        f"what the catalogue lacks: tensorus gc {folder} --accept-loss, which keeps the payloads that it does not know in "
        f"quarantine for {LOSS_QUARANTINE_S / 86400:.0f} days"
    )


def _rough_count(found: Iterable[object]) -> str:
    count = sum(1 for _ in islice(found, _COUNTED_MAX))
    return f"{'more than ' if count == _COUNTED_MAX else ''}{count:,} payload{'' if count == 1 else 's'}"
