"""Compares every index with its table, and rebuilds wrong ones.

A damaged index hides existing rows or finds wrong ones, but it can be rebuilt, because the table has all its information. The
check runs when a catalogue is opened: for up to `_AT_OPENING_S` before it is used, then in the background, in steps of a few
milliseconds with pauses between them. A step reads some rows of a table in key order and looks up their entries in each index.
At the end of a table, the entries are counted: an index is correct if it has an entry for each row and no others. If the table
itself is damaged, its indexes stay unchanged, because they may know rows that the table has lost.

If an index lacks a row, the row may be the damaged part. If its checksum is wrong, the index stays unchanged, because it still
has the row's correct id.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apsw

from tensorus_server.background import Watched
from tensorus_server.catalogue.sql.dataset_rows import all_datasets
from tensorus_server.catalogue.sql.rows import TENSOR_COLUMNS, RowDamageError, verified
from tensorus_server.catalogue.sql.snapshot_rows import has_damaged_snapshots
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite.sqlite_errors import UNREADABLE
from tensorus_server.errors import DataCorruptError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["IndexCheck"]

_LOCK_FILE = "index-check.lock"

_AT_OPENING_S = 0.5
"""Enough for about 50,000 tensors."""

_STEP_ROWS = 2000
"""Rows of a step, which takes 1 to 3 ms per index (measured)."""

_PAUSE_SHARE = 4
"""A pause is this many times as long as the step before it."""

_SUSPECTS_MAX = 50
"""Rows of a step that an index may lack before it counts as wrong without a check of the rows themselves."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Index:
    name: str
    columns: tuple[str, ...]
    """All columns of an entry, including the table's key."""
    condition: str
    """The condition of a partial index; "1": it has entries for all rows."""


@dataclass(frozen=True)
class _Table:
    name: str
    source: str
    """The clause that makes SQLite read the table itself instead of an index."""
    key: tuple[str, ...]
    indexes: tuple[_Index, ...]


class IndexCheck:
    """See the module's description."""

    def __init__(self, database: Transactions) -> None:
        """Check for up to `_AT_OPENING_S`, and continue in the background."""
        self._database = database
        self._closing = threading.Event()
        self._thread: Watched | None = None
        self._steps = self._all_steps()
        deadline = time.monotonic() + _AT_OPENING_S
        while time.monotonic() < deadline:
            if not _advance(self._steps):
                return
        self._thread = Watched("index-check", self._run, _ended)

    def close(self, timeout_s: float) -> None:
        """Stop the check if it is still running. Idempotent."""
        self._closing.set()
        if self._thread is None or self._thread.join(timeout_s):
            self._steps.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            begun_s = time.monotonic()
            if not _advance(self._steps):
                return
            self._closing.wait(_PAUSE_SHARE * (time.monotonic() - begun_s))

    def _all_steps(self) -> Generator[None]:
        """Check all tables, unless another process is checking them; yields after each step."""
        with self._database.lock_file_if_free(_LOCK_FILE) as is_free:
            if not is_free:
                return
            with self._database.read() as connection:
                tables = _tables(connection)
            for table in tables:
                try:
                    yield from self._check(table)
                except _DamagedTableError as damage:
                    # Its indexes stay unchanged: they may know rows that it has lost.
                    _log.error("the catalogue is damaged: table %s %s", table.name, damage)

    def _check(self, table: _Table) -> Iterator[None]:
        """Check one table; yields after each step. Indexes are rebuilt only after the whole table was found intact."""
        wrong: dict[str, _Index] = {}
        after: tuple[Any, ...] | None = ()
        while after is not None:
            after, found = self._look_up(table, after)
            wrong |= {index.name: index for index in found}
            yield
        counts: dict[str, tuple[int, int | None]] = {}
        for index in table.indexes:
            counts[index.name] = rows, entries = self._count(table, index)
            if rows != entries:
                wrong[index.name] = index
            yield
        of_all = {counts[index.name] for index in table.indexes if index.condition == "1"}
        if len(of_all) == 1 and len(table.indexes) > 1:
            ((rows, entries),) = of_all
            if entries is not None and entries > rows:
                raise _DamagedTableError(f"lacks {entries - rows} rows that all of its indexes have")
        for index in wrong.values():
            self._rebuild(index)
            yield

    def _look_up(self, table: _Table, after: tuple[Any, ...]) -> tuple[tuple[Any, ...] | None, list[_Index]]:
        """Look up rows in each index; return the last row's key (None at the table's end) and the wrong indexes."""
        with self._database.read() as connection:
            try:
                where, bounds, last = _range(connection, table, after)
                rows = f"FROM {table.name} AS t {table.source} WHERE {where}"
                keys = select(connection, f"SELECT {', '.join(f't.{column}' for column in table.key)} {rows}", bounds)
                # Read all columns that indexes have: an error here shows that the table is damaged, and not an index.
                columns = sorted({column for index in table.indexes for column in index.columns})
                select(connection, f"SELECT {', '.join(f'max(t.{column})' for column in columns)} {rows}", bounds)
            except UNREADABLE as error:
                raise _DamagedTableError(f"cannot be read after key {after}: {error}") from error
            if keys != sorted(set(keys)):
                raise _DamagedTableError(f"has rows out of order after key {after}")
            return last, [index for index in table.indexes if _is_wrong(connection, table, index, (rows, bounds))]

    def _count(self, table: _Table, index: _Index) -> tuple[int, int | None]:
        """Return the number of rows that an index should have, and of entries that it has; None: it cannot be read."""
        count = f"SELECT count({index.columns[0]}), count(*) FROM {table.name}"
        condition = f"WHERE {index.condition}"
        with self._database.read() as connection:
            try:
                ((_, rows),) = select(connection, f"{count} {table.source} {condition}")
            except UNREADABLE as error:
                raise _DamagedTableError(f"cannot be read: {error}") from error
            try:
                ((_, entries),) = select(connection, f"{count} INDEXED BY {index.name} {condition}")
            except UNREADABLE:
                return rows, None
        return rows, entries

    def _rebuild(self, index: _Index) -> None:
        _log.warning("the catalogue's index %s does not agree with its table and is rebuilt", index.name)
        try:
            if not self._in_a_transaction(_reindex, index.name) and not self._in_a_transaction(_replace, index.name):
                _log.error("index %s cannot be rebuilt: its table is damaged, too", index.name)
        except (apsw.ConstraintError, EngineError) as error:
            _log.error("index %s cannot be rebuilt: %s", index.name, error)

    def _in_a_transaction(self, rebuild: Callable[[Connection, str], None], name: str) -> bool:
        """Run `rebuild` in a transaction; return False if it met a damaged page and was rolled back."""
        try:
            with self._database.write() as connection:
                try:
                    rebuild(connection, name)
                except apsw.CorruptError as error:
                    raise _UndoneError from error
        except _UndoneError:
            return False
        return True


class _DamagedTableError(Exception):
    """A table is damaged; the message says how."""


class _UndoneError(Exception):
    """Rolls back a transaction that met a damaged page."""


def _ended(error: BaseException) -> None:
    """Log why the check has ended; a catalogue with unchecked indexes still works."""
    _log.error("the catalogue's indexes are not checked any more", exc_info=error)


def _advance(steps: Iterator[None]) -> bool:
    """Do a step, and return whether there are more. An error ends the check, but does not fail the catalogue."""
    try:
        next(steps)
    except StopIteration:
        return False
    except Exception:  # noqa: BLE001 - a catalogue whose indexes cannot be checked still works
        _log.exception("the catalogue's indexes could not be checked")
        return False
    return True


def _tables(connection: Connection) -> list[_Table]:
    conditions = {
        name: sql.partition(" WHERE ")[2] or "1"
        for name, sql in select(connection, "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'index'")
    }
    tables = []
    for _, name, kind, _, without_rowid, _ in select(connection, "PRAGMA main.table_list"):
        if kind != "table" or name.startswith("sqlite_"):
            continue
        key, source = ["rowid"], "NOT INDEXED"
        indexes = []
        for _, index, _, origin, _ in select(connection, f"PRAGMA index_list({name})"):
            if without_rowid and origin == "pk":
                # This index is the table itself. For a table without rowids, SQLite treats NOT INDEXED only as a hint.
                source = f"INDEXED BY {index}"
            else:
                indexes.append(_Index(index, _columns(connection, index), conditions.get(index, "1")))
        if without_rowid:
            columns = select(connection, f"PRAGMA table_info({name})")
            key = [column[1] for column in sorted(columns, key=lambda column: int(column[5])) if column[5]]
        if indexes:
            tables.append(_Table(name, source, tuple(key), tuple(indexes)))
    return tables


def _columns(connection: Connection, index: str) -> tuple[str, ...]:
    return tuple(name or "rowid" for _, _, name, *_ in select(connection, f"PRAGMA index_xinfo({index})"))


def _range(
    connection: Connection, table: _Table, after: tuple[Any, ...]
) -> tuple[str, tuple[Any, ...], tuple[Any, ...] | None]:
    """Return a condition that selects the next rows, its parameters, and the last of their keys; None: the table's end."""
    key, marks = f"({', '.join(table.key)})", f"({', '.join('?' * len(table.key))})"
    begin = f"{key} > {marks}" if after else "1"
    columns, order = ", ".join(table.key), ", ".join(table.key)
    last = select(
        connection,
        f"SELECT {columns} FROM {table.name} {table.source} WHERE {begin} ORDER BY {order} LIMIT 1 OFFSET ?",
        (*after, _STEP_ROWS - 1),
    )
    if not last:
        return begin, after, None
    return f"{begin} AND {key} <= {marks}", (*after, *last[0]), last[0]


def _is_wrong(connection: Connection, table: _Table, index: _Index, rows: tuple[str, tuple[Any, ...]]) -> bool:
    """Whether an index lacks an intact row among these."""
    same = " AND ".join(f"x.{column} IS t.{column}" for column in index.columns)
    key = table.key[0]
    # Compare the key as well: SQLite finds the rowid at an entry's end, and a damaged entry may have a wrong length.
    entry = f"SELECT x.{key} FROM {table.name} AS x INDEXED BY {index.name} WHERE {same} AND ({index.condition})"
    statement = f"SELECT t.{key} {rows[0]} AND ({index.condition}) AND ({entry}) IS NOT t.{key} LIMIT ?"
    try:
        missing = [key for (key,) in select(connection, statement, (*rows[1], _SUSPECTS_MAX))]
    except UNREADABLE:
        return True
    if len(missing) == _SUSPECTS_MAX:
        return True
    if table.name in {"tensor", "past_tensor"}:
        return any(_is_intact(connection, table.name, seq) for seq in missing)
    if table.name == "snapshot":
        return bool(missing) and not has_damaged_snapshots(connection)
    if table.name == "dataset":
        return bool(missing) and not any(isinstance(row, DataCorruptError) for row in all_datasets(connection))
    return bool(missing)


def _is_intact(connection: Connection, table: str, seq: int) -> bool:
    names = ", ".join(f'"{name}"' for name in TENSOR_COLUMNS)
    try:
        rows = select(connection, f"SELECT {names}, NULL FROM {table} NOT INDEXED WHERE seq = ?", (seq,))
        for row in rows:
            verified(row, row[TENSOR_COLUMNS.index("ds")])
    except (*UNREADABLE, RowDamageError):
        rows = []
    if not rows:
        _log.warning("the catalogue is damaged: the row of generation %d is not what was written", seq)
        return False
    return True


def _reindex(connection: Connection, name: str) -> None:
    connection.execute(f"REINDEX {name}")


def _replace(connection: Connection, name: str) -> None:
    """Rebuild an index in new pages, if SQLite cannot even clear the old ones, which are then never used again."""
    ((table, sql),) = select(connection, "SELECT tbl_name, sql FROM sqlite_schema WHERE name = ?", (name,))
    if sql is None:
        columns = ", ".join(column for column in _columns(connection, name) if column != "rowid")
        sql = f"CREATE UNIQUE INDEX {name} ON {table} ({columns})"
    connection.execute(sql.replace(f"INDEX {name} ", "INDEX rebuilt ", 1))
    connection.execute("PRAGMA writable_schema = ON")
    try:
        connection.execute(
            "UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'rebuilt') WHERE name = ?",
            (name,),
        )
        connection.execute("DELETE FROM sqlite_schema WHERE name = 'rebuilt'")
    finally:
        connection.execute("PRAGMA writable_schema = RESET")
