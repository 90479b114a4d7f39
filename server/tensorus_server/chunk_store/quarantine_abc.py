"""The role of a chunk store that holds orphans until they are deleted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

__all__ = ["Quarantine", "Quarantined"]


@dataclass(frozen=True)
class Quarantined:
    """A payload in quarantine."""

    key: str
    """For a published payload, its key; for a kept one, its key with the prefix "uploads/"."""
    stored_bytes: int
    until_s: float
    """When it may be deleted, in seconds since 1970."""


class Quarantine(ABC):
    """Holds orphans for a while, in case somebody misses them. Thread-safe."""

    @abstractmethod
    def put(self, key: str, *, until_s: float) -> bool:
        """Move a payload from the listing to the quarantine, durably; return whether it existed.

        An implementation may merely mark the payload as quarantined. It can then still be opened, but nobody opens a payload
        without a row.

        Args:
            key: in the form of `Quarantined.key`.
            until_s: when the payload may be deleted, in seconds since 1970.

        Raises:
            PayloadBusyError: a writer holds it.
        """

    @abstractmethod
    def entries(self) -> list[Quarantined]:
        """Return all entries, sorted by `until_s`."""

    @abstractmethod
    def restore(self, entry: Quarantined) -> None:
        """Move a payload back to where it was, durably. It then counts as new.

        Raises:
            PayloadMissingError: it is no longer in quarantine.
        """

    @abstractmethod
    def delete(self, entry: Quarantined) -> None:
        """Delete a payload for good. Idempotent."""
