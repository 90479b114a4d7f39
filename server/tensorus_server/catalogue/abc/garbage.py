"""The table of garbage: payloads that are due to be deleted, and the check for payloads that no row refers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["GarbageTable"]


class GarbageTable(ABC):
    """Payloads in the chunk store that no tensor refers to any more, or never did.

    Keys are those of the chunk store. The key of a kept payload has the prefix "uploads/".
    """

    @abstractmethod
    def due(self, limit: int, *, in_grace: bool = False) -> list[str]:
        """Return at most `limit` payload keys of deleted tensors whose grace period is over, by the catalogue's clock (11).

        A key "pack/<32 hex digits>" is that of a pack that was retired, see `PackTable`.

        They are returned again until `delete` removes them, so that a crash in between leaves no payload behind.

        Args:
            in_grace: also return keys whose grace period is not over.
        """

    @abstractmethod
    def delete(self, keys: Collection[str]) -> None:
        """Delete the tombstones of these keys, in one transaction. Call it after the payloads were deleted.

        Payloads with bases that nothing needs any more, now that these are gone, become due after their grace period, and packs
        that lost a payload become due to be looked at, in the same transaction. Idempotent (9). Succeeds on a full disk.
        """

    @abstractmethod
    def orphans(self, keys: Collection[str]) -> set[str]:
        """Return which of `keys` belong to no tensor, no upload and no tombstone, in one state of the catalogue (4).

        A payload with bases of another payload belongs to a tensor.

        This must see everything committed before the call (3): an answer from a lagging replica would lose data.
        """

    @abstractmethod
    def known(self) -> Iterator[bytes]:
        """Yield the key of every tensor, upload and tombstone, in UTF-8 and in any order.

        The keys are read from the rows themselves, even damaged ones, and never from an index. All rows committed before the
        call are included (3); rows that are written meanwhile may be missing.

        Raises:
            StoreUnavailableError: the rows cannot be read to the end.
        """

    @abstractmethod
    def require_intact(self) -> None:
        """Check that every row exists and is as it was written. This reads all rows, so it takes time.

        Raises:
            DataCorruptError, StoreUnavailableError: something is damaged, and a key may be missing from `known`.
        """

    @abstractmethod
    def claim_listing(self, every_s: float) -> bool:
        """Return whether to list the chunk store now: True once per `every_s`, in one process of all that use the store.

        The check and its record are one transaction. If the clock was set back, the next listing is still at most `every_s`
        away (11).
        """
