"""What the errors of SQLite, and of the system below it, mean to the engine: one table for every transaction."""

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

__all__ = ["BROKEN", "RETRY_AFTER_S", "engine_error"]

BROKEN = (apsw.IOError, apsw.CorruptError, apsw.NotADBError)
"""The disk fails, or the file is not what SQLite wrote."""

RETRY_AFTER_S = 1.0
"""What those are told who find the catalogue locked."""

_PASSING = (apsw.NoMemError, apsw.CantOpenError)
"""The system had no memory or no descriptor: nothing of the catalogue is at fault."""

_log = logging.getLogger(__name__)


def engine_error(error: apsw.Error | OSError, doing: str) -> EngineError:
    """Return the engine's error for what a transaction raised before its commit; nothing of it was written.

    Args:
        doing: what was to be done with the catalogue, such as "read".
    """
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return StoreBusyError(
            f"another program has the catalogue locked, so it cannot be {doing} now: {error}",
            retry_after_s=RETRY_AFTER_S,
        )
    if isinstance(error, apsw.FullError):
        return StorageFullError("no space is left on the catalogue's disk")
    if not isinstance(error, (*BROKEN, *_PASSING, OSError)):
        # A fault of this program, or of an extension of SQLite's: the log has where.
        _log.error("SQLite refused a statement", exc_info=error)
    return StoreUnavailableError(f"the catalogue cannot be {doing}: {error}")
