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
    """Some datasets of a listing."""

    datasets: list[tuple[int, Dataset | DataCorruptError]]
    """Each with its number."""
    next: int | None
    """For `after`; None: this was the last page."""


class DatasetTable(ABC):
    """Datasets by name.

    The name is unique among datasets that are not deleted: the database decides races between two that create one (5). A
    dataset's number is given out once (7), and in order of creation.
    """

    @abstractmethod
    def create(self, name: str, policy: StoragePolicy, schema: Schema) -> Dataset:
        """Create a dataset, in one transaction.

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

        The number of the last one is the place where the next page begins, so a dataset that was there at the start and still
        is comes once, whatever is created and deleted meanwhile.

        Args:
            after: number of the last dataset of the page before; 0: from the start.
            size: datasets of the page, at most; there are fewer where their schemas are large.
        """

    @abstractmethod
    def update(self, name: str, policy: StoragePolicy | None, schema: Schema | None) -> Dataset:
        """Replace what is given, in one transaction; stored tensors stay as they are. Both together mend a damaged dataset.

        A commit sees the dataset before the update or after it. One with `current` is refused where it comes after. Mending
        counts ordinals from the tensors that are there, so those of deleted ones may be given out again.

        Raises:
            DatasetNotFoundError: there is none.
            DataCorruptError: its row is damaged, and only one of the two is given.
        """

    @abstractmethod
    def delete(self, name: str) -> int:
        """Delete the dataset with its tensors, and return how many there were.

        One transaction: from then on no method but `purge` sees them, and the name is free. A commit into the dataset comes
        before and is counted, or comes after and is refused. Takes a bounded time however many there are: `purge` does the
        rest. Succeeds on a full disk.

        Raises:
            DatasetNotFoundError: there is none.
        """

    @abstractmethod
    def purge(self, pause: Callable[[float], bool]) -> int:
        """Remove the tensors of deleted datasets, leave their payloads to the sweep, and return how many there were.

        Works in batches, each of them a transaction, between which others can write; a crash in the middle leaves the rest to
        the next call. A payload's key becomes due in the transaction that removes its row. Where another process is at it
        already, it returns at once. Succeeds on a full disk.

        Args:
            pause: called between two batches with the seconds to wait; returns whether to stop. An event's `wait` will do.
        """

    @abstractmethod
    def stats(self, name: str) -> DatasetStats:
        """Return sums over the dataset's tensors, without those that are damaged, which it names.

        Tensors that come and go meanwhile may be in the sums or not: reading them all in one transaction would take too long.
        Encodings are one where their JSON is equal. Those of the same stored bytes are in the order of their JSON.

        Raises:
            DatasetNotFoundError: there is none.
        """
