"""The table of datasets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tensorus_server.catalogue.abc import DatasetTable
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.purge import purge
from tensorus_server.catalogue.sqlite.row_page import read_page
from tensorus_server.catalogue.sqlite.rows import dataset_from_row, schema_to_json, to_json
from tensorus_server.errors import AlreadyExistsError, DatasetNotFoundError
from tensorus_server.model import DatasetStats, DTypeShare, EncodingShare

if TYPE_CHECKING:
    from collections.abc import Callable

    import apsw

    from tensorus_codecs.policy import StoragePolicy
    from tensorus_server.catalogue.sqlite.database import Database
    from tensorus_server.model import Dataset, Schema

__all__ = ["SqliteDatasetTable", "find_dataset"]

_COLUMNS = "ds, name, policy, schema, created_us"
_SCHEMA = 3

_LIVE = "deleted_us IS NULL"
"""Of datasets that are there; the others are being deleted, and only `purge` sees them."""

_DELETED = "\n"
"""Begins the names of datasets that are being deleted: no other name has a control character."""

_ENCODINGS_MAX = 1000
"""Of a dataset's statistics: far more than there are, unless a codec's settings differ from tensor to tensor."""

_DTYPE_SUMS = """
SELECT dtype, count(*), sum(nbytes), sum(stored_bytes), sum(quantized_bytes), sum(lossy),
  max(relative_error), max(max_absolute_error)
FROM tensor WHERE ds = ? GROUP BY dtype ORDER BY dtype
"""

# The column is a list of [encoding, chunks, canonical bytes, stored bytes]. Equal encodings are written alike, so
# that they are one group by their text.
_ENCODING_SUMS = """
SELECT share.value ->> 0 AS encoding, sum(share.value ->> 1), sum(share.value ->> 2), sum(share.value ->> 3) AS stored
FROM tensor, json_each(tensor.encodings) AS share WHERE ds = ? GROUP BY encoding ORDER BY stored DESC, encoding LIMIT ?
"""


def find_dataset(connection: apsw.Connection, name: str) -> Dataset:
    """Return the dataset within the connection's transaction.

    Raises:
        DatasetNotFoundError: there is none.
    """
    for row in select(connection, f"SELECT {_COLUMNS} FROM dataset WHERE name = ? AND {_LIVE}", (name,)):
        return dataset_from_row(row)
    raise DatasetNotFoundError("there is no such dataset", dataset=name)


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
            f"ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"
        )
        with self._database.write() as connection:
            rows = select(connection, statement, (name, to_json(policy.to_json()), schema_to_json(schema), now_us()))
            if not rows:
                raise AlreadyExistsError("a dataset of this name exists already", dataset=name)
            return dataset_from_row(rows[0])

    def get(self, name: str) -> Dataset:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            return find_dataset(connection, name)

    def find(self, number: int) -> Dataset | None:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            rows = select(connection, f"SELECT {_COLUMNS} FROM dataset WHERE ds = ? AND {_LIVE}", (number,))
        return dataset_from_row(rows[0]) if rows else None

    def page(self, after: int, size: int) -> tuple[list[Dataset], bool]:
        """See `DatasetTable`."""
        statement = f"SELECT {_COLUMNS} FROM dataset WHERE ds > ? AND {_LIVE} ORDER BY ds LIMIT ?"
        with self._database.read() as connection:
            rows, more = read_page(connection, statement, [after, size + 1], size, lambda row: len(row[_SCHEMA]))
        return [dataset_from_row(row) for row in rows], more

    def update(self, name: str, policy: StoragePolicy | None, schema: Schema | None) -> Dataset:
        """See `DatasetTable`."""
        with self._database.write() as connection:
            dataset = find_dataset(connection, name)
            if policy is not None:
                connection.execute(
                    "UPDATE dataset SET policy = ? WHERE ds = ?", (to_json(policy.to_json()), dataset.number)
                )
            if schema is not None:
                connection.execute(
                    "UPDATE dataset SET schema = ? WHERE ds = ?", (schema_to_json(schema), dataset.number)
                )
            return find_dataset(connection, name)

    def delete(self, name: str) -> int:
        """See `DatasetTable`."""
        with self._database.snapshot() as snapshot:

            def delete(connection: apsw.Connection) -> int:
                ds = find_dataset(connection, name).number
                # The first statement settles what the snapshot shows: the tensors as they are while nobody else can write.
                # Counting them takes longer than others are to wait, and happens when the transaction is over.
                select(snapshot, "SELECT 1 FROM dataset LIMIT 1")
                connection.execute(
                    "UPDATE dataset SET name = ?, deleted_us = ? WHERE ds = ?", (f"{_DELETED}{ds}", now_us(), ds)
                )
                return ds

            ds = self._database.write_on_full_disk(delete)
            ((tensors,),) = select(snapshot, "SELECT count(*) FROM tensor WHERE ds = ?", (ds,))
        return int(tensors)

    def purge(self, pause: Callable[[float], bool]) -> int:
        """See `DatasetTable`."""
        return purge(self._database, pause, delete_grace_us=self._delete_grace_us)

    def stats(self, name: str) -> DatasetStats:
        """See `DatasetTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, name).number
            rows = select(connection, _DTYPE_SUMS, (ds,))
            encodings = select(connection, _ENCODING_SUMS, (ds, _ENCODINGS_MAX))
        return DatasetStats(
            tensors=sum(row[1] for row in rows),
            lossy_tensors=sum(row[5] for row in rows),
            canonical_bytes=sum(row[2] for row in rows),
            quantized_bytes=sum(row[4] for row in rows),
            stored_bytes=sum(row[3] for row in rows),
            worst_relative_error=max((row[6] for row in rows), default=0.0),
            worst_max_absolute_error=max((row[7] for row in rows), default=0.0),
            dtypes=tuple(DTypeShare(*row[:4]) for row in rows),
            encodings=tuple(EncodingShare(tuple(json.loads(encoding)), *amounts) for encoding, *amounts in encodings),
        )
