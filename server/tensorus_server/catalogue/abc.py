"""What the engine asks of a catalogue, in three small parts: datasets, tensors, and payloads that wait for deletion.

Rules for every implementation
    * What a method reports as done is durable, and visible to every later call.
    * A method either does all it says or nothing: a crash in the middle leaves the state before.
    * The UNIQUE constraint on (dataset, id) decides every race.
    * Safe in many threads at once; writes take turns.
    * Names and ids are data: never part of a statement, of a path, or of a key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.model import Tensor

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.filter import Filter
    from tensorus_server.model import (
        Checksum,
        Dataset,
        DatasetStats,
        Locator,
        Metadata,
        NewTensor,
        Schema,
        StorageReport,
    )

__all__ = ["Catalogue", "DatasetTable", "GarbageTable", "Order", "Page", "PageRequest", "StoredTensor", "TensorTable"]

ORDER_FIELDS = ("created", "id", "nbytes", "stored_bytes")
"""What tensors can be listed by. "created" is the order of their commits."""


@dataclass(frozen=True)
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

    def committed(self, generation: int, created_us: int) -> Tensor:
        """Return the tensor that this becomes by its commit."""
        policy = self.new.policy
        return Tensor(
            dataset=self.dataset.name,
            id=self.new.id,
            generation=generation,
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
        )


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
class Page:
    """Some tensors of a listing."""

    tensors: list[Tensor]
    next: tuple[str | int, int] | None
    """For `PageRequest.after`; None: this was the last page."""


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
        """

    @abstractmethod
    def list(self) -> list[Dataset]:
        """Return all datasets in order of creation."""

    @abstractmethod
    def update(self, name: str, policy: StoragePolicy | None, schema: Schema | None) -> Dataset:
        """Replace what is given; stored tensors stay as they are.

        Raises:
            DatasetNotFoundError: there is none.
        """

    @abstractmethod
    def delete(self, name: str) -> int:
        """Delete the dataset and its tensors, leave their payloads to the sweep, and return how many tensors there were.

        Raises:
            DatasetNotFoundError: there is none.
        """

    @abstractmethod
    def stats(self, name: str) -> DatasetStats:
        """Return sums over the dataset's tensors.

        Raises:
            DatasetNotFoundError: there is none.
        """


class TensorTable(ABC):
    """Tensors by dataset and id. Methods that name a dataset that does not exist raise `DatasetNotFoundError`."""

    @abstractmethod
    def commit(self, group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
        """Make the group visible in one transaction.

        An id that is taken by a tensor of the same spec and source checksum is that tensor, inserted again: it is returned.

        Returns:
            For each of the group, in order: the tensor as committed; or why it was not: `AlreadyExistsError`, or
            `DatasetNotFoundError` where the dataset has gone.

        Raises:
            StorageFullError: nothing of the group was committed.
            StoreUnavailableError: whether the group was committed only a restart can tell; its payloads must stay.
        """

    @abstractmethod
    def get(self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False) -> list[Tensor | None]:
        """Return the tensors with these ids, in order; None where there is none."""

    @abstractmethod
    def page(self, dataset: str, request: PageRequest) -> Page:
        """Return one page of a listing.

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
    ) -> list[Tensor | None]:
        """Return the tensors of these generations, in order; None where there is none any more."""

    @abstractmethod
    def latest_generation(self) -> int:
        """Return the generation of the newest tensor ever committed; 0 before the first."""

    @abstractmethod
    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """Replace the tensor's metadata and return it.

        Raises:
            TensorNotFoundError: there is none.
        """

    @abstractmethod
    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """Delete these tensors, leave their payloads to the sweep, and return the ids that existed."""


class GarbageTable(ABC):
    """Payloads in the chunk store that no tensor refers to any more, or never did."""

    @abstractmethod
    def due(self, limit: int) -> list[str]:
        """Return keys of deleted tensors whose grace is over, at most `limit`."""

    @abstractmethod
    def forget(self, keys: Collection[str]) -> None:
        """Drop deleted tensors' keys, after their payloads are gone. Idempotent."""

    @abstractmethod
    def unknown(self, keys: Collection[str]) -> set[str]:
        """Return those of `keys` that belong neither to a tensor nor to a deletion that waits."""


class Catalogue(ABC):
    """The three tables, which share transactions and a life."""

    datasets: DatasetTable
    tensors: TensorTable
    garbage: GarbageTable

    @abstractmethod
    def check_writable(self) -> None:
        """Do nothing if writes are possible.

        Raises:
            StoreUnavailableError: an earlier write failed with an unknown outcome.
        """

    @abstractmethod
    def maintain(self, *, idle: bool) -> None:
        """Do what keeps the catalogue small and fast, if it is time for it; called between commits and when idle.

        Raises:
            StoreUnavailableError: it failed so that only a restart can tell what is durable; there are no more writes.
        """

    @abstractmethod
    def close(self) -> None:
        """End all use. Idempotent."""
