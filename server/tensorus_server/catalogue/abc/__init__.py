"""What the engine asks of a catalogue: four tables, in a module each, and what every database under them must promise.

Descriptions refer to these promises by number, and the contract suite names the tests of each (`tests/contract`):

    1. Durability. What a method reports as done survives a crash of the process, and of the machine under it.
    2. Atomicity. A method does all that it says or nothing: a crash in the middle, or an error, leaves the state before. Three
       delete or commit in batches, and say so: `TensorTable.delete`, `DatasetTable.purge`, and `TensorTable.commit` on damage.
    3. Visibility. What a method reports as done is seen by every call that begins later, in any thread and process.
    4. Isolation. A method that reads sees one state, as one commit left it: all of a commit, or nothing. Two calls may see two
       states. `DatasetTable.stats` alone sees several in one call, and says so.
    5. Uniqueness. A UNIQUE constraint on (dataset, id) decides every race, and so does one on a dataset's name. Of several who
       commit one id, one inserts it, and `resolve` tells the others what they get.
    6. Commit order. A tensor that becomes visible has a larger generation than every one that was visible before. So once
       `latest_generation` has returned g, none with a generation up to g appears any more. Listings, samples and their tokens
       rely on it. SQLite has one writer, which is enough. A sequence of PostgreSQL is not: it gives numbers out before the
       commit. There, hold one advisory lock from giving out generations to the end of the commit.
    7. Numbers. A generation, a dataset's number and an ordinal of a dataset are given out once, whatever is deleted. Ordinals
       count from 1, in commit order, without gaps.
    8. Paging. Over the pages of one listing no tensor comes twice, and none is missed that was there at the start and still is,
       whatever is committed and deleted between the pages.
    9. Idempotence. A call that is repeated after its answer was lost changes nothing more. A repeated commit returns the tensor
       that is there; a repeated deletion returns what is left to delete.
    10. Threads. Every method is safe in many threads at once. Writers take turns.
    11. Clocks. Times come from one clock, the catalogue's: SQLite has that of its host, a database server its own. Nothing is
        ordered by time, and nothing is unique by it. Grace and expiry are measured by it: setting it back lengthens them, and
        setting it forward shortens them.
    12. Data. Names, ids, keys and values are data: never part of a statement or of a path. They are compared and sorted by code
        point, and none is normalized.

Two promises need faults below the catalogue, so each catalogue tests them itself (`tests/server/catalogue`):

    Unknown outcomes. Where nobody can tell whether a commit took place, the method raises `StoreUnavailableError`, and there
    are no more writes until a restart finds out. Where one raises `StoreBusyError` or `StorageFullError`, nothing was changed.

    Damage. What is read is what was written. A damaged row is a `DataCorruptError` in its own place, and hides no other row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from tensorus_server.catalogue.abc.datasets import DatasetPage, DatasetTable
from tensorus_server.catalogue.abc.garbage import GarbageTable
from tensorus_server.catalogue.abc.pages import (
    ORDER_FIELDS,
    DamagedTensor,
    Order,
    Page,
    PageRequest,
    place_of,
    require_intact,
)
from tensorus_server.catalogue.abc.tensors import StoredTensor, TensorTable
from tensorus_server.catalogue.abc.totals import CatalogueTotals, Sizes
from tensorus_server.catalogue.abc.uploads import Mark, Upload, UploadTable

__all__ = [
    "ORDER_FIELDS",
    "Catalogue",
    "CatalogueTotals",
    "DamagedTensor",
    "DatasetPage",
    "DatasetTable",
    "GarbageTable",
    "Mark",
    "Order",
    "Page",
    "PageRequest",
    "Sizes",
    "StoredTensor",
    "TensorTable",
    "Upload",
    "UploadTable",
    "place_of",
    "require_intact",
]


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
    def sizes(self, dataset: str | None = None) -> Sizes:
        """Return sums over the tensors of a dataset; None: of all datasets.

        Reads in several transactions: tensors that come and go meanwhile may be in the sums or not. Damaged rows are in them.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """

    @abstractmethod
    def totals(self) -> CatalogueTotals:
        """Return sums over all tables. See `sizes`."""

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
