"""Opens and configures connections to the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite import writer_lock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PAGE_BYTES", "connect", "connect_memory"]

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


def connect(path: Path, *, create: bool) -> apsw.Connection:
    """Open a connection: the writer, which creates the file if it does not exist (`create`), or a reader."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(writer_lock.BUSY_TIMEOUT_MS)
    if create:
        # The page size has an effect only before the first table is created. WAL mode is stored in the file.
        _run(connection, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL;")
    _set_up(connection)
    _run(connection, f"PRAGMA cache_size = -{_WRITER_CACHE_KIB};" if create else "PRAGMA query_only = ON;")
    return connection


def connect_memory(pages_max: int) -> apsw.Connection:
    """Open a database in memory with at most `pages_max` pages of `PAGE_BYTES`."""
    connection = apsw.Connection(":memory:")
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
