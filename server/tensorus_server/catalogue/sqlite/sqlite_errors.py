"""Maps errors of SQLite and of the operating system to errors of the engine, for all transactions."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import apsw

from tensorus_server.errors import (
    StorageFullError,
    StoreBusyError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from tensorus_server.errors import EngineError

__all__ = ["BROKEN", "RETRY_AFTER_S", "UNREADABLE", "engine_error"]

BROKEN = (apsw.IOError, apsw.CorruptError, apsw.NotADBError)
"""The disk fails, or the file is damaged."""

UNREADABLE = (apsw.CorruptError, UnicodeDecodeError)
"""Errors from reading a row with a damaged page, or with text that is not UTF-8. The statement then returns no rows."""

RETRY_AFTER_S = 1.0
"""When clients are told to retry if the catalogue is locked."""

_TRANSIENT = (apsw.NoMemError, apsw.CantOpenError)
"""The system had no memory or no descriptor left; the catalogue itself is fine."""

_log = logging.getLogger(__name__)


def engine_error(error: apsw.Error | OSError, doing: str) -> EngineError:
    """Return the engine's error for an error that a transaction raised before its commit, so that nothing was written.

    Args:
        doing: what the transaction was to do with the catalogue, as a participle: "read" or "written".
    """
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusyError(
            f"another program has the catalogue locked, so it cannot be {doing} now: {error}",
            retry_after_s=RETRY_AFTER_S,
        )
    if isinstance(error, apsw.FullError):
        return StorageFullError("no space is left on the catalogue's disk")
    if not isinstance(error, (*BROKEN, *_TRANSIENT, OSError)):
        # Probably a bug in this program, so the log gets the stack.
        _log.error("SQLite refused a statement", exc_info=error)
    return StoreUnavailableError(f"the catalogue cannot be {doing}: {error}")
