"""What the engine asks of a chunk store, in roles. A class may fill several, and a caller takes only those that it uses.

    role               used by                      what it does
    `PayloadStore`     reads, the sweep             opens published payloads for reads of ranges, and deletes them
    `Staging`          inserts, the sweep           takes payloads in, as streams, and publishes them
    `Leases`           the store's other roles      says which processes live, and which of them has a payload
    `PayloadListing`   the daily listing            lists what is stored, to find orphans
    `Quarantine`       the daily listing, `gc`      holds orphans until they are deleted
    `IdentityHolder`   the opening of a store       says which store the payloads are of
    `ChunkStore`       the engine, which shares     all of them
                       the roles out

A payload is immutable and has a key that the store made: nothing is ever overwritten, and no name of a client's reaches the
store. A payload on its way in is begun, appended to and finished; then it is staged: its bytes are durable, and nobody can read
them. There are four verbs for what becomes of a payload:

    publish    a staged payload becomes readable, by the key that the store returns for it
    park       the write ends, and what was kept of the payload stays, to be resumed by this process or another
    drop       a payload that is not published is removed
    delete     a payload that is published, or in quarantine, is removed for good

`keep` is none of them. It makes durable what was appended so far, and the write goes on. What was kept outlives its process,
and belongs to an upload of the catalogue. What was begun and neither kept nor published is garbage after a crash: the sweep
drops it. A payload that was published and never committed to the catalogue is an orphan, and so is a kept one without an
upload: the daily listing moves orphans to the quarantine.

No method takes or returns a path or a file handle, and none requires that a payload is moved or cut. So a store of objects can
fill every role: `begin` settles the final key, each `keep` ends an object, `publish` has nothing to do, and `resume` ignores
the objects after the place from which it goes on. Where a method's promise is weaker for that reason, its description says so.
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
    "IdentityHolder",
    "Leases",
    "PayloadBusyError",
    "PayloadListing",
    "PayloadMissingError",
    "PayloadStore",
    "PayloadUnreadableError",
    "Quarantine",
    "Quarantined",
    "Space",
    "StagedPayload",
    "Staging",
    "StoredKey",
    "new_payload_key",
]


class ChunkStoreError(Exception):
    """Base of what a chunk store says of one payload; the engine decides what that means.

    Every method of every role may raise `StoreUnavailableError`: the disk, or the service, does not do it now. Apart from these
    and `StorageFullError` a store raises nothing: neither `OSError`, nor the errors of a client library.
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

    Its writer's lease goes on until it is published, dropped or parked. That takes no descriptor: an insert of all or nothing
    may have thousands.
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
    """Of a published payload, as `PayloadListing.published` gives it; of a kept one "uploads/" and its key."""
    stored_bytes: int
    until_s: float
    """Seconds since 1970: from then on it may be deleted."""


@dataclass(frozen=True)
class Space:
    """The space of a disk."""

    free_bytes: int
    """What programs of this user may still use, the reserve of inserts included."""
    total_bytes: int


class ChunkWriter(ABC):
    """One payload on its way in. One thread at a time; ends with `finish`, `park` or `drop`."""

    @abstractmethod
    def append(self, buffers: Sequence[Buffer]) -> None:
        """Append the buffers in order. They may be reused as soon as this returns.

        Raises:
            StorageFullError: no space is left, or only the reserve.
        """

    @abstractmethod
    def keep(self) -> Future[None]:
        """Begin to make durable what was appended so far, so that `resume` can go on from here; appending may go on meanwhile.

        The first time, the writer takes the payload's lease. One at a time: the one before must be done.

        Returns:
            Done when it is durable. Fails with `StorageFullError` or `StoreUnavailableError`: the bytes are gone.
        """

    @abstractmethod
    def finish(self) -> StagedPayload:
        """Make everything appended durable.

        Raises:
            StorageFullError: no space is left.
            StoreUnavailableError: the bytes cannot be made durable; they are gone.
        """

    @abstractmethod
    def park(self) -> None:
        """End the write; what was kept of the payload stays for `resume`, and the rest is dropped.

        Idempotent, and without effect after `finish` or `drop`.
        """

    @abstractmethod
    def drop(self) -> None:
        """End the write and drop what was appended, what was kept included. Idempotent; no effect after `finish` or `park`."""


class ChunkReader(ABC):
    """An open payload. Safe in many threads."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Length of the payload's container in bytes: with everything that was appended, a footer too.

        Raises:
            PayloadUnreadableError: the disk does not say it.
        """

    @abstractmethod
    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes from `offset` of the payload's container.

        After a deletion of the payload this goes on, or raises `PayloadMissingError`: it never returns other bytes. The grace
        of a deletion is longer than reads take, so it makes no difference to them.

        Raises:
            PayloadMissingError: it ends before that, or was deleted after it was opened.
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


class PayloadStore(ABC):
    """Published payloads by key. Safe in many threads."""

    @abstractmethod
    def open(self, key: str) -> ChunkReader:
        """Return a reader of a published payload.

        Args:
            key: as `Staging.publish` returned it.

        Raises:
            PayloadMissingError: no payload has this key.
            StoreUnavailableError: it cannot be opened now.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a published payload. Idempotent."""


class Staging(ABC):
    """Payloads on their way in. Safe in many threads."""

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
        """Take a kept payload's lease, and go on after its first `length` bytes; what follows them is no longer part of it.

        Args:
            length: what had been appended when one of the payload's `keep`s began, not necessarily the last one.

        Returns:
            A writer, and a reader of what is there.

        Raises:
            PayloadMissingError: it is not there, or shorter.
            PayloadBusyError: another writer has it.
        """

    @abstractmethod
    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Make staged payloads readable, durably, and return the key of each. On error none counts as published.

        A key ends with the name by which its payload was begun. Before this returns no caller knows it, so a store whose
        payloads have their final keys from the start need not hide them; see `PayloadListing.published`.

        Raises:
            StoreUnavailableError: that cannot be done now.
        """

    @abstractmethod
    def park(self, staged: StagedPayload) -> None:
        """End the lease of a staged payload that was kept, so that it can be resumed; drop one that was never kept."""

    @abstractmethod
    def drop(self, staged: StagedPayload) -> None:
        """Drop a staged payload that is not going to be published. Idempotent."""

    @abstractmethod
    def drop_kept(self, payload_key: str) -> None:
        """Drop a kept payload that is not going to be resumed. Idempotent.

        Raises:
            PayloadBusyError: a writer has it.
        """

    @abstractmethod
    def sweep_unfinished(self) -> int:
        """Drop what dead processes began and neither kept nor published, and return how many payloads there were."""


class Leases(ABC):
    """Which processes live, and which of them has a payload. Safe in many threads; nothing waits.

    A lease ends when its process does, however that ends. A store in one folder can ask the kernel for that. One that many
    hosts share needs leases that expire, and a caller who renews them in time; it must not let a writer go on whose lease is
    over.
    """

    @abstractmethod
    def acquire(self, payload_key: str) -> None:
        """Take the lease of a payload.

        Raises:
            PayloadBusyError: a writer has it, in this process or another.
        """

    @abstractmethod
    def release(self, payload_key: str) -> None:
        """Give up the lease of a payload. Without effect where it is not held."""

    @abstractmethod
    def has_other_users(self) -> bool:
        """Return whether another living process has the store open."""

    @abstractmethod
    def close(self) -> None:
        """Give up every lease: to others, this process is dead from then on. Idempotent."""


class PayloadListing(ABC):
    """What is stored, as far as the store itself can tell: a second net, below the rows of the catalogue. Safe in many threads.

    A listing may be slow and out of date. Whoever acts on it asks the catalogue for each key and waits until a payload is old.
    """

    @abstractmethod
    def published(self) -> Iterator[StoredKey]:
        """Yield every published payload that was there when this began.

        A store whose payloads have their final keys from the start may also yield some that are on their way in.
        """

    @abstractmethod
    def kept(self) -> Iterator[StoredKey]:
        """Yield every kept payload that was there when this began."""


class Quarantine(ABC):
    """Orphans, held until somebody may have missed them. Safe in many threads."""

    @abstractmethod
    def put(self, key: str, *, until_s: float) -> bool:
        """Take a payload out of the listing and hold it here, durably; return whether it was there.

        The bytes need not move: a note beside them will do. Then they can still be opened, which nobody does without a row.

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
        """Put a payload back, durably. Its age begins anew.

        Raises:
            PayloadMissingError: it is not here any more.
        """

    @abstractmethod
    def delete(self, entry: Quarantined) -> None:
        """Delete a payload for good. Idempotent."""


class IdentityHolder(ABC):
    """Which store the payloads are of."""

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


class ChunkStore(PayloadStore, Staging, PayloadListing, IdentityHolder):
    """Every role, of one store. Safe in many threads."""

    @property
    @abstractmethod
    def quarantine(self) -> Quarantine:
        """Where orphans wait to be deleted."""

    @property
    @abstractmethod
    def leases(self) -> Leases:
        """Of kept payloads, and of the processes that use the store."""

    @abstractmethod
    def space(self) -> Space | None:
        """Return the space of what holds the payloads; None: it has no such thing, as memory and object stores do not."""

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
