"""Detects damage to the schema: compares the one in a catalogue's file with the one that the migrations create.

SQLite stores the schema as the text of its CREATE statements and has no checksum for it, so a flipped bit goes unnoticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite.connection import SqliteConnection
from tensorus_server.catalogue.sqlite.schema import apply_migrations, schema_version
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["require_schema"]

_SCHEMA = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"


def require_schema(connection: Connection) -> None:
    """Refuse a catalogue whose schema differs from the one that the migrations create.

    Raises:
        StoreUnavailableError: it differs; names the tables and indexes.
    """
    in_memory = SqliteConnection(":memory:")
    try:
        in_memory.execute("BEGIN")
        apply_migrations(in_memory, schema_version(in_memory))
        expected = set(select(in_memory, _SCHEMA))
    finally:
        in_memory.close()
    try:
        found = set(select(connection, _SCHEMA))
    except UnicodeDecodeError as error:
        raise StoreUnavailableError(f"the catalogue's schema is damaged: {error}") from error
    if found != expected:
        differing = sorted({str(name) for _, name, *_ in found ^ expected})
        raise StoreUnavailableError(
            f"the catalogue's schema is damaged, at {', '.join(differing)}: restore the catalogue, or run `tensorus recover`"
        ) from apsw.CorruptError("the schema is not what was written")
