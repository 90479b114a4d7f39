"""The table of tensors, with what filters see of them."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from tensorus_server.catalogue.abc import Page, TensorTable, sort_value
from tensorus_server.catalogue.resolve import resolve
from tensorus_server.catalogue.sqlite.database import now_us, select
from tensorus_server.catalogue.sqlite.datasets import find_dataset
from tensorus_server.catalogue.sqlite.filter_sql import (
    DIMENSION_KEY,
    LEFT_OUT_KEY,
    LEFT_OUT_MANY_KEY,
    compile_filter,
)
from tensorus_server.catalogue.sqlite.row_page import read_page
from tensorus_server.catalogue.sqlite.rows import (
    TENSOR_COLUMNS,
    WRITTEN_COLUMNS,
    RowWriter,
    tensor_from_row,
    to_json,
)
from tensorus_server.catalogue.sqlite.uploads import complete_upload
from tensorus_server.errors import (
    AlreadyExistsError,
    DataCorruptError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
    StorageFullError,
    TensorNotFoundError,
)
from tensorus_server.limits import BATCH_S
from tensorus_server.metadata_index import index_of
from tensorus_server.model import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    import apsw

    from tensorus_server.catalogue.abc import PageRequest, StoredTensor
    from tensorus_server.catalogue.sqlite.database import Database
    from tensorus_server.metadata_index import MetadataIndex
    from tensorus_server.model import Metadata, Tensor

__all__ = ["SqliteTensorTable"]

_SORT_COLUMNS = {"created": "t.seq", "id": "t.id", "nbytes": "t.nbytes", "stored_bytes": "t.stored_bytes"}

_METADATA = TENSOR_COLUMNS.index("metadata")

_COLUMNS = ", ".join(f't."{name}"' for name in TENSOR_COLUMNS)
_WITH_PAYLOAD = f"SELECT {_COLUMNS}, p.bytes FROM tensor t LEFT JOIN payload p ON p.seq = t.seq"
_WITHOUT_PAYLOAD = f"SELECT {_COLUMNS}, NULL FROM tensor t"

_NAMES = ", ".join(f'"{name}"' for name in WRITTEN_COLUMNS)
_INSERT_TENSORS = f"INSERT INTO tensor ({_NAMES}) VALUES "
_INSERT_PAYLOADS = "INSERT INTO payload (seq, bytes) VALUES "
_INSERT_ATTRIBUTES = "INSERT INTO attr (seq, key, ordinal, ds, num, txt) VALUES "

_ROWS_AT_ONCE = (64, 16, 4, 1)
"""Rows of one INSERT: few sizes, so that the statements stay prepared. Each statement gives up the GIL and has to get it back,
and costs about as much as inserting two rows."""

_GENERATION_MAX = 2**63 - 1
"""Above every generation: SQLite's largest integer."""


class _UndoneError(Exception):
    """Undoes a transaction."""


class SqliteTensorTable(TensorTable):
    """See `TensorTable`."""

    def __init__(self, database: Database, *, delete_grace_s: float) -> None:
        """Use `database`; see `SqliteCatalogue` for the grace."""
        self._database = database
        self._delete_grace_us = int(delete_grace_s * 1e6)

    def commit(self, group: Sequence[StoredTensor], *, together: bool = False) -> list[Tensor | Exception]:
        """See `TensorTable`."""
        outcomes: list[Tensor | Exception] = []
        try:
            with self._database.write() as connection:
                outcomes = self._commit(connection, group)
                if together and any(isinstance(outcome, Exception) for outcome in outcomes):
                    raise _UndoneError
        except _UndoneError:
            return [_abandoned(stored, outcome) for stored, outcome in zip(group, outcomes, strict=True)]
        return outcomes

    def get(self, dataset: str, ids: Sequence[str], *, with_payloads: bool = False) -> list[Tensor | None]:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            return _find(connection, "id", (ds, dataset), ids, with_payloads=with_payloads)

    def page(self, dataset: str, request: PageRequest) -> Page:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            tail, parameters = _page_tail(connection, ds, request)
            statement = _select(with_payloads=request.with_payloads) + tail
            rows, more = read_page(connection, statement, parameters, request.size, _row_bytes)
        tensors = [tensor_from_row(row, dataset) for row in rows]
        return Page(tensors, (sort_value(tensors[-1], request.order.field), tensors[-1].generation) if more else None)

    def generations(self, dataset: str, request: PageRequest) -> list[int]:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            where, parameters = compile_filter(request.filter, ds, connection)
            after, bound = request.after[1] if request.after else 0, request.generation_max
            rows = select(
                connection,
                f"SELECT t.seq FROM tensor t WHERE {where} AND t.seq > ? AND t.seq <= ? ORDER BY t.seq LIMIT ?",
                [*parameters, after, _GENERATION_MAX if bound is None else bound, request.size],
            )
        return [seq for (seq,) in rows]

    def by_generation(
        self, dataset: str, generations: Sequence[int], *, with_payloads: bool = False
    ) -> list[Tensor | None]:
        """See `TensorTable`."""
        with self._database.read() as connection:
            ds = find_dataset(connection, dataset).number
            return _find(connection, "seq", (ds, dataset), generations, with_payloads=with_payloads)

    def latest_generation(self) -> int:
        """See `TensorTable`."""
        with self._database.read() as connection:
            return _latest_generation(connection)

    def _commit(self, connection: apsw.Connection, group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
        numbers = _Numbers(connection, {stored.dataset.number for stored in group})
        taken = _taken(connection, group)
        outcomes: list[Tensor | Exception] = []
        fresh: list[tuple[StoredTensor, Tensor]] = []
        for stored in group:
            place = (stored.dataset.number, stored.new.id)
            if place[0] in numbers.ordinals and place not in taken and not stored.new.if_generation_match:
                # Nearly always: these go into the tables together.
                taken.add(place)
                tensor = numbers.give(stored)
                fresh.append((stored, tensor))
                outcomes.append(tensor)
            else:
                _insert(connection, fresh)
                fresh.clear()
                outcomes.append(self._resolve(connection, stored, numbers))
        _insert(connection, fresh)
        numbers.save(connection)
        for stored, outcome in zip(group, outcomes, strict=True):
            if stored.upload is not None and not isinstance(outcome, Exception):
                complete_upload(connection, *stored.upload, outcome)
        return outcomes

    def _resolve(self, connection: apsw.Connection, stored: StoredTensor, numbers: _Numbers) -> Tensor | Exception:
        """Insert the tensor, or return the one that is there where it is the same, or why neither can be."""
        ds = stored.dataset.number
        try:
            if ds not in numbers.ordinals:
                raise DatasetNotFoundError(
                    "the dataset was deleted during the insert", dataset=stored.dataset.name, tensor=stored.new.id
                )
            existing, source_crc32c = _existing(connection, stored)
            done = resolve(stored, existing, source_crc32c)
        except (AlreadyExistsError, GenerationMismatchError, DatasetNotFoundError, DataCorruptError) as error:
            # Of this item alone: the others of its group are committed.
            return error
        if existing is not None and done is Outcome.ALREADY_STORED:
            return replace(existing, outcome=done)
        self._delete(connection, ds, stored.new.id)
        tensor = numbers.give(stored, done)
        _insert(connection, [(stored, tensor)])
        return tensor

    def _delete(self, connection: apsw.Connection, ds: int, tensor_id: str) -> bool:
        """Delete the tensor, leave its payload to the sweep, and return whether it existed."""
        rows = select(connection, "DELETE FROM tensor WHERE ds = ? AND id = ? RETURNING key, inline", (ds, tensor_id))
        for key, inline in rows:
            if not inline:
                delete_after_us = now_us() + self._delete_grace_us
                connection.execute("INSERT INTO tombstone VALUES (?, ?)", (key, delete_after_us))
        return bool(rows)

    def replace_metadata(self, dataset: str, tensor_id: str, metadata: Metadata) -> Tensor:
        """See `TensorTable`."""
        with self._database.write() as connection:
            ds = find_dataset(connection, dataset).number
            statement = f"{_WITHOUT_PAYLOAD} WHERE t.ds = ? AND t.id = ?"
            tensor = _first(connection, statement, (ds, tensor_id), dataset)
            if tensor is None:
                raise TensorNotFoundError("there is no such tensor", dataset=dataset, tensor=tensor_id)
            seq = tensor.generation
            connection.execute("UPDATE tensor SET metadata = ? WHERE seq = ?", (to_json(metadata), seq))
            connection.execute("DELETE FROM attr WHERE seq = ?", (seq,))
            _insert_rows(connection, _INSERT_ATTRIBUTES, _attributes(ds, seq, index_of(metadata), tensor.spec.shape))
            updated = _first(connection, statement, (ds, tensor_id), dataset)
        assert updated is not None
        return updated

    def delete(self, dataset: str, ids: Sequence[str]) -> list[str]:
        """See `TensorTable`."""
        remaining = list(dict.fromkeys(ids))
        deleted: list[str] = []
        at_once = max(len(remaining), 1)
        while True:
            begun_s = time.monotonic()
            batch = remaining[:at_once]
            try:
                done, found = self._database.write_on_full_disk(partial(self._delete_batch, dataset, batch))
            except StorageFullError:
                if len(batch) < 2:
                    raise
                # They need more of the log than there is spare room. Once it is copied, its room can be had again.
                at_once = len(batch) // 2
                self._database.checkpoint(idle=True)
                continue
            del remaining[:done]
            deleted += found
            if not remaining:
                return deleted
            # As long as that took: whoever waits to write has its turn.
            time.sleep(time.monotonic() - begun_s)

    def _delete_batch(self, dataset: str, ids: Sequence[str], connection: apsw.Connection) -> tuple[int, list[str]]:
        """Delete some of these tensors, for `BATCH_S`; return how many ids that were, and which of them existed."""
        ds = find_dataset(connection, dataset).number
        ends_s = time.monotonic() + BATCH_S
        deleted: list[str] = []
        for done, tensor_id in enumerate(ids, 1):
            if self._delete(connection, ds, tensor_id):
                deleted.append(tensor_id)
            if time.monotonic() >= ends_s:
                return done, deleted
        return len(ids), deleted


def _abandoned(stored: StoredTensor, outcome: Tensor | Exception) -> Exception:
    if isinstance(outcome, Exception):
        return outcome
    return InsertAbandonedError(
        "another item of the insert failed, so nothing of it was stored",
        dataset=stored.dataset.name,
        tensor=stored.new.id,
    )


class _Numbers:
    """Generations and ordinals, given out in the order of a commit."""

    def __init__(self, connection: apsw.Connection, datasets: set[int]) -> None:
        """Begin after the last ones; datasets that are gone have none."""
        statement = "SELECT last_ordinal FROM dataset WHERE ds = ? AND deleted_us IS NULL"
        self.ordinals: dict[int, int] = {
            ds: last for ds in datasets for (last,) in select(connection, statement, (ds,))
        }
        """The last one of each dataset."""
        self._before = dict(self.ordinals)
        self._generation = _latest_generation(connection)
        self._created_us = now_us()

    def give(self, stored: StoredTensor, outcome: Outcome = Outcome.INSERTED) -> Tensor:
        """Return the tensor with the next numbers."""
        ds = stored.dataset.number
        self._generation += 1
        self.ordinals[ds] += 1
        return stored.committed(self._generation, self.ordinals[ds], self._created_us, outcome)

    def save(self, connection: apsw.Connection) -> None:
        """Keep the last ordinals: once per dataset and commit, and not at all where nothing new came."""
        counted = [(ordinal, ds) for ds, ordinal in self.ordinals.items() if ordinal != self._before[ds]]
        connection.executemany("UPDATE dataset SET last_ordinal = ? WHERE ds = ?", counted)


def _latest_generation(connection: apsw.Connection) -> int:
    rows = select(connection, "SELECT seq FROM sqlite_sequence WHERE name = 'tensor'")
    return int(rows[0][0]) if rows else 0


def _taken(connection: apsw.Connection, group: Sequence[StoredTensor]) -> set[tuple[int, str]]:
    """Return which of the group's datasets and ids are taken already."""
    ids: dict[int, list[str]] = {}
    for stored in group:
        ids.setdefault(stored.dataset.number, []).append(stored.new.id)
    # CROSS JOIN: look each id up, however many tensors there are.
    statement = "SELECT t.id FROM json_each(?) wanted CROSS JOIN tensor t ON t.ds = ? AND t.id = wanted.value"
    return {(ds, found) for ds in ids for (found,) in select(connection, statement, (to_json(ids[ds]), ds))}


def _existing(connection: apsw.Connection, stored: StoredTensor) -> tuple[Tensor | None, int | None]:
    """Return the tensor that has the id, and the CRC32C of its source."""
    parameters = (stored.dataset.number, stored.new.id)
    statement = f"{_WITHOUT_PAYLOAD} WHERE t.ds = ? AND t.id = ?"
    existing = _first(connection, statement, parameters, stored.dataset.name)
    rows = select(connection, "SELECT source_crc FROM tensor WHERE ds = ? AND id = ?", parameters)
    return existing, rows[0][0] if rows else None


def _insert(connection: apsw.Connection, tensors: Sequence[tuple[StoredTensor, Tensor]]) -> None:
    """Insert tensors whose ids are free, with their inline payloads and attributes."""
    rows, payloads, attributes = [], [], []
    writer = RowWriter()
    for stored, tensor in tensors:
        generation, new = tensor.generation, stored.new
        rows.append(writer.row(stored, generation, tensor.ordinal, tensor.created_us))
        if stored.inline_payload is not None:
            payloads.append((generation, stored.inline_payload))
        attributes += _attributes(stored.dataset.number, generation, new.index, new.spec.shape)
    _insert_rows(connection, _INSERT_TENSORS, rows)
    _insert_rows(connection, _INSERT_PAYLOADS, payloads)
    _insert_rows(connection, _INSERT_ATTRIBUTES, attributes)


def _insert_rows(connection: apsw.Connection, insert: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows, all as long as the first, many in one statement."""
    start = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - start >= size:
            part = rows[start : start + size]
            connection.execute(_insert_statement(insert, len(part[0]), size), tuple(chain.from_iterable(part)))
            start += size


@cache
def _insert_statement(insert: str, columns: int, rows: int) -> str:
    return insert + ",".join([f"({','.join('?' * columns)})"] * rows)


def _attributes(ds: int, seq: int, index: MetadataIndex, shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Return the rows of what filters see of a tensor: dimensions, metadata, and the keys that the index leaves out."""
    rows: list[tuple[Any, ...]] = [(seq, key, axis, ds, size, None) for axis, (key, size) in _dimensions(shape)]
    for position, (key, value) in enumerate(index.values, len(rows)):
        number, text = (value, None) if isinstance(value, float) else (None, value)
        rows.append((seq, key, position, ds, number, text))
    if index.left_out is None:
        rows.append((seq, LEFT_OUT_MANY_KEY, 0, ds, None, None))
    else:
        rows += [(seq, LEFT_OUT_KEY, position, ds, None, key) for position, key in enumerate(index.left_out)]
    return rows


@lru_cache(maxsize=1024)
def _dimensions(shape: tuple[int, ...]) -> tuple[tuple[int, tuple[str, float]], ...]:
    """Return key and value of each axis, numbered."""
    return tuple(enumerate((f"{DIMENSION_KEY}{axis}", float(size)) for axis, size in enumerate(shape)))


def _page_tail(connection: apsw.Connection, ds: int, request: PageRequest) -> tuple[str, list[Any]]:
    """Return WHERE, ORDER BY and LIMIT of a page, one row longer than the page to see whether it is the last."""
    where, parameters = compile_filter(request.filter, ds, connection)
    conditions = [where]
    sort, direction, beyond = _SORT_COLUMNS[request.order.field], "ASC", ">"
    if request.order.descending:
        direction, beyond = "DESC", "<"
    if request.generation_max is not None:
        # "+": the bound holds for nearly all tensors, and must not win over the index that has them in order.
        conditions.append("t.seq <= ?" if sort == "t.seq" else "+t.seq <= ?")
        parameters.append(request.generation_max)
    if request.after is not None:
        conditions.append(f"({sort}, t.seq) {beyond} (?, ?)")
        parameters.extend(request.after)
    tail = f" WHERE {' AND '.join(conditions)} ORDER BY {sort} {direction}, t.seq {direction} LIMIT ?"
    return tail, [*parameters, request.size + 1]


def _row_bytes(row: tuple[Any, ...]) -> int:
    """Return about how much memory a row of `_select` takes: its metadata, and its inline payload where it has one."""
    return len(row[_METADATA]) + len(row[-1] or b"")


def _select(*, with_payloads: bool) -> str:
    return _WITH_PAYLOAD if with_payloads else _WITHOUT_PAYLOAD


def _find(
    connection: apsw.Connection,
    column: str,
    dataset: tuple[int, str],
    values: Sequence[str | int],
    *,
    with_payloads: bool,
) -> list[Tensor | None]:
    """Return the tensors of a dataset (number, name) that have these values in `column`, "id" or "seq", in order.

    One statement for all: SQLite plans a join anew whenever a parameter changes, which takes longer than looking up a row.
    """
    payload, join = "NULL", ""
    if with_payloads:
        payload, join = "p.bytes", " LEFT JOIN payload p ON p.seq = t.seq"
    statement = (
        f"SELECT wanted.key, {_COLUMNS}, {payload} FROM json_each(?) wanted "
        f"CROSS JOIN tensor t ON t.ds = ? AND t.{column} = wanted.value{join}"
    )
    ds, name = dataset
    found: list[Tensor | None] = [None] * len(values)
    for row in select(connection, statement, (to_json(list(values)), ds)):
        found[row[0]] = tensor_from_row(row[1:], name)
    return found


def _first(connection: apsw.Connection, statement: str, parameters: tuple[Any, ...], dataset: str) -> Tensor | None:
    rows = select(connection, statement, parameters)
    return tensor_from_row(rows[0], dataset) if rows else None
