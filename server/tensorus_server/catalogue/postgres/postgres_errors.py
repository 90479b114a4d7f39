"""Maps errors of PostgreSQL to errors of the engine, for all transactions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from psycopg import errors

from tensorus_server.errors import (
    LimitExceededError,
    StorageFullError,
    StoreBusyError,
    StoreUnavailableError,
)
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    import psycopg

    from tensorus_server.errors import EngineError

__all__ = ["RETRY_AFTER_S", "UNREADABLE", "engine_error", "unavailable"]

RETRY_AFTER_S = 1.0
"""When clients are told to retry."""

UNREADABLE = (errors.DataCorrupted, errors.IndexCorrupted, UnicodeDecodeError)
"""A page or an index is damaged, or a text is not UTF-8."""

_BUSY = (errors.LockNotAvailable, errors.DeadlockDetected, errors.SerializationFailure)

_PERMANENT = (
    errors.InvalidPassword,
    errors.InvalidAuthorizationSpecification,
    errors.InvalidCatalogName,
    errors.InsufficientPrivilege,
    errors.ProgrammingError,
)
"""A retry does not help."""

_PERMANENT_TEXT = ("password", "authentication failed", "does not exist", "no pg_hba.conf entry", "fe_sendauth")
"""Parts of messages for a connection that is refused for good. libpq gives no code for these."""

_log = logging.getLogger(__name__)


def engine_error(error: psycopg.Error, where: str, doing: str) -> EngineError:
    """Return the engine's error for an error that a transaction raised before its commit, so that nothing was written.

    Args:
        where: the server and the database, for the message.
        doing: what the transaction was to do with the catalogue, as a participle: "read" or "written".
    """
    if isinstance(error, errors.QueryCanceled) and doing == "read":
        return LimitExceededError(
            f"a statement ran for longer than {STATEMENT_TIMEOUT_S} s (statement_timeout_s)",
            limit=STATEMENT_TIMEOUT_S,
        )
    if isinstance(error, _BUSY):
        return StoreBusyError(
            f"{where} is busy, so the catalogue cannot be {doing} now: {_text(error)}", retry_after_s=RETRY_AFTER_S
        )
    if isinstance(error, errors.DiskFull):
        return StorageFullError(f"{where}: no space is left on the catalogue's disk")
    if isinstance(error, (errors.ProgrammingError, errors.DataError)) and not isinstance(error, _PERMANENT[:4]):
        # Probably a bug in this program, so the log gets the stack.
        _log.error("PostgreSQL refused a statement", exc_info=error)
    return unavailable(error, where, f"the catalogue cannot be {doing}")


def unavailable(error: psycopg.Error, where: str, what: str) -> StoreUnavailableError:
    """Return the error for a server that does not do what it should, with when to retry if that helps."""
    text = _text(error)
    message = f"{where}: {what}: {text}"
    if isinstance(error, _PERMANENT) or (error.sqlstate is None and any(part in text for part in _PERMANENT_TEXT)):
        return StoreUnavailableError(message)
    return StoreUnavailableError(message, retry_after_s=RETRY_AFTER_S)


def _text(error: psycopg.Error) -> str:
    """Return the first line of an error, without details, which may have values of rows."""
    return error.diag.message_primary or (str(error).strip().splitlines() or [type(error).__name__])[0]
