"""Commits a transaction, and finds out whether a commit took effect if its answer was lost.

Each pooled connection has a random number, and each transaction that writes another one, its token. The commit stores the token
in the connection's row of the table `last_commit`. During the transaction the server holds an advisory lock on the connection's
number. If the connection breaks during the commit, a new connection takes that lock, so the old transaction has ended, and
reads the row: it has the token if, and only if, the commit took effect. The server notices a broken connection, so it does end.

A transaction's id, with `pg_xact_status`, would save the row. But after a failover the new server may give the same id to
another transaction, and would report that one.
"""

from __future__ import annotations

import logging
import secrets
import time
from typing import TYPE_CHECKING

import psycopg

from tensorus_server.catalogue.postgres.pool import connect
from tensorus_server.catalogue.postgres.postgres_errors import RETRY_AFTER_S
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.postgres.address import Address
    from tensorus_server.catalogue.postgres.pool import PooledConnection

__all__ = ["OUTCOME_TIMEOUT_S", "commit", "forget_old_commits"]

OUTCOME_TIMEOUT_S = 60.0
"""How long to look for the outcome of a commit: longer than a server takes to restart, or a standby to take over."""

_POLL_S = 0.25

_FORGET = "DELETE FROM last_commit WHERE at < now() - interval '1 day'"
"""Far longer than anybody asks for an outcome."""

_log = logging.getLogger(__name__)


def commit(address: Address, pooled: PooledConnection) -> None:
    """Commit the transaction in progress. Returns when it is durable.

    Raises:
        psycopg.Error: it was rolled back.
        StoreUnavailableError: the connection broke, and the commit did not take effect; or the server stays away, so that the
            outcome is unknown.
    """
    token = secrets.randbits(62)
    statements = (
        f"INSERT INTO last_commit (connection, token) VALUES ({pooled.number}, {token}) "
        "ON CONFLICT (connection) DO UPDATE SET token = excluded.token, at = excluded.at; COMMIT"
    )
    try:
        pooled.raw.execute(statements.encode(), prepare=False)
    except psycopg.Error as error:
        if not pooled.raw.closed:
            # The server has answered, and the transaction can be rolled back.
            raise
        _log.warning("the connection to %s broke during a commit: %s", address.where, error)
        if not _took_effect(address, pooled.number, token):
            raise StoreUnavailableError(
                f"{address.where}: the connection broke during a commit; nothing was written",
                retry_after_s=RETRY_AFTER_S,
            ) from error


def forget_old_commits(raw: psycopg.Connection[object]) -> None:
    """Delete the rows of connections that ended long ago, within a transaction."""
    raw.execute(_FORGET)


def _took_effect(address: Address, number: int, token: int) -> bool:
    """Whether the commit with this token, by the connection with this number, took effect."""
    give_up_s = time.monotonic() + OUTCOME_TIMEOUT_S
    while (left_s := give_up_s - time.monotonic()) > 0:
        try:
            with connect(address) as raw:
                raw.execute(
                    f'BEGIN; SET LOCAL search_path = "{address.schema}"; SET LOCAL lock_timeout = {int(left_s * 1e3) + 1}; '
                    f"SELECT pg_advisory_xact_lock({number})".encode(),
                    prepare=False,
                )
                statement = "SELECT pg_is_in_recovery(), (SELECT token FROM last_commit WHERE connection = %s)"
                ((is_standby, found),) = raw.execute(statement, (number,)).fetchall()
                if not is_standby:
                    return bool(found == token)
        except psycopg.Error as error:
            _log.warning("the outcome of a commit is not known yet: %s: %s", address.where, error)
        time.sleep(min(_POLL_S, max(give_up_s - time.monotonic(), 0.0)))
    raise StoreUnavailableError(
        f"{address.where}: the outcome of a commit is unknown, because the server has been away for {OUTCOME_TIMEOUT_S:.0f} s; "
        "a repeated call finds it",
        retry_after_s=RETRY_AFTER_S,
    )
