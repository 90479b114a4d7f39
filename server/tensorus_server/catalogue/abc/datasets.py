"""The table of datasets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.errors import DataCorruptError
    from tensorus_server.model import Dataset, DatasetStats, Schema

__all__ = ["DatasetPage", "DatasetTable"]


@dataclass(frozen=True)
class DatasetPage:
    """One page of a listing of datasets."""

    datasets: list[tuple[int, Dataset | DataCorruptError]]
    """Each with its number."""
    next: int | None
    """The `after` of the next page; None: this is the last page."""


class DatasetTable(ABC):
    """Datasets by name.

    A name is unique among datasets that are not deleted; the database decides races between creators (5). Numbers ascend in the
    order of creation and are never reused (7).
    """

    @abstractmethod
    def create(
        self, name: str, policy: StoragePolicy, schema: Schema, retention_s: int = 0, *, owner: str = ""
    ) -> Dataset:
        """Create a dataset, in one transaction.

        Args:
            retention_s: how long replaced and deleted tensors stay readable, in seconds.
            owner: its owner; see `AccessTable`. Empty: it has none.

        Raises:
            AlreadyExistsError: the name is taken.
        """

    @abstractmethod
    def get(self, name: str) -> Dataset:
        """Return the dataset.

        Raises:
            DatasetNotFoundError: it does not exist.
            DataCorruptError: its row is damaged.
        """

    @abstractmethod
    def find(self, number: int) -> Dataset | None:
        """Return the dataset with this number; None if it does not exist any more, or its row is damaged."""

    @abstractmethod
    def page(self, after: int, size: int) -> DatasetPage:
        """Return datasets in order of creation; for a damaged one, the error in its place.

        The next page begins after the number of the last dataset. So a dataset that exists during the whole listing appears
        exactly once, whatever is created and deleted meanwhile.

        Args:
            after: number of the last dataset of the previous page; 0: start at the first one.
            size: largest number of datasets in the page. It has fewer if their schemas are large.
        """

    @abstractmethod
    def update(
        self, name: str, policy: StoragePolicy | None, schema: Schema | None, retention_s: int | None = None
    ) -> Dataset:
        """Replace the policy, the schema and the retention, unless they are None, in one transaction; tensors do not change.

        A new retention counts for past tensors, too; those that it does not need are pruned later (`SnapshotTable.prune`).

        Giving policy and schema repairs a damaged dataset. Its ordinals then continue after those of the existing tensors, so
        ordinals of deleted tensors may be reused. A commit sees the dataset as it was before the update or after it; a
        commit with `current` fails if it comes after the update.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            DataCorruptError: its row is damaged, and policy or schema is not given.
        """

    @abstractmethod
    def delete(self, name: str, *, drop_snapshots: bool = False) -> int:
        """Delete the dataset with its tensors, past tensors and snapshots, and return how many current tensors it had.

        This is one transaction. Afterwards the name is free, and no method except `purge` sees the dataset or its tensors. A
        commit into the dataset either comes first, and its tensors are counted, or fails. The time does not depend on the
        number of tensors, since `purge` removes their rows. Succeeds on a full disk.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            HasSnapshotsError: it has snapshots, and `drop_snapshots` is not set.
        """

    @abstractmethod
    def purge(self, pause: Callable[[float], bool]) -> int:
        """Remove the tensors of deleted datasets, leave their payloads to the sweep, and return how many were removed.

        Each batch is one transaction, and others can write in between. After a crash, the next call continues. The transaction
        that removes a tensor's row also makes the key of its payload due. If another process is already purging, this returns
        at once. Succeeds on a full disk.

        Args:
            pause: called between two batches with the seconds to wait; returns whether to stop, as `Event.wait` does.
        """

    @abstractmethod
    def stats(self, name: str, at: int | None = None) -> DatasetStats:
        """Return sums over the dataset's tensors. They exclude damaged tensors, which are named.

        Tensors that are inserted or deleted meanwhile may or may not be included: reading all rows in one transaction would
        take too long. Encodings with equal JSON are counted as one. They are sorted by stored bytes, then by JSON.

        Args:
            at: the generation of the state to sum up, which does not change meanwhile; None: the current one.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
            StateNotKeptError: the state is not kept.
        """
