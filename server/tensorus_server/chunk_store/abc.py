"""The interface of a chunk store, split into roles. A class may fill several, and a caller takes only those that it needs.

    role               used by                      purpose
    `PayloadStore`     reads, the sweep             opens published payloads for reading, and deletes them
    `Staging`          inserts, the sweep           receives payloads as streams, and publishes them
    `Leases`           the store's other roles      tracks which processes are alive, and which of them holds a payload
    `PayloadListing`   the daily listing            lists all payloads, to find orphans
    `Quarantine`       the daily listing, `gc`      holds orphans until they are deleted
    `IdentityHolder`   the opening of a store       tells which store the payloads belong to
    `PackStore`        the sweep of packs           packs: objects that hold many small payloads each
    `ChunkStore`       the engine                   all of these but `PackStore`; the engine passes on single roles

A payload is immutable and has a key that the store chooses, so nothing is ever overwritten, and no name from a client reaches
the store. A new payload is begun, appended to and finished. Then it is staged: its bytes are durable, but nobody can read them.
Four verbs say what happens to a payload afterwards:

    publish    a staged payload becomes readable, under the key that the store returns
    park       the write ends, and the kept part of the payload stays, so that this process or another can resume it
    drop       a payload that is not published is removed
    delete     a payload that is published, or in quarantine, is removed for good

`keep` makes the bytes appended so far durable while the write continues. A kept payload outlives its process, and belongs to an
upload in the catalogue. After a crash, a payload that was begun and neither kept nor published is garbage, and the sweep drops
it. A payload that was published and never committed to the catalogue is an orphan, and so is a kept one without an upload; the
daily listing moves orphans to the quarantine.

No method takes or returns a path or a file handle, or requires a payload to be moved or truncated. So an object store can fill
every role: `begin` chooses the final key, each `keep` completes an object, `publish` stores small payloads together, and
`resume` ignores the objects after its position. Methods whose promises are weaker for that reason say so.

A store that several hosts share has no kernel locks. It notes in a `WriteLog`, which the catalogue keeps, what it is writing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tensorus_server.chunk_store.pack_abc import PackedPart, PackStore, StoredPack
from tensorus_server.chunk_store.quarantine_abc import Quarantine, Quarantined
from tensorus_server.chunk_store.write_log import WriteLog
from tensorus_server.meters import ChunkStoreMeters
from tensorus_server.payload_keys import new_payload_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
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
    "PackStore",
    "PackedPart",
    "PayloadBusyError",
    "PayloadListing",
    "PayloadMissingError",
    "PayloadStore",
    "PayloadUnreadableError",
    "PresignedRange",
    "Quarantine",
    "Quarantined",
    "Space",
    "StagedPayload",
    "Staging",
    "StoredKey",
    "StoredPack",
    "WriteLog",
    "new_payload_key",
]


class ChunkStoreError(Exception):
    """Base of the errors that concern one payload; the engine decides how to report them.

    Every method of every role may also raise `StoreUnavailableError`, if the disk or the service fails. Besides these and
    `StorageFullError`, a store raises no errors: neither `OSError` nor those of a client library.
    """


class PayloadMissingError(ChunkStoreError):
    """No payload has this key, or the payload is shorter than requested."""


class PayloadBusyError(ChunkStoreError):
    """Another writer holds this payload."""


class PayloadUnreadableError(ChunkStoreError):
    """The disk cannot read the requested bytes."""


@dataclass(frozen=True)
class StagedPayload:
    """A payload that is durable as a whole, and that nobody can read yet."""

    payload_key: str
    """The name with which it was begun."""
    length: int
    """In bytes."""
    kept: bool = False
    """Whether it was kept while it was written, so that it outlives its process although it is not published.

    Its writer's lease lasts until it is published, dropped or parked. The lease needs no descriptor, because an all-or-nothing
    insert may hold thousands.
    """


@dataclass(frozen=True)
class StoredKey:
    """An entry of a listing."""

    key: str
    """The key, as the store's methods take it."""
    modified_s: float
    """Seconds since 1970."""


@dataclass(frozen=True)
class Space:
    """The space of a disk."""

    free_bytes: int
    """What programs of this user may still use, the reserve of inserts included."""
    total_bytes: int


@dataclass(frozen=True)
class PresignedRange:
    """A range of a payload that anybody can fetch with a GET of `url`, until it expires."""

    url: str
    """Names an object; holds a signature, so it must not be logged."""
    offset: int
    """Of the range in that object, in bytes: the GET's Range header is "bytes=<offset>-<offset + length - 1>"."""
    length: int
    """In bytes."""
    expires_s: float
    """When the signature expires, in seconds since 1970, by this host's clock."""


class ChunkWriter(ABC):
    """Writes one payload; used by one thread at a time, and ended with `finish`, `park` or `drop`."""

    @abstractmethod
    def append(self, buffers: Sequence[Buffer]) -> None:
        """Append the buffers in order. They may be reused as soon as this returns.

        Raises:
            StorageFullError: no space is left, or only the reserve.
        """

    @abstractmethod
    def keep(self) -> Future[None]:
        """Start to make the bytes appended so far durable, so that `resume` can continue after them.

        Appending may continue meanwhile. The first call takes the payload's lease. The previous call must be done before the
        next one.

        Returns:
            A future that is done when the bytes are durable. If it fails with `StorageFullError` or `StoreUnavailableError`,
            the bytes are lost.
        """

    @abstractmethod
    def finish(self) -> StagedPayload:
        """Make all appended bytes durable, and end the write.

        A store may leave the last step to `publish`, for payloads that it stores together. They are dropped if the process
        ends.

        Raises:
            StorageFullError: no space is left.
            StoreUnavailableError: the bytes could not be made durable, and are lost.
        """

    @abstractmethod
    def park(self) -> None:
        """End the write; the kept part of the payload stays for `resume`, and the rest is dropped.

        Idempotent; has no effect after `finish` or `drop`.
        """

    @abstractmethod
    def drop(self) -> None:
        """End the write and drop the payload, including its kept part. Idempotent; has no effect after `finish` or `park`."""


class ChunkReader(ABC):
    """An open payload. Thread-safe."""

    fetches_ahead: ClassVar[bool] = False
    """Whether `prefetch` does anything."""

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

        If the payload was deleted, this either continues to work or raises `PayloadMissingError`; it never returns other bytes.
        Either is fine, since the grace period of a deletion is longer than any read.

        Raises:
            PayloadMissingError: the payload is shorter, or was deleted after it was opened.
            PayloadUnreadableError: the disk cannot read the bytes.
        """

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:  # noqa: B027 - most stores have nothing to do
        """Announce ranges that `read` will be asked for soon, in this order; each is an offset and a length.

        A store far away fetches them meanwhile, as far as its memory allows; others do nothing. It never waits and never fails:
        errors are raised by `read`.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the payload. Idempotent."""

    def __enter__(self) -> Self:
        """Return the reader."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


class PayloadStore(ABC):
    """Published payloads by key. Thread-safe."""

    @property
    def fetches_ahead(self) -> bool:
        """Whether `fetch_ahead` does anything."""
        return False

    def fetch_ahead(self, keys: Sequence[str]) -> Callable[[], None]:
        """Announce payloads that `open` will be asked for soon, in this order.

        A store far away fetches small ones meanwhile, those that follow each other together, as far as its memory allows.
        Others do nothing. It never waits and never fails: errors are raised by `open`.

        Returns:
            A function that gives up what was not opened. The caller calls it when no more of them will be.
        """
        del keys
        return _nothing

    @abstractmethod
    def open(self, key: str) -> ChunkReader:
        """Open a published payload.

        Args:
            key: a key that `Staging.publish` returned.

        Raises:
            PayloadMissingError: no payload has this key.
            StoreUnavailableError: the payload cannot be opened now.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete a published payload. Idempotent."""

    def presign(
        self, key: str, ranges: Sequence[tuple[int, int]], expires_s: float
    ) -> list[list[PresignedRange]] | None:
        """Return where anybody can fetch ranges of a payload; None: this store cannot sign requests.

        Args:
            ranges: each is an offset and a length.
            expires_s: how long the signatures are valid, in seconds.

        Returns:
            For each range its pieces, in order. A range that spans several objects has several.

        Raises:
            PayloadMissingError: no payload has this key, or it is shorter.
        """
        del key, ranges, expires_s
        return None

    def sweeping(self) -> AbstractContextManager[bool]:
        """Return a context in which payloads may be deleted that are no longer needed, if it yields True.

        False: a backup is being made, which may need them. One that begins meanwhile waits until the block ends.
        """
        return nullcontext(enter_result=True)


def _nothing() -> None:
    """Give up nothing."""


class Staging(ABC):
    """Payloads that are not published yet. Thread-safe."""

    @abstractmethod
    def require_space(self) -> None:
        """Check that inserts may use more space.

        Raises:
            StorageFullError: only the reserve is left.
        """

    @abstractmethod
    def begin(self, payload_key: str) -> ChunkWriter:
        """Start a payload.

        Args:
            payload_key: a result of `new_payload_key`.

        Raises:
            StorageFullError: no space is left, or only the reserve.
        """

    @abstractmethod
    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:
        """Take a kept payload's lease, and continue after its first `length` bytes; any bytes after them are dropped.

        Args:
            length: the payload's length when `keep` was called, though not necessarily at the last call.

        Returns:
            A writer, and a reader of the first `length` bytes.

        Raises:
            PayloadMissingError: the payload does not exist, or is shorter.
            PayloadBusyError: another writer holds it.
        """

    @abstractmethod
    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Make staged payloads readable, durably, and return their keys. After an error, none of them counts as published.

        A key ends with the name with which its payload was begun. No caller knows the key before this returns, so a store
        whose payloads have their final keys from the start need not hide them; see `PayloadListing.published`.

        Raises:
            StoreUnavailableError: the payloads cannot be published now.
        """

    @abstractmethod
    def park(self, staged: StagedPayload) -> None:
        """End the lease of a staged payload that was kept, so that it can be resumed; drop one that was never kept."""

    @abstractmethod
    def drop(self, staged: StagedPayload) -> None:
        """Drop a staged payload that will not be published. Idempotent."""

    @abstractmethod
    def drop_kept(self, payload_key: str) -> None:
        """Drop a kept payload that will not be resumed. Idempotent.

        Raises:
            PayloadBusyError: a writer holds it.
        """

    @abstractmethod
    def sweep_unfinished(self) -> int:
        """Drop the payloads of dead processes that were neither kept nor published, and return their number."""


class Leases(ABC):
    """Tracks which processes are alive, and which of them holds a payload. Thread-safe; no method waits.

    A lease ends when its process ends, for any reason. For a store in a local folder, kernel locks ensure this. A store that
    several hosts share needs leases that expire and are renewed in time, and must stop a writer whose lease has expired.
    """

    @abstractmethod
    def acquire(self, payload_key: str) -> None:
        """Take the lease of a payload.

        Raises:
            PayloadBusyError: a writer holds it, in this process or another.
        """

    @abstractmethod
    def release(self, payload_key: str) -> None:
        """Give up the lease of a payload; has no effect if it is not held."""

    @abstractmethod
    def has_other_users(self) -> bool:
        """Return whether another living process has the store open."""

    @abstractmethod
    def close(self) -> None:
        """Give up all leases; from then on, other processes regard this one as dead. Idempotent."""


class PayloadListing(ABC):
    """Lists all payloads that the store has, independently of the catalogue. Thread-safe.

    A listing may be slow and out of date. A caller that acts on it must look up each key in the catalogue, and must ignore
    young payloads.
    """

    @property
    def packs(self) -> PackStore | None:
        """The packs of the store; None: it has none."""
        return None

    @abstractmethod
    def published(self) -> Iterator[StoredKey]:
        """Yield every published payload that existed when this began.

        A store whose payloads have their final keys from the start may also yield unpublished ones. Payloads in packs are not
        listed here: see `PackStore.packs`.
        """

    @abstractmethod
    def kept(self) -> Iterator[StoredKey]:
        """Yield every kept payload that existed when this began.

        Not those that another process has finished and not published, if the store lists these as published.
        """


class IdentityHolder(ABC):
    """Holds the identity of the store that the payloads belong to."""

    @abstractmethod
    def read_identity(self) -> StoreIdentity | None:
        """Return the identity; None: none was ever written.

        Raises:
            StoreUnavailableError: the identity cannot be read.
        """

    @abstractmethod
    def write_identity(self, identity: StoreIdentity) -> None:
        """Replace the identity, durably; after a crash, either the new or the old one is there.

        Only one process at a time may call this.

        Raises:
            StorageFullError, StoreUnavailableError: the identity cannot be written now.
        """


class ChunkStore(PayloadStore, Staging, PayloadListing, IdentityHolder):
    """All roles of one store. Thread-safe."""

    meters = ChunkStoreMeters()
    """What the store has done since it was opened. A store that measures nothing has this one, which stays at zero."""

    @property
    @abstractmethod
    def quarantine(self) -> Quarantine:
        """The quarantine of this store."""

    @property
    @abstractmethod
    def leases(self) -> Leases:
        """The leases of kept payloads, and of the processes that use the store."""

    @abstractmethod
    def space(self) -> Space | None:
        """Return the space of what holds the payloads; None: it has no such thing, as memory and object stores do not."""

    @abstractmethod
    def close(self, timeout_s: float = 60.0) -> bool:
        """Close the store. Idempotent.

        Args:
            timeout_s: how long to wait for syncs in progress.

        Returns:
            Whether they ended in time.
        """
