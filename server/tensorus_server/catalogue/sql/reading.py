"""Reads tensors from their rows. A damaged row becomes an error in its place, and the other rows are read as usual.

Damage shows in two ways. If a row's checksum is wrong, the statement still returns all rows. If a page is damaged, or a text is
not UTF-8, SQLite or apsw aborts the whole statement; its rows are then read one by one, by generation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tensorus_protos.rules import to_json
from tensorus_server.catalogue.abc import DamagedTensor, Page, PageRequest, place_of
from tensorus_server.catalogue.sql.filter_sql import compile_condition, compile_filter
from tensorus_server.catalogue.sql.row_page import read_page
from tensorus_server.catalogue.sql.row_tables import LIVE
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, RowDamageError, tensor_from_row
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError
from tensorus_server.limits import PAGE_READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.row_tables import RowTables
    from tensorus_server.model import Tensor

__all__ = [
    "Batch",
    "find_tensors",
    "page_from",
    "page_of_tensors",
    "rows_by_generation",
    "sort_key",
    "source_crc32c",
    "taken_ids",
]

_SORT_COLUMNS = {"created": "seq", "id": "id", "nbytes": "nbytes", "stored_bytes": "stored_bytes"}

_SEQ, _ID, _METADATA = (TENSOR_COLUMNS.index(name) for name in ("seq", "id", "metadata"))

_BATCH = 2000
"""Rows of a `Batch`: reading them takes 20 ms, during which the log cannot be reset."""

_ONE_BY_ONE = 256
"""Generations that one statement looks up when rows are read one by one."""


def find_tensors(
    connection: Connection,
    column: str,
    dataset: tuple[int, str],
    values: Sequence[str | int],
    *,
    with_payloads: bool = False,
    tables: RowTables = LIVE,
) -> list[Tensor | DataCorruptError | None]:
    """Return the tensors of a dataset (number, name) with these values in `column`, "id" or "seq", in the values' order.

    A single statement reads all of them, because each statement releases the GIL and has to reacquire it.

    Args:
        tables: if they are of past tensors, an id counts only where its row is visible.

    Raises:
        `connection.unreadable`: a page is damaged, and the transaction can only be rolled back.
    """
    ds, name = dataset
    parameters: list[str | int] = [to_json(list(values)), ds, *tables.lookup_bounds]
    try:
        rows = select(connection, tables.lookups[column, with_payloads], parameters)
    except connection.unreadable as error:
        _require_going_on(connection, error)
        if len(values) == 1:
            return [_unreadable(connection, dataset, error, tables, **{column: values[0]})]
        return [
            found
            for value in values
            for found in find_tensors(connection, column, dataset, [value], with_payloads=with_payloads, tables=tables)
        ]
    found: list[Tensor | DataCorruptError | None] = [None] * len(values)
    for row in rows:
        found[row[0]] = _tensor(connection, row[1:], ds, name, tables)
    return found


def taken_ids(connection: Connection, group: Sequence[StoredTensor]) -> set[tuple[int, str]]:
    """Return which of the group's datasets and ids are taken already."""
    ids: dict[int, list[str]] = {}
    for stored in group:
        ids.setdefault(stored.dataset.number, []).append(stored.new.id)
    # CROSS JOIN makes SQLite look up each id, however many tensors exist.
    statement = "SELECT t.id FROM json_each(?) wanted CROSS JOIN tensor t ON t.ds = ? AND t.id = wanted.value"
    return {(ds, found) for ds in ids for (found,) in select(connection, statement, (to_json(ids[ds]), ds))}


def source_crc32c(connection: Connection, existing: Tensor | None) -> int | None:
    """Return the CRC32C of the bytes that the tensor's writer sent. The row was verified before."""
    if existing is None:
        return None
    ((source_crc32c,),) = select(connection, "SELECT source_crc FROM tensor WHERE seq = ?", (existing.generation,))
    return int(source_crc32c)


def page_of_tensors(
    connection: Connection, ds: int, dataset: str, request: PageRequest, tables: RowTables = LIVE
) -> Page:
    """Return one page of a listing.

    Raises:
        DataCorruptError: the dataset cannot be listed at all, or the listing cannot continue after a damaged tensor.
    """
    try:
        rows, more = read_page(connection, *_page_statement(connection, ds, request, tables), request.size, _row_bytes)
    except connection.unreadable:
        return _page_one_by_one(connection, ds, dataset, request, tables)
    place = TENSOR_COLUMNS.index(_SORT_COLUMNS[request.order.field])
    return page_from(
        [
            found if not isinstance(found, DataCorruptError) else DamagedTensor(found, row[_SEQ], row[place])
            for row in rows
            for found in (_tensor(connection, row, ds, dataset, tables),)
        ],
        request,
        more=more,
    )


@dataclass
class Batch:
    """Rows of a dataset whose checksums are not verified yet."""

    connection: Connection
    dataset: tuple[int, str]
    tables: RowTables
    rows: list[tuple[Any, ...]]
    """Rows for `tensor_from_row`, without payloads."""
    damages: list[DataCorruptError]
    """The errors of rows that cannot be read."""
    last: int | None
    """The generation after which the next batch starts; None: this is the last batch."""

    def damage(self, row: tuple[Any, ...], error: RowDamageError) -> None:
        """Add a row that was found to be damaged to `damages`."""
        self.damages.append(_damage(self.connection, self.dataset, row[_SEQ], row[_ID], str(error), tables=self.tables))


def rows_by_generation(connection: Connection, ds: int, dataset: str, after: int, tables: RowTables = LIVE) -> Batch:
    """Return the next rows of a dataset whose generations are above `after`, in ascending order.

    Raises:
        DataCorruptError: no more rows of the dataset can be read.
    """
    where = f"t.ds = ? AND t.seq > ?{tables.visible} ORDER BY t.seq LIMIT ?"
    batch = Batch(connection, (ds, dataset), tables, [], [], None)
    try:
        batch.rows = select(connection, f"{tables.without_payload} WHERE {where}", (ds, after, *tables.bounds, _BATCH))
        seqs = [row[_SEQ] for row in batch.rows]
    except connection.unreadable:
        request = PageRequest(after=(after, after))
        seqs = [seq for seq, _ in islice(_places(connection, ds, dataset, request, tables), _BATCH)]
        for seq in seqs:
            try:
                rows = select(connection, f"{tables.without_payload} WHERE t.seq = ?", (seq,))
                batch.rows += rows
                if not rows:
                    what = "its row is missing from the table"
                    batch.damages.append(_damage(connection, (ds, dataset), seq, None, what, tables=tables))
            except connection.unreadable as error:
                batch.damages.append(_unreadable(connection, (ds, dataset), error, tables, seq=seq))
    if len(seqs) == _BATCH:
        batch.last = seqs[-1]
    return batch


def page_from(tensors: list[Tensor | DamagedTensor], request: PageRequest, *, more: bool) -> Page:
    """Return the page with these tensors.

    Raises:
        DataCorruptError: the listing cannot continue after the last tensor, because it is damaged.
    """
    if not more:
        return Page(tensors, None)
    last, field = tensors[-1], request.order.field
    if isinstance(last, DamagedTensor) and not isinstance(last.sort_value, str if field == "id" else int):
        raise last.error
    return Page(tensors, place_of(last, field))


def sort_key(value: Any) -> tuple[int, Any]:  # `Any`: a damaged row may hold anything
    """Return a key that sorts values of a column as SQLite does."""
    if value is None:
        return 0, 0
    if isinstance(value, (int, float)):
        return 1, value
    return (2, value.encode()) if isinstance(value, str) else (3, value)


def _page_statement(
    connection: Connection, ds: int, request: PageRequest, tables: RowTables = LIVE
) -> tuple[str, list[Any]]:
    """Return the statement that reads a page, and its parameters."""
    where, parameters = compile_filter(request.filter, ds, connection, tables.attr)
    tail, parameters = _page_tail(request, (where + tables.visible, parameters + tables.bounds))
    return (tables.with_payload if request.with_payloads else tables.without_payload) + tail, parameters


def _page_tail(
    request: PageRequest, condition: tuple[str, list[Any]], *, size: int | None = None
) -> tuple[str, list[Any]]:
    """Return WHERE, ORDER BY and LIMIT of a page; the limit is one more than the page, to see whether it is the last."""
    where, parameters = condition
    conditions = [where]
    sort, direction, beyond = f"t.{_SORT_COLUMNS[request.order.field]}", "ASC", ">"
    if request.order.descending:
        direction, beyond = "DESC", "<"
    if request.generation_max is not None:
        # The "+" keeps SQLite from using the index of generations: the bound excludes few tensors, and the sort index is
        # the better choice.
        conditions.append("t.seq <= ?" if sort == "t.seq" else "+t.seq <= ?")
        parameters.append(request.generation_max)
    if request.after is not None:
        conditions.append(f"({sort}, t.seq) {beyond} (?, ?)")
        parameters.extend(request.after)
    tail = f" WHERE {' AND '.join(conditions)} ORDER BY {sort} {direction}, t.seq {direction} LIMIT ?"
    return tail, [*parameters, request.size + 1 if size is None else size]


def _page_one_by_one(connection: Connection, ds: int, dataset: str, request: PageRequest, tables: RowTables) -> Page:
    """Return the result of `page_of_tensors` if a statement that reads many rows fails."""
    select_from = tables.with_payload if request.with_payloads else tables.without_payload
    # The condition omits the dataset's number, which may be wrong in a damaged row: `_places` has selected by it already.
    where, parameters = compile_condition(request.filter, ds, connection, tables.attr)
    tensors: list[Tensor | DamagedTensor] = []
    left = PAGE_READ_BYTES
    for seq, sort_value in _places(connection, ds, dataset, request, tables):
        try:
            rows = select(connection, f"{select_from} WHERE t.seq = ? AND {where}", [seq, *parameters])
        except connection.unreadable as error:
            damage = _unreadable(connection, (ds, dataset), error, tables, seq=seq)
            tensors.append(DamagedTensor(damage, seq, sort_value))
        else:
            if not rows and not _has_row(connection, seq, tables):
                damage = _damage(
                    connection, (ds, dataset), seq, None, "its row is missing from the table", tables=tables
                )
                tensors.append(DamagedTensor(damage, seq, sort_value))
            for row in rows:
                left -= _row_bytes(row)
                found = _tensor(connection, row, ds, dataset, tables)
                tensors.append(
                    found if not isinstance(found, DataCorruptError) else DamagedTensor(found, seq, sort_value)
                )
        if len(tensors) > request.size:
            return page_from(tensors[: request.size], request, more=True)
        if left <= 0:
            return page_from(tensors, request, more=True)
    return page_from(tensors, request, more=False)


def _row_bytes(row: tuple[Any, ...]) -> int:
    """Return the approximate size of a row in memory: its metadata and its inline payload, if any."""
    return sum(len(value) for value in (row[_METADATA], row[-1]) if isinstance(value, (str, bytes)))


def _has_row(connection: Connection, seq: int, tables: RowTables) -> bool:
    return select(connection, f"SELECT 1 FROM {tables.tensor} NOT INDEXED WHERE seq = ?", (seq,)) != []


def _places(
    connection: Connection, ds: int, dataset: str, request: PageRequest, tables: RowTables
) -> Iterator[tuple[int, str | int | None]]:
    """Yield generation and sort value of the dataset's tensors in order, from the index, or the table if that is damaged."""
    if tables is not LIVE:
        yield from _past_places(connection, ds, dataset, request, tables)
        return
    field = request.order.field
    sort = _SORT_COLUMNS[field]
    column = "CAST(t.id AS BLOB)" if field == "id" else f"CASE typeof(t.{sort}) WHEN 'integer' THEN t.{sort} END"
    while True:
        tail, parameters = _page_tail(request, ("t.ds = ?", [ds]), size=_ONE_BY_ONE)
        for source in ("tensor t", "tensor t NOT INDEXED"):
            try:
                rows = select(connection, f"SELECT t.seq, {column} FROM {source}{tail}", parameters)
                break
            except connection.unreadable as error:
                failure = error
        else:
            raise DataCorruptError(
                f"the catalogue is damaged: its table of tensors cannot be read: {failure}", dataset=dataset
            )
        place: tuple[str | int | None, int] | None = None
        for seq, value in rows:
            place = (_text(value) if field == "id" else value, seq)
            yield seq, place[0]
        if len(rows) < _ONE_BY_ONE or place is None or place[0] is None:
            return
        request = replace(request, after=(place[0], place[1]))


def _past_places(
    connection: Connection, ds: int, dataset: str, request: PageRequest, tables: RowTables
) -> Iterator[tuple[int, str | int | None]]:
    """Yield generation and sort value of the past tensors that are visible, in order; None for a row that cannot be read.

    One index has what decides which of them are visible. Their sort values are read one by one.
    """
    seqs = (
        f"SELECT seq FROM {tables.tensor} t INDEXED BY past_tensor_until WHERE t.ds = ?{tables.visible} AND t.seq <= ?"
    )
    sort, direction = _SORT_COLUMNS[request.order.field], -1 if request.order.descending else 1
    last = 2**63 - 1 if request.generation_max is None else request.generation_max
    places: list[tuple[tuple[int, Any], int, str | int | None]] = []
    try:
        for (seq,) in select(connection, seqs, (ds, *tables.bounds, last)):
            value = (
                seq if sort == "seq" else _value(connection, f"SELECT {sort} FROM {tables.tensor} WHERE seq = ?", seq)
            )
            places.append((sort_key(value), seq, value))
    except connection.unreadable as error:
        raise DataCorruptError(
            f"the catalogue is damaged: its table of past tensors cannot be read: {error}", dataset=dataset
        ) from error
    after = None if request.after is None else (sort_key(request.after[0]), request.after[1])
    for key, seq, value in sorted(places, key=lambda place: place[:2], reverse=direction < 0):
        if after is None or (((key, seq) > after) == (direction > 0) and (key, seq) != after):
            yield seq, value


def _value(connection: Connection, statement: str, seq: int) -> str | int | None:
    """Return the value of a row's column; None if it cannot be read, or is neither text nor an integer."""
    try:
        rows = select(connection, statement, (seq,))
    except connection.unreadable:
        return None
    return rows[0][0] if rows and isinstance(rows[0][0], (str, int)) else None


def _tensor(
    connection: Connection, row: tuple[Any, ...], ds: int, dataset: str, tables: RowTables
) -> Tensor | DataCorruptError:
    """Return the tensor of a row, or an error if the row is damaged."""
    try:
        return tensor_from_row(row, dataset, ds)
    except RowDamageError as error:
        return _damage(connection, (ds, dataset), row[_SEQ], row[_ID], str(error), tables=tables)


def _unreadable(
    connection: Connection,
    dataset: tuple[int, str],
    error: Exception,
    tables: RowTables,
    *,
    seq: Any = None,  # `Any`, here and below: a caller may look up any value
    id: Any = None,  # noqa: A002 - a column's name
) -> DataCorruptError:
    """Return the error for a tensor whose row cannot be read; `seq` or `id` identifies it."""
    what = f"its row cannot be read: {type(error).__name__}"
    if seq is not None:
        return _damage(connection, dataset, seq, None, what, tables=tables)
    statement = f"SELECT seq FROM {tables.tensor} INDEXED BY {tables.id_index} WHERE ds = ? AND id = ?"
    if tables.at is not None:
        statement += f" AND seq <= {tables.at} ORDER BY seq DESC LIMIT 1"
    try:
        rows = select(connection, statement, (dataset[0], id))
    except connection.unreadable as error_of_index:
        _require_going_on(connection, error_of_index)
        rows = []
    facts = {"generation": rows[0][0]} if rows else {}
    return DataCorruptError(f"the catalogue is damaged: {what}", dataset=dataset[1], tensor=id, **facts)


def _damage(
    connection: Connection, dataset: tuple[int, str], seq: int, id_in_row: object, what: str, *, tables: RowTables
) -> DataCorruptError:
    """Return the error for the damaged row `seq`, with the id under which the tensor can be replaced or deleted."""
    ds, name = dataset
    index = f"FROM {tables.tensor} INDEXED BY {tables.id_index} WHERE ds = ?"
    tensor_id = id_in_row if isinstance(id_in_row, str) else None
    try:
        same = f"SELECT seq {index} AND id = ? AND seq = ?"
        if tensor_id is None or select(connection, same, (ds, tensor_id, seq)) != [(seq,)]:
            # The id in the row is damaged. The index has the right one, but must be searched by generation, which is slow.
            rows = select(connection, f"SELECT CAST(id AS BLOB) {index} AND seq = ?", (ds, seq))
            tensor_id = _text(rows[0][0]) if rows else tensor_id
    except connection.unreadable as error:
        _require_going_on(connection, error)
    return DataCorruptError(
        f"the catalogue is damaged: {what}", dataset=name, tensor=tensor_id or f"generation {seq}", generation=seq
    )


def _require_going_on(connection: Connection, error: Exception) -> None:
    """Re-raise the error if the transaction can only be rolled back; return if reading may continue."""
    if not connection.goes_on_after(error):
        raise error


def _text(value: object) -> str | None:
    """Decode UTF-8 bytes; return None if the value is not bytes or not UTF-8."""
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None
