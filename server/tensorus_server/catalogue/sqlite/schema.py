"""The schema of the catalogue: numbered migrations, each of which runs once."""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite.migration_steps import STEPS
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import apsw

__all__ = ["apply_migrations", "migrations", "require_known", "schema_version"]


def schema_version(connection: apsw.Connection) -> int:
    """Return the schema's version within the connection's transaction; 0: the database is new.

    Raises:
        StoreUnavailableError: the schema is newer than this version of Tensorus.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_us INTEGER NOT NULL) STRICT"
    )
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
