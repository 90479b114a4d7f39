"""The tables of tokens, grants, quotas and owners."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tensorus_server.access.quotas import Quota
from tensorus_server.access.rights import require_pattern, require_principal
from tensorus_server.access.state import AccessState
from tensorus_server.catalogue.abc import AccessTable
from tensorus_server.catalogue.sql.access_rows import GRANTS, OWNERS, QUOTAS, TOKENS
from tensorus_server.catalogue.sql.damage import as_damage
from tensorus_server.catalogue.sql.dataset_rows import dataset_number
from tensorus_server.catalogue.sql.owners import count_again, find_owner, give_to, usage_of
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.errors import AlreadyExistsError, DataCorruptError, InvalidRequestError, LimitExceededError
from tensorus_server.limits import GRANTS_MAX, QUOTAS_MAX, TOKEN_NOTE_BYTES_MAX, TOKEN_SCOPES_MAX, TOKENS_MAX

if TYPE_CHECKING:
    from collections.abc import Collection

    from tensorus_server.access.quotas import Usage
    from tensorus_server.access.rights import Grant
    from tensorus_server.access.tokens import Token
    from tensorus_server.catalogue.sql.access_rows import Kind
    from tensorus_server.catalogue.sql.connection import Connection
    from tensorus_server.catalogue.sql.transactions import Transactions

__all__ = ["SqlAccessTable"]

_RAISE_VERSION = f"""
INSERT INTO access_version (one, version) VALUES (1, 1) ON CONFLICT (one) DO UPDATE SET
  version = CASE WHEN access_version.version BETWEEN 0 AND {2**62} THEN access_version.version + 1 ELSE 1 END
"""
"""A damaged version must not keep changes from being made."""

_FORGET = "DELETE FROM token WHERE id = ?"

_INTEGER_MAX = 2**63 - 1


class SqlAccessTable(AccessTable):
    """See `AccessTable`."""

    def __init__(self, database: Transactions) -> None:
        """Use `database`, which has the schema."""
        self._database = database

    def version(self) -> int:
        """See `AccessTable`."""
        with self._database.read() as connection, as_damage(connection):
            return _version(connection)

    def state(self) -> AccessState:
        """See `AccessTable`."""
        damaged: list[str] = []
        with self._database.read() as connection, as_damage(connection):
            version = _version(connection)
            tokens = TOKENS.all(connection, damaged)
            grants = GRANTS.all(connection, damaged)
            quotas = QUOTAS.all(connection, damaged)
            OWNERS.all(connection, damaged)
        return AccessState(version, tokens, grants, quotas, tuple(damaged))

    def add_token(self, token: Token) -> None:
        """See `AccessTable`."""
        _require_token(token)
        with self._database.write() as connection, as_damage(connection):
            if TOKENS.find(connection, (token.id,)) is not None:
                raise AlreadyExistsError(f"there is a token with the id {token.id!r} already", token=token.id)
            _require_room(connection, TOKENS, TOKENS_MAX)
            TOKENS.put(connection, token)
            _changed(connection)

    def revoke_token(self, token_id: str, at_us: int) -> Token | None:
        """See `AccessTable`."""

        def revoke(connection: Connection) -> Token | DataCorruptError | None:
            with as_damage(connection):
                found = TOKENS.find(connection, (token_id,))
            if found is None or (not isinstance(found, DataCorruptError) and found.revoked_us is not None):
                return found
            if isinstance(found, DataCorruptError):
                TOKENS.delete(connection, (token_id,))
            else:
                found = replace(found, revoked_us=at_us)
                TOKENS.put(connection, found)
            _changed(connection)
            return found

        revoked = self._database.write_on_full_disk(revoke)
        if isinstance(revoked, DataCorruptError):
            raise DataCorruptError(f"{revoked}; it was deleted", token=token_id)
        return revoked

    def forget_tokens(self, before_us: int) -> int:
        """See `AccessTable`."""

        def forget(connection: Connection) -> int:
            with as_damage(connection):
                tokens = TOKENS.all(connection, [])
            ended = [token for token in tokens if _ended_us(token) < before_us]
            connection.executemany(_FORGET, [(token.id,) for token in ended])
            if ended:
                _changed(connection)
            return len(ended)

        return self._database.write_on_full_disk(forget)

    def add_grant(self, grant: Grant) -> bool:
        """See `AccessTable`."""
        require_principal(grant.principal)
        require_pattern(grant.scope.pattern)
        with self._database.write() as connection, as_damage(connection):
            found = GRANTS.find(connection, _key_of(grant))
            if found is None:
                _require_room(connection, GRANTS, GRANTS_MAX)
            elif not isinstance(found, DataCorruptError):
                return False
            GRANTS.put(connection, grant)
            _changed(connection)
        return True

    def remove_grant(self, grant: Grant) -> bool:
        """See `AccessTable`."""

        def remove(connection: Connection) -> bool:
            with as_damage(connection):
                removed = GRANTS.delete(connection, _key_of(grant))
            if removed:
                _changed(connection)
            return removed

        return self._database.write_on_full_disk(remove)

    def set_quota(self, quota: Quota) -> None:
        """See `AccessTable`."""
        _require_quota(quota)

        def put(connection: Connection) -> None:
            with as_damage(connection):
                found = QUOTAS.find(connection, (quota.principal,))
                if found != (None if limits_nothing else quota):
                    if limits_nothing:
                        QUOTAS.delete(connection, (quota.principal,))
                    else:
                        if found is None:
                            _require_room(connection, QUOTAS, QUOTAS_MAX)
                        QUOTAS.put(connection, quota)
                    _changed(connection)

        limits_nothing = quota == Quota(quota.principal)
        if limits_nothing:
            self._database.write_on_full_disk(put)
        else:
            with self._database.write() as connection:
                put(connection)

    def set_owner(self, dataset: str, principal: str) -> None:
        """See `AccessTable`."""
        with self._database.write() as connection, as_damage(connection, dataset):
            ds = dataset_number(connection, dataset)
            if principal:
                give_to(connection, ds, principal)
                count_again(connection, ds)
            elif not OWNERS.delete(connection, (ds,)):
                return
            _changed(connection)

    def owner_of(self, dataset: str) -> str:
        """See `AccessTable`."""
        with self._database.read() as connection, as_damage(connection, dataset):
            return find_owner(connection, dataset_number(connection, dataset))

    def usage(self, principals: Collection[str]) -> dict[str, Usage]:
        """See `AccessTable`."""
        with self._database.read() as connection, as_damage(connection):
            return usage_of(connection, principals)


def _version(connection: Connection) -> int:
    rows = select(connection, "SELECT version FROM access_version WHERE one = 1")
    return int(rows[0][0]) if rows else 0


def _changed(connection: Connection) -> None:
    connection.execute(_RAISE_VERSION)


def _key_of(grant: Grant) -> tuple[str, str, int]:
    return grant.principal, grant.scope.pattern, int(grant.scope.role)


def _ended_us(token: Token) -> float:
    """Return when a token was revoked or expired, whichever came first; infinity: neither."""
    return min(
        math.inf if token.revoked_us is None else token.revoked_us,
        math.inf if token.expires_us is None else token.expires_us,
    )


def _require_room(connection: Connection, kind: Kind[Any], most: int) -> None:
    """Check that one more row fits.

    Raises:
        LimitExceededError: there are `most` already.
    """
    if kind.count(connection) >= most:
        raise LimitExceededError(
            f"the store has {most:,} {kind.noun}s, which is the limit ({kind.noun}s_max)", limit=most
        )


def _require_token(token: Token) -> None:
    """Check what is not checked by the types.

    Raises:
        LimitExceededError, InvalidNameError, InvalidRequestError: names the value and the limit.
    """
    require_principal(token.principal)
    note_bytes = len(token.note.encode(errors="replace"))
    if note_bytes > TOKEN_NOTE_BYTES_MAX:
        raise LimitExceededError(
            f"note is {note_bytes} bytes, limit is {TOKEN_NOTE_BYTES_MAX} bytes (token_note_bytes_max)",
            limit=TOKEN_NOTE_BYTES_MAX,
        )
    if not token.note.isprintable():
        raise InvalidRequestError(f"note is {token.note!r}, must be one line of printable text")
    scopes = token.scopes or ()
    if len(scopes) > TOKEN_SCOPES_MAX:
        raise LimitExceededError(
            f"number of scopes is {len(scopes)}, limit is {TOKEN_SCOPES_MAX} (token_scopes_max)", limit=TOKEN_SCOPES_MAX
        )
    for scope in scopes:
        require_pattern(scope.pattern)


def _require_quota(quota: Quota) -> None:
    """Check what is not checked by the types.

    Raises:
        InvalidNameError, InvalidRequestError: names the value and the rule.
    """
    require_principal(quota.principal)
    for name in ("stored_bytes", "tensors", "streams", "calls_per_s", "bytes_per_s"):
        limit = getattr(quota, name)
        # NaN is in no range.
        if limit is not None and not 0 <= limit <= _INTEGER_MAX:
            raise InvalidRequestError(f"{name} of {quota.principal} is {limit}, must be from 0 to {_INTEGER_MAX}")
