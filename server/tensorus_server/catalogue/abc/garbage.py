"""Payloads that wait for deletion, and those that no row refers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["GarbageTable"]


class GarbageTable(ABC):
    """Payloads in the chunk store that no tensor refers to any more, or never did.

    Keys are those of the chunk store; of a kept payload, "uploads/" and its key.
    """

    @abstractmethod
    def due(self, limit: int, *, in_grace: bool = False) -> list[str]:
        """Return keys of deleted tensors whose grace is over, by the catalogue's clock (11), at most `limit`.

        They are returned again until `delete` drops them, so that a crash in between leaves no payload behind.

        Args:
            in_grace: return those, too, whose grace is not over.
        """

    @abstractmethod
    def delete(self, keys: Collection[str]) -> None:
        """Delete the tombstones of these keys, after their payloads are gone, in one transaction.

        Idempotent (9). Succeeds on a full disk.
        """

    @abstractmethod
    def orphans(self, keys: Collection[str]) -> set[str]:
        """Return those of `keys` that belong to no tensor, no upload, and no deletion that waits, in one state (4).

        What was committed before the call is seen (3): an answer from a replica that lags behind would cost data.
        """

    @abstractmethod
    def known(self) -> Iterator[bytes]:
        """Yield every key that belongs to a tensor, an upload, or a deletion that waits, in UTF-8 and in any order.

        They come from the rows themselves, whatever is damaged in them, and from no index. What was committed before the call
        is among them (3); rows that are written meanwhile may be missing.

        Raises:
            StoreUnavailableError: the rows cannot be read to the end.
        """

    @abstractmethod
    def require_intact(self) -> None:
        """Do nothing if every row is there and as it was written. Takes time: it reads all of them.

        Raises:
            DataCorruptError, StoreUnavailableError: something is damaged, and a key may be missing from `known`.
        """

    @abstractmethod
    def claim_listing(self, every_s: float) -> bool:
        """Return whether it is time to list the chunk store again; of all processes one is told so, once in `every_s`.

        Asking and noting are one transaction. A clock that was set back puts the next listing off no longer than `every_s`
        (11).
        """
