"""The table of datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import DatasetTable
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.dataset_rows import (
    DATASET_COLUMNS,
    all_datasets,
    dataset_number,
    find_dataset,
    schema_to_json,
)
from tensorus_server.catalogue.sqlite.row_checksum import dataset_checksum, dataset_start
from tensorus_server.catalogue.sqlite.rows import to_json
from tensorus_server.catalogue.sqlite.stats import sum_up
from tensorus_server.errors import AlreadyExistsError, DataCorruptError

if TYPE_CHECKING:
    import apsw

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.catalogue.sqlite.database import Database
    from tensorus_server.model import Dataset, DatasetStats, Schema

__all__ = ["SqliteDatasetTable"]


class SqliteDatasetTable(DatasetTable):
    """See `DatasetTable`."""

    def __init__(self, database: Database, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)

    def create(self, name: str, policy: StoragePolicy, schema: Schema) -> Dataset:
        """See `DatasetTable`."""
        statement = (
            "INSERT INTO dataset (name, policy, schema, created_us) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING RETURNING ds"
        )
        with self._database.write() as connection:
            rows = select(connection, statement, (name, to_json(policy.to_json()), schema_to_json(schema), now_us()))
            if not rows:
                raise AlreadyExistsError("a dataset of this name exists already", dataset=name)
            _sign(connection, rows[0][0])
            return find_dataset(connection, name)

    def get(self, name: str) -> Dataset:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            return find_dataset(connection, name)

    def list(self) -> list[Dataset | DataCorruptError]:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            return [row if isinstance(row, DataCorruptError) else row.dataset for row in all_datasets(connection)]

    def update(self, name: str, policy: StoragePolicy | None, schema: Schema | None) -> Dataset:
        """See `DatasetTable`."""
        with self._database.write() as connection:
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
            _sign(connection, ds)
            return find_dataset(connection, name)

    def delete(self, name: str) -> int:
        """See `DatasetTable`."""
        with self._database.write() as connection:
            ds = dataset_number(connection, name)
            connection.execute(
                "INSERT OR IGNORE INTO tombstone SELECT DISTINCT key, ? FROM tensor WHERE ds = ? AND inline = 0",
                (now_us() + self._delete_grace_us, ds),
            )
            connection.execute("DELETE FROM tensor WHERE ds = ?", (ds,))
            deleted: int = connection.changes()
            connection.execute("DELETE FROM dataset WHERE ds = ?", (ds,))
            return deleted

    def stats(self, name: str) -> DatasetStats:
        """See `DatasetTable`."""
        return sum_up(self._database, name)


def _sign(connection: apsw.Connection, ds: int) -> None:
    """Give the dataset's row, as it is now, its checksum."""
    ((*fixed, last_ordinal, _),) = select(connection, f"SELECT {DATASET_COLUMNS} FROM dataset WHERE ds = ?", (ds,))
    checksum = dataset_checksum(dataset_start(fixed), last_ordinal)
    connection.execute("UPDATE dataset SET row_checksum = ? WHERE ds = ?", (checksum, ds))


def _recount(connection: apsw.Connection, ds: int) -> None:
    """Set the last ordinal of a dataset whose row is damaged to that of its newest tensor."""
    statement = (
        "UPDATE dataset SET last_ordinal = (SELECT coalesce(max(ordinal), 0) FROM tensor WHERE ds = ?1) WHERE ds = ?1"
    )
    connection.execute(statement, (ds,))
