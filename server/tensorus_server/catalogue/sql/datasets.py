"""The table of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import DatasetPage, DatasetTable
from tensorus_server.catalogue.sql.access import set_owner
from tensorus_server.catalogue.sql.dataset_rows import (
    DATASET_COLUMNS,
    RETENTION_UNIT_US,
    dataset_number,
    datasets_where,
    find_dataset,
    page_of_datasets,
    schema_to_json,
)
from tensorus_server.catalogue.sql.purge import purge
from tensorus_server.catalogue.sql.row_checksum import dataset_checksum, dataset_start
from tensorus_server.catalogue.sql.snapshot_rows import drop_all_snapshots, need_pruning
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.catalogue.sql.stats import sum_up
from tensorus_server.errors import AlreadyExistsError, DataCorruptError, HasSnapshotsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions
    from tensorus_server.model import Dataset, DatasetStats, Schema

__all__ = ["SqlDatasetTable", "create_dataset", "rename_dataset"]

_DELETED = "\n"
"""Prefix of the names of datasets that are being deleted. No other name has a control character."""


class SqlDatasetTable(DatasetTable):
    """See `DatasetTable`."""

    def __init__(self, database: Transactions, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)

    def create(
        self, name: str, policy: StoragePolicy, schema: Schema, retention_s: int = 0, *, owner: str = ""
    ) -> Dataset:
        """See `DatasetTable`."""
        with self._database.write() as connection:
            created = create_dataset(connection, name, policy, schema, retention_s)
            if owner:
                set_owner(connection, created.number, owner)
            return created

    def get(self, name: str) -> Dataset:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            return find_dataset(connection, name)

    def find(self, number: int) -> Dataset | None:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            for row in datasets_where(connection, "ds = ?", number, named=f"number {number}"):
                return None if isinstance(row, DataCorruptError) else row.dataset
        return None

    def page(self, after: int, size: int) -> DatasetPage:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            rows, following = page_of_datasets(connection, after, size)
        datasets = [(ds, row if isinstance(row, DataCorruptError) else row.dataset) for ds, row in rows]
        return DatasetPage(datasets, following)

    def update(
        self, name: str, policy: StoragePolicy | None, schema: Schema | None, retention_s: int | None = None
    ) -> Dataset:
        """See `DatasetTable`."""

        def update(connection: Connection) -> Dataset:
            try:
                ds = find_dataset(connection, name).number
            except DataCorruptError:
                if policy is None or schema is None:
                    raise
                ds = dataset_number(connection, name)
                _recount(connection, ds)
            if policy is not None:
                connection.execute("UPDATE dataset SET policy = ? WHERE ds = ?", (to_json(policy.to_json()), ds))
            if schema is not None:
                connection.execute("UPDATE dataset SET schema = ? WHERE ds = ?", (schema_to_json(schema), ds))
            if retention_s is not None:
                retention_us = retention_s * RETENTION_UNIT_US
                connection.execute("UPDATE dataset SET retention_us = ? WHERE ds = ?", (retention_us, ds))
                need_pruning(connection, ds)
            _sign(connection, ds)
            return find_dataset(connection, name)

        if retention_s is not None:
            # A shorter retention frees space.
            return self._database.write_on_full_disk(update)
        with self._database.write() as connection:
            return update(connection)

    def delete(self, name: str, *, drop_snapshots: bool = False) -> int:
        """See `DatasetTable`."""
        with self._database.snapshot() as snapshot:

            def delete(connection: Connection) -> int:
                ds = dataset_number(connection, name)
                # The first statement fixes the snapshot's state: the tensors as they are during this transaction. They are
                # counted after it, because that would make other writers wait too long.
                select(snapshot, "SELECT 1 FROM dataset LIMIT 1")
                # Without them, the purge keeps no tensors.
                snapshots = drop_all_snapshots(connection, ds)
                if snapshots and not drop_snapshots:
                    raise HasSnapshotsError(
                        f"the dataset has {snapshots} snapshots; drop them, or delete it with drop_snapshots",
                        dataset=name,
                        snapshots=snapshots,
                    )
                _replace_unreadable(connection, ds)
                connection.execute(
                    "UPDATE dataset SET name = ?, deleted_us = ? WHERE ds = ?",
                    (f"{_DELETED}{ds}", now_us(connection), ds),
                )
                _sign(connection, ds)
                return ds

            ds = self._database.write_on_full_disk(delete)
            ((tensors,),) = select(snapshot, "SELECT count(*) FROM tensor WHERE ds = ?", (ds,))
        return int(tensors)

    def purge(self, pause: Callable[[float], bool]) -> int:
        """See `DatasetTable`."""
        return purge(self._database, pause, delete_grace_us=self._delete_grace_us)

    def stats(self, name: str, at: int | None = None) -> DatasetStats:
        """See `DatasetTable`."""
        return sum_up(self._database, name, at)


def create_dataset(
    connection: Connection, name: str, policy: StoragePolicy, schema: Schema, retention_s: int
) -> Dataset:
    """Create a dataset, within a transaction.

    Raises:
        AlreadyExistsError: the name is taken.
    """
    statement = (
        "INSERT INTO dataset (name, policy, schema, created_us, retention_us) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING RETURNING ds"
    )
    retention_us = retention_s * RETENTION_UNIT_US
    columns = (name, to_json(policy.to_json()), schema_to_json(schema), now_us(connection), retention_us)
    rows = select(connection, statement, columns)
    if not rows:
        raise _name_taken(name)
    _sign(connection, rows[0][0])
    return find_dataset(connection, name)


def rename_dataset(connection: Connection, name: str, new_name: str) -> Dataset:
    """Give a dataset another name, within a transaction; see `CopyTable.rename_dataset`."""
    ds = find_dataset(connection, name).number
    statement = (
        "UPDATE dataset SET name = ?1 WHERE ds = ?2 AND NOT EXISTS (SELECT 1 FROM dataset WHERE name = ?1) RETURNING ds"
    )
    if not select(connection, statement, (new_name, ds)):
        raise _name_taken(new_name)
    _sign(connection, ds)
    return find_dataset(connection, new_name)


def _name_taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError("a dataset of this name exists already", dataset=name)


def _sign(connection: Connection, ds: int) -> None:
    """Set the checksum of a dataset's row to that of its current columns."""
    ((*fixed, retention_us, last_ordinal, _),) = select(
        connection, f"SELECT {DATASET_COLUMNS} FROM dataset WHERE ds = ?", (ds,)
    )
    checksum = dataset_checksum(dataset_start(fixed, retention_us), last_ordinal)
    connection.execute("UPDATE dataset SET row_checksum = ? WHERE ds = ?", (checksum, ds))


def _replace_unreadable(connection: Connection, ds: int) -> None:
    """Replace unreadable values of a damaged row, so that it can be signed; its dataset is deleted and does not need them."""
    if any(isinstance(row, DataCorruptError) for row in datasets_where(connection, "ds = ?", ds, named="")):
        connection.execute("UPDATE dataset SET policy = '{}', schema = '{}' WHERE ds = ?", (ds,))


def _recount(connection: Connection, ds: int) -> None:
    """Set the last ordinal in a damaged row of a dataset to that of its newest tensor."""
    statement = (
        "UPDATE dataset SET last_ordinal = (SELECT coalesce(max(ordinal), 0) FROM ("
        "SELECT max(ordinal) AS ordinal FROM tensor WHERE ds = ?1 "
        "UNION ALL SELECT max(ordinal) FROM past_tensor WHERE ds = ?1) AS newest) WHERE ds = ?1"
    )
    connection.execute(statement, (ds,))
