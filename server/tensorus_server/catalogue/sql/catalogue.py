"""What catalogues on every database of ours have in common: the tables, and sums over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.sql.access import SqlAccessTable
from tensorus_server.catalogue.sql.copies import SqlCopyTable
from tensorus_server.catalogue.sql.datasets import SqlDatasetTable
from tensorus_server.catalogue.sql.garbage import SqlGarbageTable
from tensorus_server.catalogue.sql.members import SqlMemberTable
from tensorus_server.catalogue.sql.packs import SqlPackTable
from tensorus_server.catalogue.sql.snapshots import SqlSnapshotTable
from tensorus_server.catalogue.sql.tensors import SqlTensorTable
from tensorus_server.catalogue.sql.totals import sizes_of_tensors, totals_of_tables
from tensorus_server.catalogue.sql.transactions import Transactions
from tensorus_server.catalogue.sql.uploads import SqlUploadTable

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import CatalogueTotals, Sizes
    from tensorus_server.catalogue.sql.members import Notifications

__all__ = ["SqlCatalogue", "WritableTransactions"]


class WritableTransactions(Transactions, Protocol):
    """Transactions of a database that may stop taking writes."""

    def check_writable(self) -> None:
        """See `Catalogue`."""


class SqlCatalogue(Catalogue):
    """The part of a catalogue that is the same on every database."""

    def __init__(
        self,
        database: WritableTransactions,
        *,
        delete_grace_s: float,
        upload_expiry_s: float,
        notifications: Notifications | None = None,
        trusts_indexes: bool = False,
    ) -> None:
        """Use `database`, which has the schema.

        Args:
            delete_grace_s: how long a deleted tensor's payload stays: at least as long as the longest Get.
            upload_expiry_s: how long after its last mark an upload can be resumed.
            notifications, trusts_indexes: of the database; see `SqlMemberTable` and `SqlPackTable`.
        """
        self._transactions = database
        self.access = SqlAccessTable(database)
        self.datasets = SqlDatasetTable(database, delete_grace_s=delete_grace_s)
        self.members = SqlMemberTable(database, notifications)
        self.tensors = SqlTensorTable(
            database, self.members, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s
        )
        self.snapshots = SqlSnapshotTable(database, delete_grace_s=delete_grace_s)
        self.uploads = SqlUploadTable(database, self.members, expiry_s=upload_expiry_s)
        self.garbage = SqlGarbageTable(database, delete_grace_s=delete_grace_s)
        self.packs = SqlPackTable(database, self.members, delete_grace_s=delete_grace_s, trusts_indexes=trusts_indexes)
        self.copies = SqlCopyTable(
            database, self.tensors, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s
        )

    def check_writable(self) -> None:
        """See `Catalogue`."""
        self._transactions.check_writable()

    def sizes(self, dataset: str | None = None, *, past: bool = False) -> Sizes:
        """See `Catalogue`."""
        return sizes_of_tensors(self._transactions, dataset, past=past)

    def totals(self) -> CatalogueTotals:
        """See `Catalogue`."""
        return totals_of_tables(self._transactions, self._transactions.file_bytes())
