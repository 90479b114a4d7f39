"""How a connection to the catalogue is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite import turns

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
"""synchronous=FULL: with NORMAL, a power cut lost every acknowledged row since the last checkpoint (measured). fullfsync: what
macOS needs beside it, see `chunk_store/files.py`; elsewhere it does nothing. No mmap: an I/O error would be a signal that kills
the process. No automatic checkpoint: `checkpoint` does it between commits."""

PAGE_BYTES = 4096
"""Of a new file. Measured, inline payloads of 4 KiB: 5.0 KB of file and of log for each, and 8.6 KB with pages of 8192 bytes,
each of which holds one."""

_WRITER_CACHE_KIB = 8 * 1024
"""A group of 512 tensors of 4 KiB is 2.6 MB of pages. SQLite's own 2 MB are full before its commit, and the pages then go to
the log one by one: 5 microseconds more for each tensor (measured)."""


def connect(path: Path, *, create: bool) -> apsw.Connection:
    """Open a connection: the one that writes, and makes the file if it is not there, or one that reads."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(turns.BUSY_TIMEOUT_MS)
    if create:
        # The page size only counts before the first table; WAL mode stays with the file.
        _run(connection, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA journal_mode = WAL;")
    _set_up(connection)
    _run(connection, f"PRAGMA cache_size = -{_WRITER_CACHE_KIB};" if create else "PRAGMA query_only = ON;")
    return connection


def connect_memory(pages_max: int) -> apsw.Connection:
    """Open a database in memory, with so many pages of `PAGE_BYTES` at most."""
    connection = apsw.Connection(":memory:")
    _run(connection, f"PRAGMA page_size = {PAGE_BYTES}; PRAGMA max_page_count = {pages_max};")
    _set_up(connection)
    return connection


def _set_up(connection: apsw.Connection) -> None:
    # Without it SQLite plans a join with a parameter anew at each execution, which takes several times as long as looking up a
    # row: 23 microseconds instead of 4 (measured). Plans would only differ where ANALYZE has run, and it never does.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    _run(connection, _PRAGMAS)


def _run(connection: apsw.Connection, statements: str) -> None:
    """Run several statements; apsw runs them only as far as their rows are asked for."""
    connection.execute(statements).fetchall()
