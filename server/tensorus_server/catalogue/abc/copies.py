"""Copies, moves and new names of tensors and datasets. No payload in the chunk store is copied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.model import Dataset, Tensor

__all__ = ["CopyTable", "TensorCopies"]


@dataclass(frozen=True)
class TensorCopies:
    """Tensors of one dataset that are to be copied in one transaction."""

    source: str
    """Name of the dataset that has them."""
    destination: str
    """Name of the dataset that gets them; may be the same."""
    ids: Sequence[tuple[str, str]]
    """The id of each, and that of its copy. No two copies have the same."""
    at: int | None = None
    """Copy them as they were at this generation; None: as they are."""
    replace: bool = False
    """Whether to replace other tensors that have the new ids."""
    move: bool = False
    """Whether to delete the tensors in the same transaction."""
    request_id: str = ""
    """Identifies the call if it is repeated because its answer was lost; empty: it is not repeated."""


class CopyTable(ABC):
    """Copies of tensors and datasets, which share payloads with their sources.

    A call with a request id is recorded in its own transaction, for as long as an upload can be resumed. If it is repeated, it
    changes nothing and returns what it made (9).
    """

    @abstractmethod
    def copy_tensors(self, copies: TensorCopies, check: Callable[[Dataset, Sequence[Tensor]], None]) -> list[Tensor]:
        """Copy or move tensors in one transaction, and return the copies in order. `Tensor.outcome` says what was done.

        A copy has the values, metadata, checksums, summary and report of its source, the next generation and ordinal, and the
        current time. If the source followed its dataset's policy, and the policy of the destination differs, that policy
        becomes the copy's own.

        All tensors are read before any is written, so ids can be exchanged: moving a to b and b to a swaps them. `resolve_copy`
        decides what happens if another tensor has a new id.

        Args:
            check: called before the commit with the destination and the copies, to refuse them.

        Raises:
            DatasetNotFoundError, TensorNotFoundError: a dataset or a tensor does not exist. Nothing was copied.
            StateNotKeptError: the state `at` is not kept. Nothing was copied.
            AlreadyExistsError, StoredDifferentlyError: another tensor has one of the new ids. Nothing was copied.
            InvalidRequestError: the request id belongs to another call.
            DataCorruptError: the row of a tensor or of a dataset is damaged. Nothing was copied.
        """

    @abstractmethod
    def copy_dataset(
        self, name: str, new_name: str, *, at: int | None, tensors_max: int, request_id: str = "", owner: str = ""
    ) -> tuple[Dataset, int]:
        """Create a dataset with the policy, schema, retention and tensors of another one, in one transaction.

        Args:
            at: copy the tensors as they were at this generation; None: as they are.
            tensors_max: largest number of tensors.
            owner: of the new dataset; see `AccessTable`. Empty: it has none.

        Returns:
            The new dataset, and its number of tensors. They are in the order of the originals.

        Raises:
            DatasetNotFoundError: there is no dataset `name`.
            StateNotKeptError: the state `at` is not kept.
            AlreadyExistsError: the new name is taken.
            LimitExceededError: the dataset has more than `tensors_max` tensors.
            InvalidRequestError: the request id belongs to another call.
            DataCorruptError: the row of a tensor or of the dataset is damaged. Nothing was copied.
        """

    @abstractmethod
    def rename_dataset(self, name: str, new_name: str, *, request_id: str = "") -> Dataset:
        """Give a dataset another name, in one transaction. The time does not depend on the number of tensors.

        Its number stays, and with it all that belongs to it: tensors, their numbers and past, and inserts in progress.

        Raises:
            DatasetNotFoundError: there is no dataset `name`.
            AlreadyExistsError: the new name is taken.
            InvalidRequestError: the request id belongs to another call.
            DataCorruptError: its row is damaged.
        """
