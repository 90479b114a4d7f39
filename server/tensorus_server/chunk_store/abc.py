"""What the engine asks of a chunk store.

A payload is immutable and has a key that the store made: nothing is ever overwritten, and no name of a client's reaches the
store. It goes through `begin` → `append`... → `finish` (its bytes are durable) → `publish` (it can be read, by the locators
that come back). What was begun and not published is garbage after a crash, and what was published and never committed to the
catalogue likewise; the sweep finds both.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

    from typing_extensions import Buffer

__all__ = [
    "ChunkReader",
    "ChunkStore",
    "ChunkWriter",
    "PayloadMissingError",
    "StagedPayload",
    "StoredKey",
    "new_payload_key",
]


class PayloadMissingError(Exception):
    """No payload has this key, or it ends before what was asked for. The engine decides what that means."""


@dataclass(frozen=True)
class StagedPayload:
    """A payload whose bytes are durable, and that nobody can read yet."""

    payload_key: str
    """As it was begun."""
    length: int
    """In bytes."""


@dataclass(frozen=True)
class StoredKey:
    """A published payload, as the sweep sees it."""

    key: str
    """What `open` and `delete` take."""
    modified_s: float
    """Seconds since 1970."""


class ChunkWriter(ABC):
    """One payload on its way in. One thread at a time; ends with `finish` or `abort`."""

    @abstractmethod
    def append(self, buffers: Sequence[Buffer]) -> None:
        """Append the buffers in order. They may be reused as soon as this returns.

        Raises:
            StorageFullError: no space is left, or only the reserve.
        """

    @abstractmethod
    def finish(self) -> StagedPayload:
        """Make everything appended durable.

        Raises:
            StorageFullError: no space is left.
            StoreUnavailableError: the bytes cannot be made durable; they are gone.
        """

    @abstractmethod
    def abort(self) -> None:
        """Drop what was appended. Idempotent, and without effect after `finish`."""


class ChunkReader(ABC):
    """An open payload: a deletion after the opening does not hurt it. Safe in many threads."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset` of the payload's container.

        Raises:
            PayloadMissingError: it ends before that.
        """

    @abstractmethod
    def close(self) -> None:
        """Release it. Idempotent."""

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class ChunkStore(ABC):
    """Payloads by key. Safe in many threads."""

    @abstractmethod
    def require_space(self) -> None:
        """Do nothing if inserts may use more space.

        Raises:
            StorageFullError: only the reserve is left.
        """

    @abstractmethod
    def begin(self, payload_key: str) -> ChunkWriter:
        """Start a payload.

        Args:
            payload_key: from `new_payload_key`.

        Raises:
            StorageFullError: no space is left, or only the reserve.
        """

    @abstractmethod
    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Make finished payloads readable, durably, and return the key of each. On error none counts as published.

        Raises:
            StoreUnavailableError: that cannot be done now.
        """

    @abstractmethod
    def discard(self, staged: StagedPayload) -> None:
        """Drop a finished payload that is not going to be published. Idempotent."""

    @abstractmethod
    def open(self, key: str) -> ChunkReader:
        """Return a reader of a published payload.

        Raises:
            PayloadMissingError: no payload has this key.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a published payload. Idempotent."""

    @abstractmethod
    def published(self) -> Iterator[StoredKey]:
        """Yield every published payload that was there when this began."""

    @abstractmethod
    def has_other_users(self) -> bool:
        """Return whether another living process may be publishing payloads."""

    @abstractmethod
    def sweep_unfinished(self) -> int:
        """Drop what dead processes began and never published, and return how many there were."""

    @abstractmethod
    def close(self) -> None:
        """End all use. Idempotent."""


class _KeyMaker:
    """Random names of 128 bits, made many at a time: each call of the system gives up the GIL, and has to get it back."""

    _AT_ONCE = 64

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: list[str] = []
        # A forked child must not give out its parent's names.
        os.register_at_fork(after_in_child=self._keys.clear)

    def make(self) -> str:
        with self._lock:
            if not self._keys:
                digits = os.urandom(16 * self._AT_ONCE).hex()
                self._keys.extend(digits[start : start + 32] for start in range(0, len(digits), 32))
            return self._keys.pop()


_key_maker = _KeyMaker()


def new_payload_key() -> str:
    """Return a random name: 128 bits, 32 hex digits."""
    return _key_maker.make()
