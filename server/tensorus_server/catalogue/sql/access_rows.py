"""Converts tokens, grants and quotas to rows of their tables, and back. Each row has a checksum over all its columns."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from tensorus_protos.rules import to_json
from tensorus_server.access.quotas import Quota
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.access.tokens import Token
from tensorus_server.catalogue.sql.row_checksum import MALFORMED, row_checksum
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["GRANTS", "OWNERS", "QUOTAS", "TOKENS", "Kind"]

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Kind(Generic[_Value]):
    """A table whose rows are values of one class."""

    table: str
    noun: str
    """What a row is, for people."""
    columns: dict[str, str]
    """The letter of each column for `row_checksum`, by its name, in the order of the checksum."""
    key: tuple[str, ...]
    """The columns of the primary key, which come first."""
    order: str
    columns_of: Callable[[_Value], tuple[Any, ...]]
    """Returns the columns of a value. `Any`: their types are known only to the schema."""
    value_of: Callable[..., _Value]
    """Returns the value of columns, in which texts are bytes."""

    def find(self, connection: Connection, key: Sequence[Any]) -> _Value | DataCorruptError | None:
        """Return the value with this key, or its damage; None: there is none.

        Raises:
            `connection.unreadable`: a page is damaged.
        """
        where = " AND ".join(f"{name} = ?" for name in self.key)
        for row in select(connection, f"SELECT {self._selected} FROM {self.table} WHERE {where}", key):
            return self.from_row(row)
        return None

    def all(self, connection: Connection, damaged: list[str]) -> tuple[_Value, ...]:
        """Return all intact values in order, and append to `damaged` what is wrong with the others.

        Raises:
            DataCorruptError: the table cannot be read, and the transaction cannot go on.
        """
        try:
            rows = select(connection, f"SELECT {self._selected} FROM {self.table} ORDER BY {self.order}")
        except connection.unreadable as error:
            what = f"the table of {self.noun}s cannot be read: {error}"
            if not connection.goes_on_after(error):
                raise DataCorruptError(what) from error
            damaged.append(what)
            return ()
        values = []
        for row in rows:
            found = self.from_row(row)
            if isinstance(found, DataCorruptError):
                damaged.append(str(found))
            else:
                values.append(found)
        return tuple(values)

    def from_row(self, row: Sequence[Any]) -> _Value | DataCorruptError:
        """Return the value of a row, or how it is damaged."""
        *columns, checksum = row
        try:
            found = row_checksum("".join(self.columns.values()), columns)
            if found == checksum:
                return self.value_of(*columns)
            what = f"the row's checksum is {found:#010x}, expected {checksum!r}"
        except MALFORMED as error:
            what = f"a value of the row cannot be read: {type(error).__name__}"
        named = " ".join(_shown(column) for column in columns[: len(self.key)])
        return DataCorruptError(f"the catalogue is damaged at {self.noun} {named}: {what}")

    def put(self, connection: Connection, value: _Value) -> None:
        """Insert the row of a value, or replace that with the same key."""
        columns = self.columns_of(value)
        changes = ", ".join(f"{name} = excluded.{name}" for name in (*self.columns, "row_checksum"))
        statement = (
            f"INSERT INTO {self.table} ({', '.join(self.columns)}, row_checksum) "
            f"VALUES ({', '.join('?' * len(columns))}, ?) ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {changes}"
        )
        connection.execute(statement, (*columns, row_checksum("".join(self.columns.values()), columns)))

    def delete(self, connection: Connection, key: Sequence[Any]) -> bool:
        """Delete the row with this key, damaged or not, and return whether there was one."""
        connection.execute(f"DELETE FROM {self.table} WHERE {' AND '.join(f'{name} = ?' for name in self.key)}", key)
        return bool(connection.changes())

    def count(self, connection: Connection) -> int:
        """Return the number of rows."""
        ((count,),) = select(connection, f"SELECT count(*) FROM {self.table}")
        return int(count)

    @property
    def _selected(self) -> str:
        """The columns of `from_row`. A damaged text may not be UTF-8, so texts are read as bytes."""
        named = (f"CAST({name} AS BLOB)" if kind == "t" else name for name, kind in self.columns.items())
        return ", ".join((*named, "row_checksum"))


def _shown(column: object) -> str:
    return repr(column.decode(errors="replace")) if isinstance(column, bytes) else repr(column)


def _token_columns(token: Token) -> tuple[Any, ...]:
    scopes = None if token.scopes is None else to_json([[int(scope.role), scope.pattern] for scope in token.scopes])
    times = token.created_us, token.expires_us, token.revoked_us
    return token.id, token.principal, token.note, token.digest, *times, scopes


def _token(*columns: Any) -> Token:  # `Any`: verified by the checksum
    token_id, principal, note, digest, created_us, expires_us, revoked_us, scopes = columns
    limits = None if scopes is None else tuple(Scope(Role(role), pattern) for role, pattern in json.loads(scopes))
    return Token(
        token_id.decode(), principal.decode(), note.decode(), digest, created_us, expires_us, revoked_us, limits
    )


def _grant_columns(grant: Grant) -> tuple[Any, ...]:
    return grant.principal, grant.scope.pattern, int(grant.scope.role)


def _grant(principal: bytes, pattern: bytes, role: int) -> Grant:
    return Grant(principal.decode(), Scope(Role(role), pattern.decode()))


def _quota_columns(quota: Quota) -> tuple[Any, ...]:
    # SQLite stores 0.0 for -0.0, and the checksum must cover the stored value.
    calls_per_s = None if quota.calls_per_s is None else quota.calls_per_s + 0.0
    return quota.principal, quota.stored_bytes, quota.tensors, quota.streams, calls_per_s, quota.bytes_per_s


def _quota(principal: bytes, *limits: Any) -> Quota:  # `Any`: verified by the checksum
    return Quota(principal.decode(), *limits)


TOKENS = Kind(
    "token",
    "token",
    {
        "id": "t",
        "principal": "t",
        "note": "t",
        "digest": "t",
        "created_us": "q",
        "expires_us": "q",
        "revoked_us": "q",
        "scopes": "t",
    },
    key=("id",),
    order="created_us, id",
    columns_of=_token_columns,
    value_of=_token,
)

GRANTS = Kind(
    "access_grant",
    "grant",
    {"principal": "t", "pattern": "t", "role": "q"},
    key=("principal", "pattern", "role"),
    order="principal, pattern, role",
    columns_of=_grant_columns,
    value_of=_grant,
)

QUOTAS = Kind(
    "quota",
    "quota",
    {"principal": "t", "stored_bytes": "q", "tensors": "q", "streams": "q", "calls_per_s": "d", "bytes_per_s": "q"},
    key=("principal",),
    order="principal",
    columns_of=_quota_columns,
    value_of=_quota,
)

OWNERS: Kind[tuple[int, str]] = Kind(
    "owner",
    "owner of dataset number",
    {"ds": "q", "principal": "t"},
    key=("ds",),
    order="ds",
    columns_of=tuple,
    value_of=lambda ds, principal: (ds, principal.decode()),
)
"""The number of a dataset and its owner. The sums in the same row have no checksum; see `owners.py`."""
