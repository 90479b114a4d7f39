"""Checks whether a catalogue could be opened, without changing it: neither its files nor those that SQLite keeps beside it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite.connection import connect_to_read, is_quiet
from tensorus_server.catalogue.sqlite.opening import require_no_payloads, require_payloads
from tensorus_server.catalogue.sqlite.requirements import require_safe_sqlite
from tensorus_server.catalogue.sqlite.schema import migrations, require_known
from tensorus_server.catalogue.sqlite.schema_check import require_schema
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.catalogue.identity_check import FoundPayloads
    from tensorus_server.catalogue.sqlite.connection import SqliteConnection

__all__ = ["check_catalogue"]


def check_catalogue(folder: Path, payloads: FoundPayloads) -> tuple[int, int]:
    """Check the catalogue in a folder and its payloads as far as that is possible without opening it.

    Returns:
        The version of its schema, 0 if it does not exist, and the version to which opening it would migrate it.

    Raises:
        StoreUnavailableError: it could not be opened; the message says why.
    """
    require_safe_sqlite()
    path, latest = folder / "catalogue.db", max(migrations())
    require_no_payloads(path, payloads)
    if not path.exists() or path.stat().st_size == 0:
        return 0, latest
    try:
        with closing(connect_to_read(path, immutable=is_quiet(path))) as connection:
            connection.execute("BEGIN")
            version = _version(connection)
            require_known(version)
            require_payloads(folder, connection, version, payloads)
            if version == latest:
                require_schema(connection)
    except (apsw.Error, OSError, UnicodeDecodeError) as error:
        raise StoreUnavailableError(f"the catalogue {path} cannot be opened: {error}") from error
    return version, latest


def _version(connection: SqliteConnection) -> int:
    if not select(connection, "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_version'"):
        return 0
    ((version,),) = select(connection, "SELECT coalesce(max(version), 0) FROM schema_version")
    return int(version)
