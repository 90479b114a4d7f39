"""What the engine asks of a chunk store.

A payload is immutable and has a key that the store made: nothing is ever overwritten, and no name of a client's reaches the
store. It goes through `begin` → `append`... → `finish` (its bytes are durable) → `publish` (it can be read, by the locators
that come back). What was begun and not published is garbage after a crash, and what was published and never committed to the
catalogue likewise; the sweep removes the one, and the daily listing moves the other to the quarantine.

A payload on its way in may be kept: `keep` makes what was appended so far durable and lets it outlive its process, `park`
leaves it there, and `resume` goes on with it, in this process or another. What is kept belongs to an upload of the
catalogue, without which it is garbage, too.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from typing import Self

    from typing_extensions import Buffer

    from tensorus_server.model import StoreIdentity

__all__ = [
    "ChunkReader",
    "ChunkStore",
    "ChunkStoreError",
    "ChunkWriter",
    "PayloadBusyError",
    "PayloadMissingError",
    "PayloadUnreadableError",
    "Quarantine",
    "Quarantined",
    "StagedPayload",
    "StoredKey",
    "new_payload_key",
]


class ChunkStoreError(Exception):
    """Base of what a chunk store says of one payload; the engine decides what that means.

    A store raises these, `StorageFullError` and `StoreUnavailableError`, and nothing else: never `OSError`.
    """


class PayloadMissingError(ChunkStoreError):
    """No payload has this key, or it ends before what was asked for."""


class PayloadBusyError(ChunkStoreError):
    """Another writer has this payload."""


class PayloadUnreadableError(ChunkStoreError):
    """The disk does not give these bytes back."""


@dataclass(frozen=True)
class StagedPayload:
    """A payload whose bytes are durable, and that nobody can read yet."""

    payload_key: str
    """As it was begun."""
    length: int
    """In bytes."""
    kept: bool = False
    """Whether it was kept on its way in, and so outlives its process although it is not published.

    Other writers are kept off it until it is published, discarded or parked. That takes no descriptor: an insert of all or
    nothing may have thousands.
    """


@dataclass(frozen=True)
class StoredKey:
    """A payload as a listing sees it."""

    key: str
    """What the store's methods take."""
    modified_s: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Quarantined:
    """A payload in quarantine."""

    key: str
    """Of a published payload, as `ChunkStore.published` gives it; of a kept one "uploads/" and its key."""
    stored_bytes: int
    until_s: float
    """Seconds since 1970: from then on it may be deleted."""


class Quarantine(ABC):
    """Payloads that nothing refers to, kept until somebody may have missed them. Safe in many threads."""

    @abstractmethod
    def put(self, key: str, *, until_s: float) -> bool:
        """Move a payload here, durably, and return whether it was there to be moved.

        Args:
            key: as of `Quarantined`.

        Raises:
            PayloadBusyError: a writer has it.
        """

    @abstractmethod
    def entries(self) -> list[Quarantined]:
        """Return what is here, what may be deleted first at first."""

    @abstractmethod
    def restore(self, entry: Quarantined) -> None:
        """Move a payload back, durably. Its age begins anew.

        Raises:
            PayloadMissingError: it is not here any more.
        """

    @abstractmethod
    def delete(self, entry: Quarantined) -> None:
        """Delete a payload for good. Idempotent."""


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
    def keep(self) -> Future[None]:
        """Begin to make durable what was appended so far, so that `resume` can go on from here; appending may go on meanwhile.

        One at a time: the one before must be done.

        Returns:
            Done when it is durable. Fails with `StorageFullError` or `StoreUnavailableError`: the bytes are gone.
        """

    @abstractmethod
    def park(self) -> None:
        """Release the payload; what was kept of it stays for `resume`. Without effect after `finish` or `abort`."""

    @abstractmethod
    def abort(self) -> None:
        """Drop what was appended, what was kept included. Idempotent, and without effect after `finish` or `park`."""


class ChunkReader(ABC):
    """An open payload: a deletion after the opening does not hurt it. Safe in many threads."""

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset` of the payload's container.

        Raises:
            PayloadMissingError: it ends before that.
            PayloadUnreadableError: the disk does not give it back.
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
    """Payloads by key. Safe in many threads.

    Any method may raise `StoreUnavailableError`: the disk, or the system, does not do it now.
    """

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
    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:
        """Go on with a kept payload after its first `length` bytes; what follows them is dropped.

        Returns:
            A writer, and a reader of what is there.

        Raises:
            PayloadMissingError: it is not there, or shorter.
            PayloadBusyError: another writer has it.
        """

    @abstractmethod
    def drop(self, payload_key: str) -> None:
        """Drop a kept payload that is not going to be resumed. Idempotent.

        Raises:
            PayloadBusyError: a writer has it.
        """

    @abstractmethod
    def kept(self) -> Iterator[StoredKey]:
        """Yield every kept payload that was there when this began."""

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
    def park(self, staged: StagedPayload) -> None:
        """Drop a finished payload that is not going to be published, unless it was kept: then it stays for `resume`."""

    @abstractmethod
    def open(self, key: str) -> ChunkReader:
        """Return a reader of a published payload.

        Raises:
            PayloadMissingError: no payload has this key.
            StoreUnavailableError: it cannot be opened now.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a published payload. Idempotent."""

    @abstractmethod
    def published(self) -> Iterator[StoredKey]:
        """Yield every published payload that was there when this began."""

    @property
    @abstractmethod
    def quarantine(self) -> Quarantine:
        """Where payloads wait that nothing refers to."""

    @abstractmethod
    def read_identity(self) -> StoreIdentity | None:
        """Return which store the payloads are of; None: that was never written.

        Raises:
            StoreUnavailableError: it cannot be read.
        """

    @abstractmethod
    def write_identity(self, identity: StoreIdentity) -> None:
        """Replace the identity, durably; a crash leaves this one or the one before. One process at a time.

        Raises:
            StorageFullError, StoreUnavailableError: that cannot be done now.
        """

    @abstractmethod
    def sweep_unfinished(self) -> int:
        """Drop what dead processes began and never published, and return how many there were."""

    @abstractmethod
    def close(self, timeout_s: float = 60.0) -> bool:
        """End all use. Idempotent.

        Args:
            timeout_s: how long to wait for what is under way.

        Returns:
            Whether that has ended in time.
        """


class _KeyMaker:
    """Random names of 128 bits, made many at a time: each call of the system gives up the GIL, and has to get it back."""

    _AT_ONCE = 512

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
