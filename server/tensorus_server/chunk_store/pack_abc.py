"""The role `PackStore` of a chunk store: objects that hold many small payloads each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.payload_keys import PackedKey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["PackStore", "PackedPart", "StoredPack"]


@dataclass(frozen=True)
class StoredPack:
    """A pack in a listing."""

    pack: str
    """Its name: 32 hex digits."""
    stored_bytes: int
    """Size of its object, with its directory."""
    modified_s: float
    """Seconds since 1970, by the store's clock."""


@dataclass(frozen=True)
class PackedPart:
    """A payload in a pack, as the pack's directory describes it."""

    pack: str
    payload_key: str
    offset: int
    """Of the payload in the pack's object, in bytes."""
    length: int
    """In bytes."""
    crc32c: int
    """Of the payload's bytes."""

    @property
    def key(self) -> str:
        """The payload's key in the store."""
        return str(PackedKey(self.pack, self.offset, self.length, self.payload_key))


class PackStore(ABC):
    """Packs: objects that hold many small payloads each. Thread-safe.

    `PayloadStore.open` opens a payload in a pack by its key, and `PayloadStore.delete` does nothing with it: its pack is
    deleted as a whole, once it holds no payload that is needed.
    """

    @abstractmethod
    def packs(self) -> Iterator[StoredPack]:
        """Yield every pack that existed when this began."""

    @abstractmethod
    def parts(self, pack: str) -> list[PackedPart]:
        """Return what a pack's directory lists, in order.

        Raises:
            PayloadMissingError: there is no such pack.
            PayloadUnreadableError: its directory is damaged.
        """

    @abstractmethod
    def copy_to_new_pack(self, keys: Sequence[str]) -> list[str]:
        """Copy payloads to new packs, durably, and return their keys there, in order. Their payload keys do not change.

        The new packs are begun in the `WriteLog`. They are as few as their size allows. After an error, none of the copies
        counts.

        Args:
            keys: of payloads in packs.

        Raises:
            PayloadMissingError: a payload does not exist.
            PayloadUnreadableError: a payload is damaged, by its pack's directory.
        """

    @abstractmethod
    def drop_pack(self, pack: str) -> None:
        """Delete a pack of `copy_to_new_pack`, unless it was committed: the `WriteLog` knows. Idempotent.

        If the log cannot be asked now, it is asked again later.
        """

    @abstractmethod
    def delete_pack(self, pack: str) -> None:
        """Delete a pack with everything in it, and forget it in the `WriteLog`. Idempotent."""
