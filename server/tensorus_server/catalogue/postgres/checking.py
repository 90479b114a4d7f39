"""Checks whether a catalogue in PostgreSQL could be opened, in a transaction that only reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg

from tensorus_server.catalogue.postgres.address import Address
from tensorus_server.catalogue.postgres.connection import PostgresConnection
from tensorus_server.catalogue.postgres.identity import mismatch
from tensorus_server.catalogue.postgres.migrations import migrations
from tensorus_server.catalogue.postgres.pool import connect
from tensorus_server.catalogue.postgres.postgres_errors import engine_error, unavailable
from tensorus_server.catalogue.postgres.schema import require_known, require_server
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.identity_check import FoundPayloads

__all__ = ["FoundCatalogue", "check_catalogue"]

_TIMEOUT_MS = 20_000

_MEMBERS_SINCE = 2
"""The schema version that introduced members."""

_TABLES_REFUSED = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r' AND NOT (
  has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
  AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
ORDER BY relname
"""


@dataclass(frozen=True)
class FoundCatalogue:
    """What opening the catalogue would find."""

    where: str
    """The server and the database."""
    version: int
    """Of its schema; 0: it does not exist."""
    latest: int
    """The version to which opening it would migrate it."""
    members: tuple[str, ...]
    """The processes that have the store open, as HOST:PID."""


def check_catalogue(dsn: str, payloads: FoundPayloads) -> FoundCatalogue:
    """Check the catalogue and the payloads as far as that is possible without opening it.

    Raises:
        StoreUnavailableError: it could not be opened; the message says why.
    """
    address = Address.parse(dsn)
    try:
        raw = connect(address)
    except psycopg.Error as error:
        raise unavailable(error, address.where, "it cannot be reached") from error
    try:
        with raw:
            require_server(raw, address.where)
            begin = (
                f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {_TIMEOUT_MS}; "
                f'SET LOCAL search_path = "{address.schema}"'
            )
            raw.execute(begin.encode(), prepare=False)
            _require_rights(raw, address)
            version = _version(raw, address)
            require_known(address, version)
            connection = PostgresConnection(raw, begin, reads=True)
            if (refusal := mismatch(connection, address.where, payloads, is_new=version == 0)) is not None:
                raise refusal
            members = _members(connection) if version >= _MEMBERS_SINCE else ()
            raw.execute("ROLLBACK")
    except psycopg.Error as error:
        raise engine_error(error, address.where, "read") from error
    return FoundCatalogue(address.where, version, max(migrations()), members)


def _require_rights(raw: psycopg.Connection[Any], address: Address) -> None:
    """Refuse a standby, and a user who may not do what opening and using the catalogue takes."""
    if _one(raw, "SELECT pg_is_in_recovery()"):
        raise StoreUnavailableError(f"{address.where}: the server is a standby and takes no writes")
    user = _one(raw, "SELECT current_user")
    if _one(raw, "SELECT to_regnamespace(%s) IS NULL", address.schema):
        if not _one(raw, "SELECT has_database_privilege(current_database(), 'CREATE')"):
            raise StoreUnavailableError(
                f"{address.where}: the schema {address.schema} does not exist, and the user {user} may not create it"
            )
        return
    if not _one(raw, "SELECT has_schema_privilege(%s, 'USAGE')", address.schema):
        raise StoreUnavailableError(f"{address.where}: the user {user} may not use the schema {address.schema}")
    refused = raw.execute(_TABLES_REFUSED.encode(), (address.schema,)).fetchall()
    if refused:
        names = ", ".join(str(name) for (name,) in refused)
        raise StoreUnavailableError(f"{address.where}: the user {user} may not read and write the tables {names}")


def _version(raw: psycopg.Connection[Any], address: Address) -> int:
    if _one(raw, "SELECT to_regclass(%s) IS NULL", f"{address.schema}.schema_version"):
        return 0
    return int(_one(raw, "SELECT coalesce(max(version), 0) FROM schema_version"))


def _members(connection: PostgresConnection) -> tuple[str, ...]:
    statement = "SELECT name FROM member WHERE expires_us > ? ORDER BY member"
    return tuple(str(name) for (name,) in select(connection, statement, (now_us(connection),)))


def _one(raw: psycopg.Connection[Any], statement: str, *parameters: str) -> Any:  # `Any`: a value of any type
    ((value,),) = raw.execute(statement.encode(), parameters).fetchall()
    return value
