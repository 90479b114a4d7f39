"""Reads rows of the dataset table. Each row has a checksum over all its columns, which every read verifies.

The row of a deleted dataset stays until its tensors are deleted. Only `deleted_dataset` returns it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from tensorus_codecs.policy import StoragePolicy
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, dataset_checksum, dataset_start, require_no_blobs
from tensorus_server.catalogue.sql.row_page import read_page
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError, DatasetNotFoundError
from tensorus_server.model import Dataset, Schema

if TYPE_CHECKING:
    from tensorus_server.catalogue.sql.connection import Connection
__all__ = [
    "DATASET_COLUMNS",
    "RETENTION_UNIT_US",
    "DatasetRow",
    "all_datasets",
    "dataset_number",
    "datasets_where",
    "deleted_dataset",
    "find_dataset",
    "page_of_datasets",
    "schema_to_json",
]

DATASET_COLUMNS = "ds, name, policy, schema, created_us, deleted_us, retention_us, last_ordinal, row_checksum"

RETENTION_UNIT_US = 1_000_000
"""Retentions are whole seconds; the table has microseconds, as all times."""

_SCHEMA = DATASET_COLUMNS.split(", ").index("schema")


_PAGE = 1000


@dataclass(frozen=True)
class DatasetRow:
    """An intact row."""

    dataset: Dataset
    last_ordinal: int
    """The ordinal of the newest tensor that was ever committed to the dataset."""
    is_deleted: bool
    """Whether the dataset was deleted, and its tensors are being deleted in the background."""
    start: int
    """The checksum of all columns except the last ordinal, the only one that changes with every commit."""

    def checksum(self, last_ordinal: int) -> int:
        """Return the row's checksum with another last ordinal."""
        return dataset_checksum(self.start, last_ordinal)


def find_dataset(connection: Connection, name: str) -> Dataset:
    """Return the dataset within the connection's transaction.

    Raises:
        DatasetNotFoundError: it does not exist.
        DataCorruptError: its row is damaged.
    """
    for row in datasets_where(connection, "name = ?", name, named=name):
        if isinstance(row, DataCorruptError):
            raise row
        return row.dataset
    raise DatasetNotFoundError("there is no such dataset", dataset=name)


def dataset_number(connection: Connection, name: str) -> int:
    """Return the number of a dataset, even if its row is damaged elsewhere: its tensors have their own checksums.

    Raises:
        DatasetNotFoundError: it does not exist.
        DataCorruptError: its number cannot be determined reliably.
    """
    try:
        return find_dataset(connection, name).number
    except DataCorruptError as damage:
        # The index of names led to a damaged row. Search the table itself: exactly one row must have the name.
        try:
            rows = select(connection, "SELECT ds FROM dataset NOT INDEXED WHERE name = ?", (name,))
            if len(rows) != 1 or not _is_own_number(connection, rows[0][0]):
                raise
        except connection.unreadable:
            raise damage from None
        return int(rows[0][0])


def _is_own_number(connection: Connection, ds: int) -> bool:
    """Return whether the number in a damaged row is that of its dataset: it may itself be what is damaged.

    Then it is another dataset's, or the tensors of the real number belong to no dataset.
    """
    numbers = [number for (number,) in select(connection, "SELECT ds FROM dataset NOT INDEXED")]
    if numbers.count(ds) != 1:
        return False
    known = set(numbers)
    return all(_numbers_of_tensors(connection, table) <= known for table in ("tensor", "past_tensor"))


def _numbers_of_tensors(connection: Connection, table: str) -> set[int]:
    """Return the numbers of all datasets that have tensors; takes one look into an index for each."""
    found: set[int] = set()
    after = -1
    while True:
        ((following,),) = select(connection, f"SELECT min(ds) FROM {table} WHERE ds > ?", (after,))
        if following is None:
            return found
        found.add(following)
        after = following


def all_datasets(connection: Connection) -> list[DatasetRow | DataCorruptError]:
    """Return all datasets in order of creation; for a damaged one, the error in its place."""
    datasets, after = [], 0
    while True:
        page, following = page_of_datasets(connection, after, _PAGE)
        datasets += [row for _, row in page]
        if following is None:
            return datasets
        after = following


def page_of_datasets(
    connection: Connection, after: int, size: int
) -> tuple[list[tuple[int, DatasetRow | DataCorruptError]], int | None]:
    """Return a page of datasets in order of creation, each with its number, and the `after` of the next page, or None.

    Args:
        after: number of the last dataset of the previous page.
        size: largest number of datasets in the page.
    """
    statement = f"SELECT {DATASET_COLUMNS} FROM dataset WHERE ds > ? ORDER BY ds LIMIT ?"
    try:
        rows, more = read_page(connection, statement, [after, size + 1], size, _row_bytes)
        found = [(row[0], _from_row(row, str(row[1]))) for row in rows]
    except connection.unreadable:
        numbers = _numbers(connection, after, size + 1)
        more = len(numbers) > size
        found = [(ds, row) for ds in numbers[:size] for row in _rows_where(connection, "ds = ?", ds, f"number {ds}")]
    following = found[-1][0] if more and found else None
    return [(ds, row) for ds, row in found if isinstance(row, DataCorruptError) or not row.is_deleted], following


def datasets_where(
    connection: Connection, condition: str, value: str | int, *, named: str
) -> list[DatasetRow | DataCorruptError]:
    """Return the dataset that meets a condition on one value, or its error if it is damaged; empty if none does.

    Args:
        named: the name for a damaged dataset in the error.
    """
    rows = _rows_where(connection, condition, value, named)
    return [row for row in rows if isinstance(row, DataCorruptError) or not row.is_deleted]


def deleted_dataset(connection: Connection) -> int | None:
    """Return the number of the dataset that was deleted first and still has its row; None if there is none.

    Raises:
        DataCorruptError: all rows that are marked as deleted are damaged, so nothing of them may be deleted.
    """
    damage = None
    for (ds,) in select(connection, "SELECT ds FROM dataset WHERE deleted_us IS NOT NULL ORDER BY deleted_us"):
        for row in _rows_where(connection, "ds = ?", ds, f"number {ds}"):
            if isinstance(row, DataCorruptError):
                damage = damage or row
            elif row.is_deleted:
                return int(ds)
    if damage is not None:
        raise damage
    return None


def _rows_where(
    connection: Connection, condition: str, value: str | int, named: str
) -> list[DatasetRow | DataCorruptError]:
    try:
        rows = select(connection, f"SELECT {DATASET_COLUMNS} FROM dataset WHERE {condition}", (value,))
    except connection.unreadable as error:
        return [_damage(named, f"its row cannot be read: {type(error).__name__}")]
    return [_from_row(row, named) for row in rows]


def _row_bytes(row: tuple[Any, ...]) -> int:
    return len(row[_SCHEMA]) if isinstance(row[_SCHEMA], str) else 0


def schema_to_json(schema: Schema) -> str:
    """Return the schema's set fields as JSON."""
    fields = {"dtype": schema.dtype, "shape": schema.shape, "metadata": dict(schema.metadata) or None}
    return to_json({name: value for name, value in fields.items() if value is not None})


def _numbers(connection: Connection, after: int, size: int) -> list[int]:
    try:
        statement = "SELECT ds FROM dataset WHERE ds > ? ORDER BY ds LIMIT ?"
        return [ds for (ds,) in select(connection, statement, (after, size))]
    except connection.unreadable as error:
        raise DataCorruptError(f"the table of datasets cannot be read: {error}") from error


def _from_row(row: tuple[Any, ...], name: str) -> DatasetRow | DataCorruptError:
    *fixed, last_ordinal, checksum = row
    try:
        require_no_blobs((checksum,))
        alike = _fixed_columns(*fixed)
        found = dataset_checksum(alike.start, last_ordinal)
    except MALFORMED as error:
        return _damage(name, f"a value of the row cannot be read: {type(error).__name__}")
    if found != checksum:
        return _damage(name, f"the row's checksum is {found:#010x}, expected {checksum:#010x}")
    return DatasetRow(alike.dataset, last_ordinal, alike.is_deleted, alike.start)


@dataclass(frozen=True)
class _Fixed:
    """The columns of a row that a commit of tensors does not change; decoded on demand, after the row was verified."""

    columns: tuple[Any, ...]
    start: int
    """See `DatasetRow.start`."""
    is_deleted: bool

    @cached_property
    def dataset(self) -> Dataset:
        ds, name, policy, schema, created_us, _, retention_us = self.columns
        fields = json.loads(schema)
        shape = fields.get("shape")
        return Dataset(
            number=ds,
            name=name,
            policy=StoragePolicy.from_json(json.loads(policy)),
            schema=Schema(fields.get("dtype"), None if shape is None else tuple(shape), fields.get("metadata", {})),
            created_us=created_us,
            retention_s=retention_us // RETENTION_UNIT_US,
        )


# typed=True: a value of another type is damage, even if it compares equal, such as 1.0 for 1.
@lru_cache(maxsize=256, typed=True)
def _fixed_columns(*columns: Any) -> _Fixed:  # `Any`: a damaged row may hold anything
    *fixed, retention_us = columns
    require_no_blobs(fixed)
    return _Fixed(columns, dataset_start(fixed, retention_us), fixed[-1] is not None)


def _damage(dataset: str, what: str) -> DataCorruptError:
    return DataCorruptError(f"the catalogue is damaged at a dataset: {what}", dataset=dataset)
