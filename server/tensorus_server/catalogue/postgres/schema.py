"""The schema of the catalogue in PostgreSQL: numbered migrations, each of which runs once, and the store's identity.

Opening is one transaction under an advisory lock, so of processes that open a new catalogue at the same time one creates it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from tensorus_server.catalogue.postgres import identity
from tensorus_server.catalogue.postgres.commits import forget_old_commits
from tensorus_server.catalogue.postgres.connection import PostgresConnection
from tensorus_server.catalogue.postgres.database import lock_number
from tensorus_server.catalogue.postgres.migrations import migrations
from tensorus_server.catalogue.postgres.pool import connect
from tensorus_server.catalogue.postgres.postgres_errors import engine_error, unavailable
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.identity_check import Payloads
    from tensorus_server.catalogue.postgres.address import Address

__all__ = ["open_schema", "require_known", "require_server"]

_VERSION_MIN = 140000
"""PostgreSQL 14 is the oldest version that is still maintained."""

_LOCK_WAIT_MS = 60_000


def open_schema(address: Address, payloads: Payloads | None, *, accept_loss: bool) -> None:
    """Create the schema or migrate it, check that catalogue and payloads belong together, and raise the epoch.

    Raises:
        StoreUnavailableError: the server cannot be reached or is too old, a newer version of Tensorus wrote the catalogue, or
            it does not match the payloads.
        StoreBusyError: another process has been opening it for too long.
    """
    try:
        raw = connect(address)
    except psycopg.Error as error:
        raise unavailable(error, address.where, "it cannot be reached") from error
    try:
        with raw:
            require_server(raw, address.where)
            begin = (
                f"BEGIN; SET LOCAL lock_timeout = {_LOCK_WAIT_MS}; "
                f"SELECT pg_advisory_xact_lock({lock_number(address.schema, 'migrate')})"
            )
            raw.execute(begin.encode(), prepare=False)
            is_new = _migrate(raw, address)
            connection = PostgresConnection(raw, begin, reads=False)
            found = identity.settle(connection, address.where, payloads, is_new=is_new, accept_loss=accept_loss)
            forget_old_commits(raw)
            raw.execute("COMMIT")
    except psycopg.Error as error:
        raise engine_error(error, address.where, "opened") from error
    if payloads is not None:
        # After the commit: payloads must never have an epoch that the catalogue has not.
        payloads.write_identity(found)


def require_server(raw: psycopg.Connection[Any], where: str) -> None:
    """Refuse a server or a database that cannot hold a catalogue.

    Raises:
        StoreUnavailableError: the server is too old, or the database has another encoding.
    """
    version = raw.info.server_version
    if version < _VERSION_MIN:
        raise StoreUnavailableError(
            f"{where}: the server is version {version // 10000}, {_VERSION_MIN // 10000} or newer is needed"
        )
    encoding = raw.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreUnavailableError(f"{where}: the database's encoding is {encoding}, must be UTF8")


def _migrate(raw: psycopg.Connection[Any], address: Address) -> bool:
    """Run the migrations that are missing, within a transaction; return whether the catalogue is new."""
    exists = raw.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (address.schema,)).fetchall()
    if not exists:
        raw.execute(f'CREATE SCHEMA "{address.schema}"'.encode())
    raw.execute(f'SET LOCAL search_path = "{address.schema}"'.encode())
    if not raw.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{address.schema}.schema_version",)).fetchall()[0][0]:
        raw.execute(
            "CREATE TABLE schema_version (version bigint PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())"
        )
    ((current,),) = raw.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()
    steps = migrations()
    if 0 < current < max(steps):
        # No transaction of an older version is under way, and later ones notice; see `Database`.
        raw.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number(address.schema, "write"),))
    require_known(address, current)
    for version in sorted(steps):
        if version > current:
            raw.execute(steps[version].encode(), prepare=False)
            raw.execute("INSERT INTO schema_version (version) VALUES (%s)", (version,))
    return bool(current == 0)


def require_known(address: Address, version: int) -> None:
    """Refuse a catalogue that is newer than this version of Tensorus.

    Raises:
        StoreUnavailableError: it is.
    """
    latest = max(migrations())
    if version > latest:
        raise StoreUnavailableError(
            f"{address.where}: the catalogue in schema {address.schema} has version {version}, this version of Tensorus knows "
            f"up to {latest}; open it with the version that wrote it, or a newer one"
        )
