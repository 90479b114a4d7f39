"""The identity of a store whose catalogue is in PostgreSQL.

As with SQLite, catalogue and payloads have the same random id, and an epoch that only increases; see
`catalogue/identity_check.py`. SQLite raises the epoch at the first commit after each checkpoint, to notice that its log was
lost. PostgreSQL takes care of its own log, and several processes commit at once, so the epoch is raised rarely: whenever a
process opens the catalogue, and once a day. That suffices to notice that an older backup of the database was restored next to
newer payloads, if it is older than the last of these events. A younger one is not noticed.

The epoch is committed first, and then written next to the payloads. Two processes may write theirs in the wrong order; then the
payloads' epoch is too low for a while, which is harmless.
"""

from __future__ import annotations

import secrets
from itertools import islice
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sql.garbage import is_orphan
from tensorus_server.catalogue.sql.statements import now_us, select
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import StoreIdentity

if TYPE_CHECKING:
    from tensorus_server.catalogue.identity_check import FoundPayloads, Payloads
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["RAISED_EVERY_S", "mismatch", "raise_if_due", "settle"]

RAISED_EVERY_S = 86400.0

_LOOKED_AT = 1000
"""Payloads that are looked at if they have no identity: a page of a listing."""

_UNKNOWN_MAX = 0.1
"""Share of these that may be unknown to the catalogue. A crash leaves a few."""

_RAISE = "UPDATE store SET epoch = epoch + 1, raised_us = ?1"


def settle(
    connection: Connection, where: str, payloads: Payloads | None, *, is_new: bool, accept_loss: bool
) -> StoreIdentity:
    """Create or check the store's identity, raise its epoch, and return it, within the transaction that opens the catalogue.

    Args:
        where: the server and the database, for the message.
        payloads: the chunk store; None: that is not checked.
        is_new: whether the catalogue was created in this transaction.
        accept_loss: if the two do not match, give the store a new id rather than refuse it.

    Raises:
        StoreUnavailableError: they do not match.
    """
    now = now_us(connection)
    if is_new:
        insert = "INSERT INTO store (id, epoch, raised_us, listed_us) VALUES (?, 0, ?, ?)"
        connection.execute(insert, (secrets.token_hex(16), now, now))
    refusal = None if payloads is None else mismatch(connection, where, payloads, is_new=is_new)
    if refusal is not None and not accept_loss:
        raise refusal
    if refusal is not None:
        connection.execute("UPDATE store SET id = ?", (secrets.token_hex(16),))
    return _identity(select(connection, f"{_RAISE} RETURNING id, epoch", (now,)))


def mismatch(
    connection: Connection, where: str, payloads: FoundPayloads, *, is_new: bool
) -> StoreUnavailableError | None:
    """Return the error if catalogue and payloads do not match; None: they do. Changes nothing.

    Args:
        where: the server and the database, for the message.
        is_new: whether the catalogue is new, or has no tables yet.
    """
    problem = _problem(connection, payloads, is_new=is_new)
    if problem is None:
        return None
    return StoreUnavailableError(
        f"{where}: the store is not opened, so that nothing of it is lost: {problem}. Nothing was changed. Restore "
        "the database that belongs to the payloads, or name the one that does. If it is lost, `tensorus recover` with "
        "the same --catalogue and --chunks rebuilds the rows of large tensors, and `tensorus gc --accept-loss` goes on "
        "without them"
    )


def raise_if_due(connection: Connection) -> StoreIdentity | None:
    """Raise the epoch within a transaction, if no process has for a day, and return the identity; None: it was not due."""
    due = f"{_RAISE} WHERE raised_us <= ?1 - ?2 RETURNING id, epoch"
    rows = select(connection, due, (now_us(connection), int(RAISED_EVERY_S * 1e6)))
    return _identity(rows) if rows else None


def _identity(rows: list[tuple[str, int]]) -> StoreIdentity:
    ((store_id, epoch),) = rows
    return StoreIdentity(store_id, epoch)


def _problem(connection: Connection, payloads: FoundPayloads, *, is_new: bool) -> str | None:
    """Return why catalogue and payloads do not match; None: they do."""
    found = payloads.read_identity()
    if found is None:
        keys = [stored.key for stored in islice(payloads.published(), _LOOKED_AT)]
        unknown = len(keys) if is_new else sum(is_orphan(connection, key) for key in keys)
        if unknown > len(keys) * _UNKNOWN_MAX:
            return f"of {len(keys)} payloads that were looked at, the catalogue does not know {unknown}"
        if not keys and not is_new and select(connection, "SELECT 1 FROM tensor WHERE inline = 0 LIMIT 1"):
            return "the catalogue has tensors with payloads, and there are no payloads"
        return None
    if is_new:
        return f"there are payloads of store {found.id}, and the catalogue was empty"
    ours = _identity(select(connection, "SELECT id, epoch FROM store"))
    if ours.id != found.id:
        return f"the catalogue is of store {ours.id}, and the payloads are of store {found.id}"
    if ours.epoch < found.epoch:
        return f"the catalogue is older than its payloads: it is at epoch {ours.epoch}, the payloads are at epoch {found.epoch}"
    return None
