"""The table of packs: objects with the payloads of many small tensors, after their tensors were committed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.payload_keys import PackedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["PackContent", "PackTable", "PackTotals", "PackedPayload", "packed_key"]


def packed_key(key: str) -> PackedKey:
    """Return what the key of a payload in a pack says.

    Raises:
        ValueError: it is not the key of one.
    """
    parsed = parse_key(key)
    if isinstance(parsed, PackedKey):
        return parsed
    raise ValueError(f"{key!r} is not the key of a payload in a pack")


@dataclass(frozen=True)
class PackedPayload:
    """A payload in a pack that rows of the catalogue name."""

    key: str
    rows: int
    """Current and past tensors that have it; 0: only what deletions left names it."""
    is_named: bool
    """Whether other payloads name its key in their bytes: an edited tensor that shares it, or one with a base in it. Such a
    payload keeps its key, so it is never moved."""

    @property
    def is_needed(self) -> bool:
        """Whether a tensor or another payload needs it; if not, it is in the grace period of a deletion."""
        return self.rows > 0 or self.is_named


@dataclass(frozen=True)
class PackContent:
    """What rows of the catalogue name of a pack, in one state of the catalogue."""

    pack: str
    """32 hex digits."""
    object_bytes: int
    """Size of the object in bytes: up to the end of its last committed payload, or more."""
    payloads: tuple[PackedPayload, ...]
    """In the order of their keys. Empty: nothing needs the pack, and no reader of a deleted tensor may."""

    @property
    def needed(self) -> tuple[PackedPayload, ...]:
        """The payloads that something needs."""
        return tuple(payload for payload in self.payloads if payload.is_needed)

    @property
    def needed_bytes(self) -> int:
        """Size of the payloads that something needs."""
        return sum(packed_key(payload.key).length for payload in self.needed)


@dataclass(frozen=True)
class PackTotals:
    """Sums over all packs."""

    packs: int
    object_bytes: int
    needed_bytes: int
    """Size of the payloads in them that tensors or other payloads need."""


class PackTable(ABC):
    """Packs with committed payloads. The commit of the first of them adds the row of a pack.

    A pack that nothing needs is retired: in one transaction its row goes, and a tombstone with the key "pack/<32 hex digits>"
    comes, whose grace period begins then. From then on, no commit may refer to a payload in it, and readers that began before
    can finish. A pack that is not retired stays readable, whatever its payloads' tombstones say.
    """

    @abstractmethod
    def claim(self, limit: int) -> list[PackContent]:
        """Return packs that are due to be looked at, and note that they were: those that lost a payload since, and all daily.

        Each is due again once it loses another payload, even if that happens before this returns.
        """

    @abstractmethod
    def doubtful(self, contents: Sequence[PackContent]) -> set[str]:
        """Return which of these packs must stay, because rows name more payloads in them than `claim` has found.

        The keys are read from the rows themselves, and never from an index: with a damaged index, a payload that is needed
        looks like garbage. If a row's key is damaged, it may be that of a payload in any pack, and all of them must stay. A
        database that verifies its indexes itself may return none.
        """

    @abstractmethod
    def look_again(self, packs: Collection[str]) -> None:
        """Make packs due that were claimed, and that the caller did not get to. Idempotent (9)."""

    @abstractmethod
    def retire(self, packs: Collection[str]) -> list[str]:
        """Retire those of the packs that nothing needs by now, in one transaction, and return them. Idempotent (9).

        A payload that is in the grace period of a deletion is needed. Succeeds on a full disk.
        """

    @abstractmethod
    def repoint(self, moves: Sequence[tuple[str, str]]) -> list[str]:
        """Let tensors read payloads from new packs, and return the new keys that are in use now.

        In one transaction (2): the rows of the new packs are added, and all current and past tensors with an old key get the
        new one; so does what knows the key of a payload with bases. A payload stays where it is if no row has it by now, if
        another payload names it, if more than `MOVED_ROWS_MAX` rows have it, or if one of them is damaged. The old packs and
        the new ones are due to be looked at.

        Args:
            moves: old and new key of each payload; both end with the same name. The caller has begun the packs of the new ones,
                and stored them as a whole.

        Raises:
            WriterLostError: the caller was declared dead since it began a pack. Nothing was changed.
        """

    @abstractmethod
    def add(self, packs: Mapping[str, int]) -> None:
        """Add packs that were found in the chunk store, with the sizes of their objects, unless they are known. Idempotent (9).

        It is for the recovery of a lost catalogue. They are due to be looked at, except those with size 0: these are never
        looked at, and so never deleted.
        """

    @abstractmethod
    def totals(self) -> PackTotals:
        """Return sums over all packs. Reads in several transactions, see `Catalogue.sizes`."""
