"""The schema of the catalogue: numbered migrations, each of which runs once."""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite.migration_steps import STEPS
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["apply_migrations", "migrations", "require_current_schema", "require_known", "schema_version"]


def schema_version(connection: apsw.Connection) -> int:
    """Return the schema's version within the connection's transaction; 0: the database is new.

    Raises:
        StoreUnavailableError: the schema is newer than this version of Tensorus.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_us INTEGER NOT NULL) STRICT"
    )
    return _known_version(connection)


def require_current_schema(connection: apsw.Connection) -> int:
    """Return the schema's version, which must be the latest one, within the connection's transaction. Writes nothing.

    Raises:
        StoreUnavailableError: it is older or newer, or the file is no catalogue.
    """
    latest = max(migrations())
    try:
        current = _known_version(connection)
    except apsw.SQLError as error:
        raise StoreUnavailableError("catalogue.db is empty, or not a catalogue of Tensorus") from error
    if current < latest:
        raise StoreUnavailableError(
            f"the catalogue has schema version {current}, and this version of Tensorus reads version {latest}. It must be "
            "migrated, which needs a disk that can be written: open the store, or a copy of its folder, once for writing, for "
            "example with `tensorus ls --store DIR`. Or read it with the version that wrote it"
        )
    return current


def _known_version(connection: apsw.Connection) -> int:
    current = int(str(connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").get))
    require_known(current)
    return current


def require_known(version: int) -> None:
    """Refuse a schema that is newer than this version of Tensorus.

    Raises:
        StoreUnavailableError: it is.
    """
    latest = max(migrations())
    if version > latest:
        raise StoreUnavailableError(
            f"the catalogue has schema version {version}, this version of Tensorus knows up to {latest}; "
            "open it with the version that wrote it, or a newer one"
        )


def apply_migrations(connection: apsw.Connection, current: int) -> None:
    """Migrate the schema within the connection's transaction, which also records the migrations that ran."""
    steps = migrations()
    for version in sorted(steps):
        if version > current:
            # A migration has several statements. apsw runs them lazily, so all rows must be fetched.
            connection.execute(steps[version]).fetchall()
            if version in STEPS:
                STEPS[version](connection)
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (version, time.time_ns() // 1000))


@cache
def migrations() -> Mapping[int, str]:
    """Return the migrations by version: forward only, all in one transaction when the catalogue is opened."""
    folder = resources.files("tensorus_server.catalogue.sqlite") / "migrations"
    return {int(file.name[:4]): file.read_text() for file in folder.iterdir() if file.name.endswith(".sql")}
