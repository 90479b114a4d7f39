"""The tables of access. Each row has a checksum over all of its columns; one that does not match is left out of the state."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tensorus_server.access.quotas import Quota, Usage
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.access.state import AccessState
from tensorus_server.access.tokens import Token
from tensorus_server.catalogue.abc import AccessTable
from tensorus_server.catalogue.sql.dataset_rows import dataset_number
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, row_checksum
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import AlreadyExistsError, LimitExceededError
from tensorus_server.limits import GRANTS_MAX, TOKENS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["SqlAccessTable", "set_owner"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Table:
    """A table whose rows have a checksum after these columns."""

    name: str
    columns: str
    types: str
    """See `row_checksum`."""


_TOKEN = _Table("access_token", "id, principal, note, digest, created_us, expires_us, revoked_us, scopes", "ttttqqqt")
_GRANT = _Table("access_grant", "principal, role, pattern", "tqt")
_THIS_GRANT = "WHERE principal = ? AND role = ? AND pattern = ?"
_QUOTA = _Table("access_quota", "principal, stored_bytes, tensors, streams, calls_per_s, bytes_per_s", "tqqqdq")
_OWNER = _Table("dataset_owner", "ds, principal", "qt")

_CHANGED = """
INSERT INTO access_change (id, version) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET version = access_change.version + 1
"""

_OWNED = (
    "SELECT ds, principal, o.row_checksum FROM dataset d JOIN dataset_owner o USING (ds) WHERE d.deleted_us IS NULL"
)
_SUMS = "SELECT coalesce(sum(stored_bytes), 0), count(*) FROM tensor WHERE ds = ?"


class SqlAccessTable(AccessTable):
    """See `AccessTable`."""

    def __init__(self, database: Transactions) -> None:
        """Use `database`."""
        self._database = database

    def version(self) -> int:
        """See `AccessTable`."""
        with self._database.read() as connection:
            return _version(connection)

    def state(self) -> AccessState:
        """See `AccessTable`."""
        damaged: list[str] = []
        with self._database.read() as connection:
            return AccessState(
                version=_version(connection),
                tokens=_read(connection, _TOKEN, _to_token, damaged),
                grants=_read(connection, _GRANT, _to_grant, damaged),
                quotas=_read(connection, _QUOTA, _to_quota, damaged),
                damaged=tuple(damaged),
            )

    def add_token(self, token: Token) -> None:
        """See `AccessTable`."""
        with self._database.write() as connection:
            _require_room(connection, "access_token", TOKENS_MAX, "tokens")
            if select(connection, "SELECT 1 FROM access_token WHERE id = ?", (token.id,)):
                raise AlreadyExistsError(f"a token with the id {token.id} exists already")
            _insert_token(connection, token)
            connection.execute(_CHANGED)

    def revoke_token(self, token_id: str, revoked_us: int) -> Token | None:
        """See `AccessTable`."""
        with self._database.write() as connection:
            rows = select(connection, f"SELECT {_TOKEN.columns} FROM access_token WHERE id = ?", (token_id,))
            if not rows:
                return None
            # A damaged token is revoked, too. What cannot be read of it does not matter any more.
            token = _to_revoked(rows[0], revoked_us)
            connection.execute("DELETE FROM access_token WHERE id = ?", (token_id,))
            _insert_token(connection, token)
            connection.execute(_CHANGED)
        return token

    def forget_tokens(self, before_us: int) -> int:
        """See `AccessTable`."""
        condition = "expires_us < ?1 OR revoked_us < ?1"
        with self._database.read() as connection:
            if not select(connection, f"SELECT 1 FROM access_token WHERE {condition} LIMIT 1", (before_us,)):
                return 0
        with self._database.write() as connection:
            connection.execute(f"DELETE FROM access_token WHERE {condition}", (before_us,))
            deleted = connection.changes()
            connection.execute(_CHANGED)
        return deleted

    def add_grant(self, grant: Grant) -> bool:
        """See `AccessTable`."""
        with self._database.write() as connection:
            columns = _of_grant(grant)
            statement = f"SELECT {_GRANT.columns}, row_checksum FROM access_grant {_THIS_GRANT}"
            if any(row[-1] == row_checksum(_GRANT.types, row[:-1]) for row in select(connection, statement, columns)):
                return False
            _require_room(connection, "access_grant", GRANTS_MAX, "grants")
            # A damaged row may be in its place.
            _delete_grant(connection, columns)
            _insert(connection, _GRANT, columns)
            connection.execute(_CHANGED)
        return True

    def remove_grant(self, grant: Grant) -> bool:
        """See `AccessTable`."""
        with self._database.write() as connection:
            if not _delete_grant(connection, _of_grant(grant)):
                return False
            connection.execute(_CHANGED)
        return True

    def set_quota(self, quota: Quota) -> None:
        """See `AccessTable`."""
        columns = (
            *(quota.principal, quota.stored_bytes, quota.tensors, quota.streams, quota.calls_per_s),
            quota.bytes_per_s,
        )
        with self._database.write() as connection:
            connection.execute("DELETE FROM access_quota WHERE principal = ?", (quota.principal,))
            if any(limit is not None for limit in columns[1:]):
                _insert(connection, _QUOTA, columns)
            connection.execute(_CHANGED)

    def set_owner(self, dataset: str, principal: str) -> None:
        """See `AccessTable`."""
        with self._database.write() as connection:
            set_owner(connection, dataset_number(connection, dataset), principal)
            connection.execute(_CHANGED)

    def owner_of(self, dataset: str) -> str:
        """See `AccessTable`."""
        with self._database.read() as connection:
            rows = select(connection, f"{_OWNED} AND d.name = ?", (dataset,))
        return next((principal for _, principal in _intact_owners(rows)), "")

    def usage(self, principals: Sequence[str]) -> Mapping[str, Usage]:
        """See `AccessTable`."""
        wanted = set(principals)
        found: dict[str, Usage] = {}
        with self._database.snapshot() as connection:
            for ds, principal in _intact_owners(select(connection, _OWNED)):
                if principal in wanted:
                    ((stored_bytes, tensors),) = select(connection, _SUMS, (ds,))
                    before = found.get(principal, Usage())
                    found[principal] = Usage(before.stored_bytes + int(stored_bytes), before.tensors + int(tensors))
        return found


def set_owner(connection: Connection, ds: int, principal: str) -> None:
    """Set the owner of the dataset with a number, within a transaction; an empty principal: it has none."""
    connection.execute("DELETE FROM dataset_owner WHERE ds = ?", (ds,))
    if principal:
        _insert(connection, _OWNER, (ds, principal))


def _version(connection: Connection) -> int:
    rows = select(connection, "SELECT version FROM access_change WHERE id = 1")
    return int(rows[0][0]) if rows else 0


def _read(
    connection: Connection, table: _Table, convert: Callable[[tuple[Any, ...]], T], damaged: list[str]
) -> tuple[T, ...]:
    """Return the intact rows of a table; name the others in `damaged`."""
    try:
        rows = select(connection, f"SELECT {table.columns}, row_checksum FROM {table.name} ORDER BY 1, 2, 3")
    except connection.unreadable as error:
        damaged.append(f"the table {table.name}: {type(error).__name__}")
        return ()
    found: list[T] = []
    for *values, checksum in rows:
        try:
            if row_checksum(table.types, values) != checksum:
                damaged.append(f"the row {values[0]!r} of {table.name}")
                continue
            found.append(convert(tuple(values)))
        except MALFORMED as error:
            damaged.append(f"the row {values[0]!r} of {table.name}: {type(error).__name__}")
    return tuple(found)


def _intact_owners(rows: Sequence[tuple[Any, ...]]) -> list[tuple[int, str]]:
    found = []
    for ds, principal, checksum in rows:
        try:
            if row_checksum(_OWNER.types, (ds, principal)) == checksum:
                found.append((ds, principal))
        except MALFORMED:
            continue
    return found


def _insert(connection: Connection, table: _Table, values: Sequence[Any]) -> None:
    marks = ", ".join("?" * (len(values) + 1))
    statement = f"INSERT INTO {table.name} ({table.columns}, row_checksum) VALUES ({marks})"
    connection.execute(statement, (*values, row_checksum(table.types, values)))


def _insert_token(connection: Connection, token: Token) -> None:
    scopes = None if token.scopes is None else json.dumps([[int(one.role), one.pattern] for one in token.scopes])
    values = (
        *(token.id, token.principal, token.note, token.digest, token.created_us, token.expires_us, token.revoked_us),
        scopes,
    )
    _insert(connection, _TOKEN, values)


def _to_token(row: tuple[Any, ...]) -> Token:
    token_id, principal, note, digest, created_us, expires_us, revoked_us, scopes = row
    return Token(
        id=token_id,
        principal=principal,
        note=note,
        digest=bytes(digest),
        created_us=created_us,
        expires_us=expires_us,
        revoked_us=revoked_us,
        scopes=None if scopes is None else tuple(Scope(Role(role), pattern) for role, pattern in json.loads(scopes)),
    )


def _to_revoked(row: tuple[Any, ...], revoked_us: int) -> Token:
    """Return the token of a row, perhaps damaged, as one that is revoked."""
    *values, was_revoked_us, _ = row
    token_id, principal, note, digest, created_us, expires_us = values
    return Token(
        id=token_id,
        principal=str(principal),
        note=str(note),
        digest=bytes(digest) if isinstance(digest, bytes) else b"",
        created_us=created_us if isinstance(created_us, int) else 0,
        expires_us=expires_us if isinstance(expires_us, int) else None,
        revoked_us=was_revoked_us if isinstance(was_revoked_us, int) else revoked_us,
    )


def _of_grant(grant: Grant) -> tuple[str, int, str]:
    return grant.principal, int(grant.scope.role), grant.scope.pattern


def _to_grant(row: tuple[Any, ...]) -> Grant:
    principal, role, pattern = row
    return Grant(principal, Scope(Role(role), pattern))


def _delete_grant(connection: Connection, columns: tuple[str, int, str]) -> bool:
    connection.execute(f"DELETE FROM access_grant {_THIS_GRANT}", columns)
    return bool(connection.changes())


def _to_quota(row: tuple[Any, ...]) -> Quota:
    principal, stored_bytes, tensors, streams, calls_per_s, bytes_per_s = row
    return Quota(principal, stored_bytes, tensors, streams, calls_per_s, bytes_per_s)


def _require_room(connection: Connection, table: str, limit: int, what: str) -> None:
    ((count,),) = select(connection, f"SELECT count(*) FROM {table}")
    if count >= limit:
        raise LimitExceededError(f"the store has {count} {what}, limit is {limit}", limit=limit)
