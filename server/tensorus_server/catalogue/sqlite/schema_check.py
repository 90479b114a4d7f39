"""Compares the schema in a catalogue's file with the one that this version makes: a flipped bit there is damage, too.

SQLite keeps tables and indexes as the text of the statements that made them, and believes whatever it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite.database import select
from tensorus_server.catalogue.sqlite.schema import apply_migrations, schema_version
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.sqlite.transactions import Transactions

__all__ = ["require_schema"]

_SCHEMA = "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'"


def require_schema(database: Transactions) -> None:
    """Refuse a catalogue whose schema is not what the migrations make.

    Raises:
        StoreUnavailableError: it is not; names what differs.
    """
    connection = apsw.Connection(":memory:")
    try:
        connection.execute("BEGIN")
        apply_migrations(connection, schema_version(connection))
        expected = set(select(connection, _SCHEMA))
    finally:
        connection.close()
    try:
        with database.read() as connection:
            found = set(select(connection, _SCHEMA))
    except UnicodeDecodeError as error:
        raise StoreUnavailableError(f"the catalogue's schema is damaged: {error}") from error
    if found != expected:
        differing = sorted({str(name) for _, name, *_ in found ^ expected})
        raise StoreUnavailableError(
            f"the catalogue's schema is damaged, at {', '.join(differing)}: restore the catalogue, or run `tensorus recover`"
        ) from apsw.CorruptError("the schema is not what was written")
