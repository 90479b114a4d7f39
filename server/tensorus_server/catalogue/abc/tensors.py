"""The table of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorus_codecs.plain_dataclass import plain_dataclass
from tensorus_server.model import Outcome, Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus_codecs.summary import ValueSummary
    from tensorus_server.catalogue.abc.pages import Page, PageRequest
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import (
        Checksum,
        Dataset,
        Locator,
        Metadata,
        NewTensor,
        Restored,
        StorageReport,
        TensorSpec,
    )

__all__ = ["EqualTensor", "NotSharedError", "StoredTensor", "TensorTable"]


class NotSharedError(Exception):
    """The outcome for a tensor without a payload of its own, if there is none that it can share. Users never see it."""


@plain_dataclass
class EqualTensor:
    """A stored tensor whose payload another one with equal bytes may share."""

    tensor: Tensor
    """Without its metadata, which play no part."""
    source_crc32c: int
    """CRC32C of the canonical bytes that its writer sent."""
    references: tuple[str, ...] = ()
    """As of `StoredTensor`."""

    @property
    def facts(self) -> tuple[object, ...]:
        """What a tensor that shares its payload must have, too."""
        tensor = self.tensor
        return (
            *(tensor.spec, tensor.chunk_bytes, tensor.source_checksum, self.source_crc32c),
            *(tensor.value_checksum, tensor.storage),
        )


@plain_dataclass
class StoredTensor:
    """A tensor that is ready to be committed: its payload is durable already, or is part of the commit."""

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
    """CRC32C of the canonical bytes that the writer sent."""
    upload: tuple[str, int] | None = None
    """Request id and item of the upload that this tensor completes."""
    references: tuple[str, ...] = ()
    """Keys in the chunk store of further payloads that it needs, which it shares with other tensors."""
    bases: tuple[str, ...] = ()
    """Keys in the chunk store of payloads with bases of its payload's records. Without them, its payload cannot be decoded."""
    bases_of_others: tuple[tuple[str, str], ...] = ()
    """If its row is being recovered: keys of such payloads, each with the key of one of `references` or of another payload with
    bases that needs it."""
    changes: int | None = None
    """The generation that it changes, if it is the result of an edit; None: it is an insert."""
    sent: TensorSpec | None = None
    """The spec of the values that the edit sent."""
    created_us: int | None = None
    """When the tensor was first committed, if its row is being recovered; None: now."""
    shares_payload: bool = False
    """Whether another row has, or had, the same payload. Then it is not garbage, even if it was about to be swept."""
    content: bytes | None = None
    """The content digest, which is listed, so that equal tensors can share the payload; None: it is not shared."""
    equals: tuple[EqualTensor, ...] = ()
    """Stored tensors with the same content digest whose payloads are in order, the preferred one first."""
    has_payload: bool = True
    """Whether it has a payload of its own. If not, it is only committed if it can share one."""
    session: str | None = None
    """Request id of the insert that it belongs to, if other processes may take that over: it is only committed while this
    process has the insert's lease."""

    @property
    def is_inline(self) -> bool:
        """Whether the payload is stored in the catalogue."""
        return self.inline_payload is not None

    @property
    def facts(self) -> tuple[object, ...]:
        """What a tensor that shares its payload must have, too."""
        return (
            *(self.new.spec, self.chunk_bytes, self.source_checksum, self.source_crc32c),
            *(self.value_checksum, self.storage),
        )

    def may_share(self, other: EqualTensor | StoredTensor) -> bool:
        """Return whether it can have the payload of `other`, which has the same content digest.

        Whatever is known of both is compared, so that a digest that is the same by chance or on purpose is not enough. A tensor
        with a base is stored in another way than an equal one without, so then the storage reports may differ.
        """
        if self.new.base is not None:
            return self.facts[:-1] == other.facts[:-1]
        return self.facts == other.facts

    def sharing(self, other: Tensor | StoredTensor, references: tuple[str, ...]) -> StoredTensor:
        """Return this tensor with the payload of `other`, which it may share, and which needs `references`."""
        return replace(self, locator=other.locator, storage=other.storage, references=references, shares_payload=True)

    def committed(self, generation: int, ordinal: int, created_us: int, outcome: Outcome = Outcome.INSERTED) -> Tensor:
        """Return the tensor as it is after its commit."""
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
    """Tensors by dataset and id. All methods that take a dataset raise `DatasetNotFoundError` if it does not exist.

    Every field that is returned is as it was written. For a tensor with a damaged row, a `DataCorruptError` that names it is
    returned in its place. Such a tensor can be deleted, or replaced by giving its generation.
    """

    @abstractmethod
    def commit(
        self, group: Sequence[StoredTensor], *, together: bool = False, current: bool = False
    ) -> list[Tensor | Exception]:
        """Make the group visible in one transaction: no reader sees a part of it (4), and it is durable when this returns (1).

        Unless `together` is set, a tensor that cannot be committed does not affect the others. If a page of the database is
        damaged, the group may be split, so that only tensors that use the page fail.

        `resolve_conflict` decides what happens to a tensor whose id is taken. If the insert is a repeated one, the existing
        tensor is returned. `Tensor.outcome` says what was done. Completed uploads are recorded as complete.

        Each tensor that becomes visible gets the next generation of the store (6) and the next ordinal of its dataset, in the
        order of the group. This includes a tensor that replaces or changes another. The same transaction then makes the keys of
        the payloads that only the other needed due, after their grace period. From the commit on, no payload of `bases` becomes
        due while the tensor's payload exists. Tensors that are already stored or fail get no
        numbers. The commit's time comes from the catalogue's clock (11) and determines no order.

        A tensor with a content digest gets the payload of an equal tensor, instead of its own, if one of `StoredTensor.equals`
        still exists or the group has one before it. It never gets that of the tensor it replaces. If that may have the same
        values, it gets none either that needs, as its base or its own, a payload which that needs. The returned tensor says by
        its locator which payload it has; the others of the group are in no row.

        Args:
            together: whether to commit either the whole group or nothing.
            current: whether to treat a dataset that no longer equals `StoredTensor.dataset` as deleted.

        Returns:
            For each tensor of the group, in order: the committed tensor, or the error that explains why it was not committed.
            The error is `AlreadyExistsError`, `StoredDifferentlyError`, `GenerationMismatchError`, `DatasetNotFoundError` if
            the dataset was deleted, `StoreBusyError` if a payload of `bases` is no longer in use, `DataCorruptError` if the row
            with this id or the dataset's row is damaged, `NotSharedError` if the tensor has no payload and can share none, or
            `InsertAbandonedError` if another tensor of the group failed.

        Raises:
            StorageFullError: nothing of the group was committed.
            StoreUnavailableError: only a restart can determine whether the group was committed; its payloads must stay.
        """

    @abstractmethod
    def equal_tensors(self, digests: Sequence[bytes]) -> dict[bytes, list[EqualTensor]]:
        """Return tensors with these content digests, of any dataset, from one state of the catalogue (4).

        They include tensors that are kept after their replacement or deletion. A few are returned for each digest, the latest
        first; damaged rows are left out.
        """

    @abstractmethod
    def get(
        self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False, at: int | None = None
    ) -> list[Tensor | DataCorruptError | None]:
        """Return the tensors with these ids, in order, from one state of the catalogue (4); None for an id without a tensor.

        Args:
            at: the generation of the dataset's state; None: the current one.

        Raises:
            StateNotKeptError: the state is not kept, or not reached yet. The other reads raise it, too.
        """

    @abstractmethod
    def page(self, dataset: str, request: PageRequest) -> Page:
        """Return one page of a listing. Only the last page can be empty.

        The pages of a listing may come from different states (4), but they are stable (8): a page begins after the sort value
        and generation of the last tensor of the previous page, and neither ever changes in a row. With `generation_max` set to
        the latest generation, later commits are left out, which relies on (6). Text is sorted by code point (12).

        Raises:
            LimitExceededError: the statement ran for longer than allowed.
        """

    @abstractmethod
    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """Return the generations of a page's tensors for sampling, in ascending order; the request's order is ignored.

        If a sample is repeated with the same `generation_max` and nothing was deleted meanwhile, the generations are the same
        (6).
        """

    @abstractmethod
    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False, at: int | None = None
    ) -> list[Tensor | DataCorruptError | None]:
        """Return the tensors with these generations, in order; None for one that does not exist in the state `at`."""

    @abstractmethod
    def latest_generation(self) -> int:
        """Return the largest generation ever assigned, even if its tensor was deleted; 0 before the first commit.

        All tensors that become visible later have larger generations (6).
        """

    @abstractmethod
    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """Replace the tensor's metadata and its metadata index in one transaction.

        Generation and ordinal stay the same, unless a snapshot or the retention needs the tensor as it is. Then it is replaced:
        the tensor with the new metadata has the next generation and ordinal, the time of this commit, and the same payload.

        Raises:
            TensorNotFoundError: the tensor does not exist.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def restore(
        self, dataset: str, at: int, *, limit: int, discard_newer: bool = False, number: int | None = None
    ) -> Restored:
        """Make the tensors of a dataset those of an earlier state, in one transaction.

        Tensors of that state that are still there stay as they are. Others are replaced by new ones, which have the next
        generations and ordinals, the same payloads, and the time of this commit. Tensors with ids that the state does not have
        are deleted. Repeated, it changes nothing (9).

        Args:
            at: the generation of the state.
            limit: largest number of tensors to bring back and to delete.
            discard_newer: whether to delete tensors that nothing keeps.
            number: the number that the dataset must have, so that another one which got its name is left alone; None: any.

        Raises:
            DatasetNotFoundError: the dataset does not exist, or has another number.
            StateNotKeptError: the state is not kept.
            NewerTensorsError: tensors would be deleted that nothing keeps.
            LimitExceededError: there is more to do than `limit`.
            DataCorruptError: a tensor of the state is damaged.
        """

    @abstractmethod
    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """Delete these tensors, leave their payloads to the sweep, and return the ids that existed.

        The transaction that removes a tensor's row also makes the key of its payload due, after the grace period. Many tensors
        are deleted in several transactions, so that others can write in between. After a crash, repeating the call deletes the
        rest (9). Succeeds on a full disk.
        """
