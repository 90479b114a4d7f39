"""Opens and configures connections to the catalogue."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import apsw

from tensorus_server.catalogue.sql.row_tables import ID_INDEX
from tensorus_server.catalogue.sqlite import writer_lock
from tensorus_server.catalogue.sqlite.row_inserts import insert_rows
from tensorus_server.catalogue.sqlite.sqlite_errors import UNREADABLE
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.filter.metadata_index import holds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tensorus_server.catalogue.sql.connection import Sql
    from tensorus_server.filter.tree import Compare, Exists, OneOf, Prefix

__all__ = [
    "PAGE_BYTES",
    "SqliteConnection",
    "connect",
    "connect_memory",
    "connect_to_read",
    "immutable_url",
    "is_quiet",
]

_PRAGMAS = """
PRAGMA synchronous = FULL;
PRAGMA fullfsync = ON;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = 0;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
"""
"""synchronous=FULL: with NORMAL, a power failure lost all rows committed since the last checkpoint (measured). fullfsync: macOS
needs it in addition, see `chunk_store/files.py`; it has no effect elsewhere. mmap_size=0: with mmap, an I/O error would be a
signal that kills the process. wal_autocheckpoint=0: `Database.checkpoint` runs between commits instead."""

PAGE_BYTES = 4096
"""Page size of a new file. Measured with inline payloads of 4 KiB: 5.0 KB of file and of log per payload, instead of 8.6 KB
with pages of 8192 bytes, which hold only one each."""

_WRITER_CACHE_KIB = 8 * 1024
"""A group of 512 tensors of 4 KiB takes 2.6 MB of pages. SQLite's default cache of 2 MB is full before the commit, so that
pages are written to the log one by one, which takes 5 microseconds more per tensor (measured)."""


class SqliteConnection(apsw.Connection):
    """A connection for the tables of `catalogue/sql`: implements `Connection`."""

    unreadable: tuple[type[Exception], ...] = UNREADABLE
    indexed_text_bytes_max: int | None = None

    def scan(self, statement: str, parameters: Sequence[Any] | None = None, /) -> Iterator[tuple[Any, ...]]:
        """See `Connection`."""
        return iter(self.execute(statement, parameters))

    def insert_rows(self, insert: str, rows: Sequence[tuple[Any, ...]], /) -> None:
        """See `Connection`."""
        insert_rows(self, insert, rows)

    def now_us(self) -> int:
        """Return the time of this machine's clock."""
        return time.time_ns() // 1000

    def goes_on_after(self, error: Exception, /) -> bool:
        """See `Connection`. SQLite does not commit a transaction that met a damaged page."""
        return not isinstance(error, apsw.CorruptError) or bool(self.pragma("query_only"))

    def metadata_condition(
        self,
        node: Compare | OneOf | Exists | Prefix,
        candidates: Sql,
        *,
        tensor: str,  # noqa: ARG002 - other databases need it
        ds: int,  # noqa: ARG002 - likewise
    ) -> Sql:
        """See `Connection`. SQLite calls back, for the rows that the rest of the statement selects."""
        self.create_scalar_function("metadata_holds", _metadata_holds, 2)
        marked, marks = candidates
        return f"({marked} AND metadata_holds(?, t.metadata))", [*marks, apsw.pyobject(node)]

    def delete_against_indexes(self, ds: int, tensor_id: str, returned: str, /) -> list[tuple[Any, ...]]:
        """See `Connection`.

        SQLite finds a row's entries in the indexes by the row's values, and reports damage if an entry is missing. With a
        writable schema it does not.
        """
        where = f"INDEXED BY {ID_INDEX} WHERE ds = ? AND id = ?"
        found = self.execute(f"SELECT seq FROM tensor {where}", (ds, tensor_id)).fetchall()
        delete = f"DELETE FROM tensor WHERE seq = ? RETURNING {returned}"
        self.execute("PRAGMA writable_schema = ON")
        try:
            rows = [row for (seq,) in found for row in self.execute(delete, (seq,)).fetchall()]
        finally:
            self.execute("PRAGMA writable_schema = OFF")
        self.execute("REINDEX tensor")
        return rows

    def table_damage(self, table: str, /) -> str | None:
        """See `Connection`."""
        found = self.execute(f"PRAGMA integrity_check('{table}')").fetchall()
        return None if found == [("ok",)] else str(found[0][0])


def _metadata_holds(*arguments: Any) -> int:  # `Any`: the condition as a Python object, and a value from SQLite
    node, metadata = arguments
    return int(holds(node, metadata))


def connect(path: Path, *, create: bool) -> SqliteConnection:
    """Open a connection: the writer, which creates the file if it does not exist (`create`), or a reader."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = SqliteConnection(str(path), flags=flags)
    connection.set_busy_timeout(writer_lock.BUSY_TIMEOUT_MS)
    if create:
        # The page size has an effect only before the first table is created. WAL mode is stored in the file.
        _run(connection, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL;")
    _set_up(connection)
    _run(connection, f"PRAGMA cache_size = -{_WRITER_CACHE_KIB};" if create else "PRAGMA query_only = ON;")
    return connection


def is_quiet(path: Path) -> bool:
    """Return whether nobody has a database open and everything is in its file, so that it may be read as immutable.

    Raises:
        StoreUnavailableError: it has a log, whose index is missing.
        OSError: the files cannot be looked at.
    """
    log, index = path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")
    try:
        log_bytes = log.stat().st_size
    except FileNotFoundError:
        return True
    has_index = index.exists()
    if log_bytes and not has_index:
        raise StoreUnavailableError(
            f"the catalogue {path} has a log of {log_bytes} bytes ({log.name}), whose index ({index.name}) "
            "is missing. SQLite would have to create it to read what was committed last. Open the store, or a copy of its "
            "folder on a disk that can be written, for writing once, for example with `tensorus ls --store DIR`"
        )
    return not has_index


def connect_to_read(path: Path, *, immutable: bool) -> SqliteConnection:
    """Open a connection that changes and creates no file.

    Args:
        immutable: that nobody writes the file, so that it needs neither locks nor a log. False: its log and the log's index are
            there. If no process that writes has them open, SQLite makes an index of the log in memory for itself.

    Raises:
        apsw.Error: the file cannot be opened.
    """
    if immutable:
        return _connected_to_read(immutable_url(path))
    try:
        return _connected_to_read(f"{_url(path)}?mode=ro&readonly_shm=1")
    except apsw.ReadOnlyError:
        # A process has the log open, and its index has no mark yet that a reader can share: let SQLite set one there.
        return _connected_to_read(f"{_url(path)}?mode=ro")


def _connected_to_read(url: str) -> SqliteConnection:
    connection = SqliteConnection(url, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
    try:
        connection.set_busy_timeout(writer_lock.BUSY_TIMEOUT_MS)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        _set_up(connection)
        _run(connection, "PRAGMA query_only = ON; SELECT 1 FROM sqlite_schema LIMIT 1;")
    except BaseException:
        connection.close()
        raise
    return connection


def immutable_url(path: Path) -> str:
    """Return the URL by which SQLite opens a database that nobody writes, without writing anything next to it."""
    return f"{_url(path)}?immutable=1"


def _url(path: Path) -> str:
    return f"file:{quote(os.fsencode(path.resolve()))}"


def connect_memory(pages_max: int) -> SqliteConnection:
    """Open a database in memory with at most `pages_max` pages of `PAGE_BYTES`."""
    connection = SqliteConnection(":memory:")
    _run(connection, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA max_page_count = {pages_max};")
    _set_up(connection)
    return connection


def _set_up(connection: apsw.Connection) -> None:
    # Without it, SQLite plans a join with a parameter again at each execution, which takes much longer than looking up a row:
    # 23 microseconds instead of 4 (measured). The plans would differ only after ANALYZE, which is never run.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    _run(connection, _PRAGMAS)


def _run(connection: apsw.Connection, statements: str) -> None:
    """Run several statements. apsw runs them lazily, so all rows must be fetched."""
    connection.execute(statements).fetchall()
