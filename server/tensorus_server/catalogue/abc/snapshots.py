"""The table of snapshots, and which earlier states of a dataset are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import At, Snapshot

__all__ = ["SnapshotPage", "SnapshotTable"]


@dataclass(frozen=True)
class SnapshotPage:
    """One page of a listing of snapshots."""

    snapshots: list[tuple[int, Snapshot | DataCorruptError]]
    """Each with its generation."""
    next: int | None
    """The `after` of the next page; None: this is the last page."""


class SnapshotTable(ABC):
    """Snapshots by dataset and name, and the past tensors that they and the retention of datasets need.

    The transaction that replaces or deletes a tensor keeps its row if a snapshot or the retention needs it, so that it stays
    readable. While a row is kept, none of its payloads is garbage.

    A state at generation g has the tensors with generations up to g that were not replaced or deleted up to g. Each
    replacement, deletion and snapshot has a generation. All states are kept since the last tensor was lost that nothing needed;
    earlier ones are kept where a snapshot is.
    """

    @abstractmethod
    def create(self, dataset: str, name: str) -> Snapshot:
        """Name the current state of a dataset, in one transaction. Its generation is larger than all others before (6, 7).

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            AlreadyExistsError: the dataset has a snapshot with this name.
        """

    @abstractmethod
    def find(self, dataset: str, name: str) -> Snapshot:
        """Return a snapshot.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: the dataset has no snapshot with this name.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def page(self, dataset: str, after: int, size: int) -> SnapshotPage:
        """Return snapshots of a dataset in order of generation; for a damaged one, the error in its place.

        A snapshot that exists during the whole listing appears exactly once.

        Args:
            after: generation of the last snapshot of the previous page; 0: start at the first one.
            size: largest number of snapshots in the page.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """

    @abstractmethod
    def drop(self, dataset: str, name: str) -> None:
        """Delete a snapshot, damaged or not; `prune` deletes what only it needed. Succeeds on a full disk.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: the dataset has no snapshot with this name.
        """

    @abstractmethod
    def resolve(self, dataset: str, at: At) -> int:
        """Return the generation of a state.

        A time is resolved to the largest generation of a change of the dataset that is not later, by the catalogue's clock
        (11), which may know milliseconds only. Times of which the changes are not known completely are not kept, either.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            SnapshotNotFoundError: it has no such snapshot.
            DataCorruptError: the snapshot's row is damaged.
            StateNotKeptError: the state is not kept, or not reached yet.
        """

    @abstractmethod
    def prune(self, pause: Callable[[float], bool], *, wait_s: float = 0.0) -> int:
        """Delete past tensors that no snapshot and no retention needs, leave their payloads to the sweep; return their number.

        Each batch is one short transaction, and others can write in between. After a crash, the next call continues. The
        transaction that deletes a row also makes the keys of its payloads due, unless other rows need them. Succeeds on a full
        disk. Nothing is deleted from a dataset with a damaged snapshot.

        Args:
            pause: called between two batches with the seconds to wait; returns whether to stop, as `Event.wait` does.
            wait_s: how long to wait for another process that is pruning; afterwards, return at once.
        """
