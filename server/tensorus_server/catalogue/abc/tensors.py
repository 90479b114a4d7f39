"""The table of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.model import Outcome, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.catalogue.abc.pages import Page, PageRequest
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import Checksum, Dataset, Locator, Metadata, NewTensor, StorageReport

__all__ = ["StoredTensor", "TensorTable"]


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


class TensorTable(ABC):
    """Tensors by dataset and id. Methods that name a dataset that does not exist raise `DatasetNotFoundError`.

    What is read is what was written, in every field. A tensor whose row is damaged is a `DataCorruptError` that names it, in
    its own place; it can be replaced by its generation, and deleted.
    """

    @abstractmethod
    def commit(
        self, group: Sequence[StoredTensor], *, together: bool = False, current: bool = False
    ) -> list[Tensor | Exception]:
        """Make the group visible in one transaction: no reader sees a part of it (4), and it is durable when this returns (1).

        A row that cannot be committed keeps no other one of the group from it, unless `together`. Where a page of the database
        is damaged, a group may be split, so that only those that meet the damage fail; with `together` it never is.

        An id that is taken is decided by `resolve`: where the insert is a repeated one, the tensor that is there is
        returned. `Tensor.outcome` says what was done. Uploads that are completed by this are noted as such.

        Each tensor that becomes visible takes the next generation of the store (6), and the next ordinal of its dataset, in the
        order of the group. One that replaces another takes new ones, and the key of the other's payload becomes due after its
        grace, in the same transaction. What is repeated, or cannot be committed, takes none. The time of the commit is of the
        catalogue's clock (11), and orders nothing.

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
        """Return the tensors with these ids, in order, of one state of the catalogue (4); None where there is none."""

    @abstractmethod
    def page(self, dataset: str, request: PageRequest) -> Page:
        """Return one page of a listing; it has a tensor where there is one.

        Pages of one listing are of several states (4). They are stable all the same (8): a page begins after the sort value and
        generation of the last tensor before it, and both never change in a row. With `generation_max` it leaves out what was
        committed after that was the latest generation, which relies on (6). Text is sorted by code point (12).

        Raises:
            LimitExceededError: the statement ran for longer than allowed.
        """

    @abstractmethod
    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """Return the generations of a page's tensors, in ascending order whatever the request's order: for sampling.

        A sample that is taken again from the same `generation_max`, with nothing deleted meanwhile, sees the same ones (6).
        """

    @abstractmethod
    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False
    ) -> list[Tensor | DataCorruptError | None]:
        """Return the tensors of these generations, in order; None where there is none any more."""

    @abstractmethod
    def latest_generation(self) -> int:
        """Return the generation of the newest tensor ever committed, deleted or not; 0 before the first.

        Whatever becomes visible afterwards has a larger one (6).
        """

    @abstractmethod
    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """Replace the tensor's metadata, and what filters see of them, in one transaction; generation and ordinal stay.

        Raises:
            TensorNotFoundError: there is none.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """Delete these tensors, leave their payloads to the sweep, and return the ids that existed.

        A payload's key becomes due after its grace, in the transaction that removes its row. Many are deleted in several
        transactions, so that others can write in between: a crash may leave some of them, which the same call deletes when it
        is repeated (9). Succeeds on a full disk.
        """
