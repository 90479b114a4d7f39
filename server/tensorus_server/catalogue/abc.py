"""What the engine asks of a catalogue, in four small parts: datasets, tensors, uploads, and payloads that wait for deletion.

Rules for every implementation
    * What a method reports as done is durable, and visible to every later call.
    * A method either does all it says or nothing: a crash in the middle leaves the state before. The exceptions, which delete
      many rows in batches, say so.
    * The UNIQUE constraint on (dataset, id) decides every race.
    * Safe in many threads at once; writes take turns.
    * Names and ids are data: never part of a statement, of a path, or of a key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.errors import DataCorruptError
from tensorus_server.model import Outcome, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.chunk_index import ChunkIndex
    from tensorus_server.filter.tree import Filter
    from tensorus_server.model import (
        Checksum,
        Dataset,
        DatasetStats,
        Locator,
        Metadata,
        NewTensor,
        Schema,
        StorageReport,
        TensorSpec,
    )

__all__ = [
    "Catalogue",
    "DamagedTensor",
    "DatasetPage",
    "DatasetTable",
    "GarbageTable",
    "Mark",
    "Order",
    "Page",
    "PageRequest",
    "StoredTensor",
    "TensorTable",
    "Upload",
    "UploadTable",
    "place_of",
    "require_intact",
]

ORDER_FIELDS = ("created", "id", "nbytes", "stored_bytes")
"""What tensors can be listed by. "created" is the order of their commits."""


@plain_dataclass
class StoredTensor:
    """A tensor whose payload is durable, or part of the commit, and that is not visible yet."""

    dataset: Dataset
    new: NewTensor
    chunk_bytes: int
    source_checksum: Checksum
    value_checksum: Checksum
    storage: StorageReport
    values: ValueSummary | None
    locator: Locator
    inline_payload: bytes | None
    """None: the payload is in the chunk store."""
    source_crc32c: int
    """Of the canonical bytes as sent."""
    upload: tuple[str, int] | None = None
    """Request and item of the upload that this completes."""
    created_us: int | None = None
    """When it was committed, where its row is only made again; None: now."""

    @property
    def is_inline(self) -> bool:
        """Whether the payload is part of the commit."""
        return self.inline_payload is not None

    def committed(self, generation: int, ordinal: int, created_us: int, outcome: Outcome = Outcome.INSERTED) -> Tensor:
        """Return the tensor that this becomes by its commit."""
        policy = self.new.policy
        return Tensor(
            dataset=self.dataset.name,
            id=self.new.id,
            generation=generation,
            ordinal=ordinal,
            spec=self.new.spec,
            metadata=self.new.metadata,
            policy=None if policy is None else policy.to_json(),
            chunk_bytes=self.chunk_bytes,
            source_checksum=self.source_checksum,
            value_checksum=self.value_checksum,
            storage=self.storage,
            values=self.values,
            created_us=created_us,
            locator=self.locator,
            outcome=outcome,
        )


@dataclass(frozen=True)
class Upload:
    """A tensor on its way in, as far as it is durable; or the one that it became."""

    request_id: str
    """Of the insert; the client's."""
    item: int
    """Its number within the insert."""
    dataset_number: int
    id: str
    spec: TensorSpec
    policy: StoragePolicy
    """Which it is encoded by, whatever becomes of the dataset's."""
    payload_key: str
    committed_bytes: int
    """Canonical bytes that are durable, from the start; whole chunks."""
    stored_bytes: int
    """Bytes of the payload that they are."""
    chunk_count: int
    state: dict[str, Any]
    """What was measured so far, as JSON."""
    announced: NewTensor | None = None
    """What its first announcement said, which holds for every later stream; None: an older version of Tensorus began it."""
    generation: int | None = None
    """Of the tensor that it became; None: it is still on its way."""
    outcome: Outcome | None = None
    """What its insert did; None: it is still on its way, or an older version of Tensorus ended it."""


@dataclass(frozen=True)
class Mark:
    """A new state of an upload: its payload is durable so far."""

    upload: Upload
    new_chunks: ChunkIndex
    """Of the chunks since the mark before."""


@dataclass(frozen=True)
class Order:
    """How a listing is sorted; ties by generation."""

    field: str = "created"
    """One of `ORDER_FIELDS`."""
    descending: bool = False


@dataclass(frozen=True)
class PageRequest:
    """Which tensors, and from where on."""

    filter: Filter | None = None
    """None: all."""
    order: Order = Order()
    size: int = 100
    """Tensors of the page, at most."""
    after: tuple[str | int, int] | None = None
    """Sort value and generation of the last tensor of the page before; None: from the start."""
    generation_max: int | None = None
    """Tensors committed later are left out; None: none is."""
    with_payloads: bool = False
    """Whether inline payloads come along."""


@dataclass(frozen=True)
class DamagedTensor:
    """A tensor of a listing whose row is not what was written."""

    error: DataCorruptError
    """Names dataset, tensor and generation."""
    generation: int
    sort_value: Any
    """What it is sorted by. `Any`: the row may be wrong about it."""


@dataclass(frozen=True)
class Page:
    """Some tensors of a listing: fewer than asked for where their metadata and payloads are large."""

    tensors: list[Tensor | DamagedTensor]
    """Damaged ones in their places."""
    next: tuple[str | int, int] | None
    """For `PageRequest.after`; None: this was the last page."""


def require_intact(found: Tensor | DataCorruptError | None) -> Tensor | None:
    """Return the tensor, or None where there is none; raise the error of a damaged one."""
    if isinstance(found, DataCorruptError):
        raise found
    return found


def place_of(tensor: Tensor | DamagedTensor, field: str) -> tuple[str | int, int]:
    """Return sort value and generation of a tensor in an order by `field`: for `PageRequest.after`."""
    if isinstance(tensor, DamagedTensor):
        return tensor.sort_value, tensor.generation
    values: dict[str, str | int] = {
        "created": tensor.generation,
        "id": tensor.id,
        "nbytes": tensor.storage.canonical_bytes,
        "stored_bytes": tensor.storage.stored_bytes,
    }
    return values[field], tensor.generation


@dataclass(frozen=True)
class DatasetPage:
    """Some datasets of a listing."""

    datasets: list[tuple[int, Dataset | DataCorruptError]]
    """Each with its number."""
    next: int | None
    """For `after`; None: this was the last page."""


class DatasetTable(ABC):
    """Datasets by name."""

    @abstractmethod
    def create(self, name: str, policy: StoragePolicy, schema: Schema) -> Dataset:
        """Create a dataset.

        Raises:
            AlreadyExistsError: the name is taken.
        """

    @abstractmethod
    def get(self, name: str) -> Dataset:
        """Return the dataset.

        Raises:
            DatasetNotFoundError: there is none.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def find(self, number: int) -> Dataset | None:
        """Return the dataset of this number; None where there is none any more, or its row is damaged."""

    @abstractmethod
    def page(self, after: int, size: int) -> DatasetPage:
        """Return datasets in order of creation, a damaged one as an error in its place.

        Args:
            after: number of the last dataset of the page before; 0: from the start.
            size: datasets of the page, at most; there are fewer where their schemas are large.
        """

    @abstractmethod
    def update(self, name: str, policy: StoragePolicy | None, schema: Schema | None) -> Dataset:
        """Replace what is given; stored tensors stay as they are. Both together mend a damaged dataset.

        Raises:
            DatasetNotFoundError: there is none.
            DataCorruptError: its row is damaged, and only one of the two is given.
        """

    @abstractmethod
    def delete(self, name: str) -> int:
        """Delete the dataset with its tensors, and return how many there were.

        From then on no method but `purge` sees them, and the name is free. Takes a bounded time: `purge` does the rest.

        Raises:
            DatasetNotFoundError: there is none.
        """

    @abstractmethod
    def purge(self, pause: Callable[[float], bool]) -> int:
        """Remove the tensors of deleted datasets, leave their payloads to the sweep, and return how many there were.

        Works in batches, between which others can write; a crash in the middle leaves the rest to the next call. Where another
        process is at it already, it returns at once.

        Args:
            pause: called between two batches with the seconds to wait; returns whether to stop. An event's `wait` will do.
        """

    @abstractmethod
    def stats(self, name: str) -> DatasetStats:
        """Return sums over the dataset's tensors, without those that are damaged, which it names.

        Encodings are one where their JSON is equal. Those of the same stored bytes are in the order of their JSON.

        Raises:
            DatasetNotFoundError: there is none.
        """


class TensorTable(ABC):
    """Tensors by dataset and id. Methods that name a dataset that does not exist raise `DatasetNotFoundError`.

    What is read is what was written, in every field. A tensor whose row is damaged is a `DataCorruptError` that names it, in
    its own place; it can be replaced by its generation, and deleted.
    """

    @abstractmethod
    def commit(
        self, group: Sequence[StoredTensor], *, together: bool = False, current: bool = False
    ) -> list[Tensor | Exception]:
        """Make the group visible in one transaction.

        An id that is taken is decided by `resolve`: where the insert is a repeated one, the tensor that is there is
        returned. `Tensor.outcome` says what was done. Uploads that are completed by this are noted as such.

        Each tensor that becomes visible takes the next ordinal of its dataset, in the order of the group. One that replaces
        another takes a new one; what is repeated, or cannot be committed, takes none.

        Args:
            together: commit all of the group, or, where one of it cannot be, nothing.
            current: a dataset that is not as `StoredTensor.dataset` has it any more counts as one that has gone.

        Returns:
            For each of the group, in order: the tensor as committed; or why it was not: `AlreadyExistsError`,
            `StoredDifferentlyError`, `GenerationMismatchError`, `DatasetNotFoundError` where the dataset has gone,
            `DataCorruptError` where the row that has its id, or that of its dataset, is damaged, or `InsertAbandonedError`
            where another of the group could not be.

        Raises:
            StorageFullError: nothing of the group was committed.
            StoreUnavailableError: whether the group was committed only a restart can tell; its payloads must stay.
        """

    @abstractmethod
    def get(
        self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False
    ) -> list[Tensor | DataCorruptError | None]:
        """Return the tensors with these ids, in order; None where there is none."""

    @abstractmethod
    def page(self, dataset: str, request: PageRequest) -> Page:
        """Return one page of a listing; it has a tensor where there is one.

        Over the pages of one listing no tensor comes twice, and none is missed that was there at the start and still is.

        Raises:
            LimitExceededError: the statement ran for longer than allowed.
        """

    @abstractmethod
    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """Return the generations of a page's tensors, in ascending order whatever the request's order: for sampling."""

    @abstractmethod
    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False
    ) -> list[Tensor | DataCorruptError | None]:
        """Return the tensors of these generations, in order; None where there is none any more."""

    @abstractmethod
    def latest_generation(self) -> int:
        """Return the generation of the newest tensor ever committed; 0 before the first."""

    @abstractmethod
    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """Replace the tensor's metadata and return it; generation and ordinal stay.

        Raises:
            TensorNotFoundError: there is none.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """Delete these tensors, leave their payloads to the sweep, and return the ids that existed.

        Many are deleted in several transactions, so that others can write in between: a crash may leave some of them, which the
        same call deletes when it is repeated.
        """


class UploadTable(ABC):
    """Uploads by request and item. One whose row is damaged is not there: its tensor is sent again from its start."""

    @abstractmethod
    def save(self, marks: Sequence[Mark]) -> None:
        """Save new states, in one transaction."""

    @abstractmethod
    def find(self, request_id: str) -> list[Upload]:
        """Return the uploads of a request, in order of their items."""

    @abstractmethod
    def chunks(self, upload: Upload) -> ChunkIndex:
        """Return the chunk index of an upload that is still on its way, as far as it is.

        Raises:
            DataCorruptError: it cannot be read. One that can is still to be compared with the upload and its payload.
        """

    @abstractmethod
    def drop(self, request_id: str, item: int | None = None) -> list[str]:
        """Forget a request's uploads, or one of them, and return the payload keys of those that were on their way."""

    @abstractmethod
    def expired(self, limit: int) -> list[Upload]:
        """Return uploads whose time is over, at most `limit`."""


class GarbageTable(ABC):
    """Payloads in the chunk store that no tensor refers to any more, or never did.

    Keys are those of the chunk store; of a kept payload, "uploads/" and its key.
    """

    @abstractmethod
    def due(self, limit: int, *, in_grace: bool = False) -> list[str]:
        """Return keys of deleted tensors whose grace is over, at most `limit`.

        Args:
            in_grace: return those, too, whose grace is not over.
        """

    @abstractmethod
    def forget(self, keys: Collection[str]) -> None:
        """Drop deleted tensors' keys, after their payloads are gone. Idempotent. Succeeds on a full disk."""

    @abstractmethod
    def unknown(self, keys: Collection[str]) -> set[str]:
        """Return those of `keys` that belong to no tensor, no upload, and no deletion that waits."""

    @abstractmethod
    def known(self) -> Iterator[bytes]:
        """Yield every key that belongs to a tensor, an upload, or a deletion that waits, in UTF-8 and in any order.

        They come from the rows themselves, whatever is damaged in them, and from no index. Rows that are written meanwhile may
        be missing.

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
        """Return whether it is time to list the chunk store again; of all processes one is told so, once in `every_s`."""


class Catalogue(ABC):
    """The four tables, which share transactions and a life."""

    datasets: DatasetTable
    tensors: TensorTable
    uploads: UploadTable
    garbage: GarbageTable

    @abstractmethod
    def check_writable(self) -> None:
        """Do nothing if writes are possible.

        Raises:
            StoreUnavailableError: an earlier write failed with an unknown outcome, or the files were removed.
        """

    @abstractmethod
    def check_present(self) -> None:
        """Do nothing if the files of the catalogue are where they belong.

        Raises:
            StoreUnavailableError: they were removed, or there are no more writes for another reason.
        """

    @abstractmethod
    def maintain(self, *, idle: bool) -> None:
        """Do what keeps the catalogue small and fast, if it is time for it; called between commits and when idle.

        Raises:
            StoreUnavailableError: it failed so that only a restart can tell what is durable; there are no more writes.
        """

    @abstractmethod
    def close(self, timeout_s: float = 30.0) -> None:
        """End all use. Idempotent.

        Args:
            timeout_s: how long to wait for what is going on.

        Raises:
            StoreBusyError: it has not ended in time.
        """
