"""The interface of a catalogue: nine tables, one module for each, and the promises that every database must keep.

The methods' descriptions refer to these promises by number. The contract suite (`tests/contract`) names the tests of each:

    1. Durability. Once a method returns, its effect survives a crash of the process and of the machine.
    2. Atomicity. A method takes effect completely or not at all; after a crash or an error, the previous state remains. Four
       methods delete or commit in batches, as they say: `TensorTable.delete`, `DatasetTable.purge`, `SnapshotTable.prune`, and
       `TensorTable.commit` if a page is damaged.
    3. Visibility. Once a method returns, every call that begins later sees its effect, in any thread and process.
    4. Isolation. A method that reads sees a single state: all of a commit, or nothing of it. Two calls may see different
       states. Only `DatasetTable.stats` sees several states in one call.
    5. Uniqueness. A UNIQUE constraint on (dataset, id), and one on the names of datasets, decide all races. If several commits
       have the same id, one of them inserts it, and `resolve_conflict` decides the outcome of the others.
    6. Commit order. A tensor that becomes visible has a larger generation than all tensors that were visible before. So once
       `latest_generation` has returned g, no other tensor with a generation up to g appears. Listings, samples and their
       tokens rely on this. SQLite has a single writer, so it keeps this promise. A PostgreSQL sequence would not, because it
       assigns numbers before the commit; writers there hold one advisory lock until after the commit.
    7. Numbers. Generations, dataset numbers, and the ordinals of a dataset are never reused, whatever is deleted. Ordinals
       count from 1 in commit order, without gaps.
    8. Paging. The pages of one listing contain no tensor twice, and every tensor that exists from its start to its end,
       whatever is committed and deleted between pages.
    9. Idempotence. A call that is repeated because its answer was lost has no further effect. A repeated commit returns the
       existing tensor; a repeated deletion deletes what is left.
    10. Threads. All methods are thread-safe. Writers take turns.
    11. Clocks. All times come from one clock: SQLite's is that of its host, and a database server has its own. Times determine
        no order and need not be unique. They only measure grace periods and expiry, which are longer if the clock is set back
        and shorter if it is set forward.
    12. Data. Names, ids, keys and values are data: they never become part of a statement or a path. They are compared and
        sorted by code point, and are not normalized.

Two more promises can be tested only with faults below the catalogue, so each implementation has tests of its own
(`tests/server/catalogue`):

    Unknown outcomes. If it is unknown whether a commit took effect, the method raises `StoreUnavailableError`, and a catalogue
    on this machine takes no more writes until a restart. One on a server finds the outcome when the server is back; if it stays
    away, the method raises the error, and later calls are not affected. If a method raises `StoreBusyError` or
    `StorageFullError`, nothing changed.

    Damage. A method never returns anything but what was written. A damaged row becomes a `DataCorruptError` in its place, and
    does not affect other rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from tensorus_server.catalogue.abc.access import AccessTable
from tensorus_server.catalogue.abc.copies import CopyTable, TensorCopies
from tensorus_server.catalogue.abc.datasets import DatasetPage, DatasetTable
from tensorus_server.catalogue.abc.garbage import GarbageTable
from tensorus_server.catalogue.abc.members import (
    SESSION,
    LeaseLostError,
    MemberTable,
    NotBegunError,
    Reaped,
    WriterLostError,
)
from tensorus_server.catalogue.abc.packs import PackContent, PackedPayload, PackTable, PackTotals, packed_key
from tensorus_server.catalogue.abc.pages import (
    ORDER_FIELDS,
    DamagedTensor,
    Order,
    Page,
    PageRequest,
    place_of,
    require_intact,
)
from tensorus_server.catalogue.abc.snapshots import SnapshotPage, SnapshotTable
from tensorus_server.catalogue.abc.tensors import EqualTensor, NotSharedError, StoredTensor, TensorTable
from tensorus_server.catalogue.abc.totals import CatalogueTotals, SharedSizes, Sizes
from tensorus_server.catalogue.abc.uploads import Mark, Upload, UploadTable

if TYPE_CHECKING:
    from tensorus_server.meters import Connections

__all__ = [
    "ORDER_FIELDS",
    "SESSION",
    "AccessTable",
    "Catalogue",
    "CatalogueTotals",
    "CopyTable",
    "DamagedTensor",
    "DatasetPage",
    "DatasetTable",
    "EqualTensor",
    "GarbageTable",
    "LeaseLostError",
    "Mark",
    "MemberTable",
    "NotBegunError",
    "NotSharedError",
    "Order",
    "PackContent",
    "PackTable",
    "PackTotals",
    "PackedPayload",
    "Page",
    "PageRequest",
    "Reaped",
    "SharedSizes",
    "Sizes",
    "SnapshotPage",
    "SnapshotTable",
    "StoredTensor",
    "TensorCopies",
    "TensorTable",
    "Upload",
    "UploadTable",
    "WriterLostError",
    "packed_key",
    "place_of",
    "require_intact",
]


class Catalogue(ABC):
    """The tables, which are in one database."""

    datasets: DatasetTable
    tensors: TensorTable
    snapshots: SnapshotTable
    uploads: UploadTable
    garbage: GarbageTable
    copies: CopyTable
    members: MemberTable
    """A store in a local folder does not use it: there, kernel locks tell who is alive."""
    packs: PackTable
    access: AccessTable
    """Tokens, grants, quotas, and the owners of datasets."""

    read_only: ClassVar[bool] = False
    """Whether every method that writes raises `ReadOnlyError`."""

    @abstractmethod
    def check_writable(self) -> None:
        """Check that the catalogue takes writes.

        Raises:
            StoreUnavailableError: an earlier write failed with an unknown outcome, or the files were removed.
        """

    @abstractmethod
    def check_present(self) -> None:
        """Check that the catalogue's files still exist and that it takes writes.

        Raises:
            StoreUnavailableError: the files were removed, or the catalogue takes no writes for another reason.
        """

    @abstractmethod
    def sizes(self, dataset: str | None = None, *, past: bool = False) -> Sizes:
        """Return sums over the tensors of a dataset; None: of all datasets.

        Args:
            past: whether to add up past tensors, which are still kept, instead of current ones.

        Reads in several transactions: tensors that come and go meanwhile may be in the sums or not. Damaged rows are in them.

        Raises:
            DatasetNotFoundError: the dataset does not exist.
        """

    @abstractmethod
    def totals(self) -> CatalogueTotals:
        """Return sums over all tables. See `sizes`."""

    def connections(self) -> Connections | None:
        """Return the connections to the database, now; None: it is no server."""
        return None

    @abstractmethod
    def maintain(self, *, idle: bool) -> None:
        """Do maintenance if it is due; called between commits and when idle.

        Raises:
            StoreUnavailableError: it failed, and only a restart can determine what is durable. No more writes are possible.
        """

    @abstractmethod
    def close(self, timeout_s: float = 30.0) -> None:
        """Close the catalogue. Idempotent.

        Args:
            timeout_s: how long to wait for reads and writes in progress.

        Raises:
            StoreBusyError: they did not end in time.
        """
