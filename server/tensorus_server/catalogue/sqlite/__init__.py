"""The catalogue in SQLite."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sql.catalogue import SqlCatalogue
from tensorus_server.catalogue.sql.numbers import is_counter_damaged, mend_counter
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.catalogue.sqlite.index_check import IndexCheck
from tensorus_server.catalogue.sqlite.memory_database import MemoryDatabase
from tensorus_server.catalogue.sqlite.schema_check import require_schema
from tensorus_server.catalogue.sqlite.sqlite_errors import UNREADABLE
from tensorus_server.errors import EngineError, StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.catalogue.identity_check import Payloads

__all__ = ["SqliteCatalogue"]

_log = logging.getLogger(__name__)


class SqliteCatalogue(SqlCatalogue):
    """A catalogue in one database, which is a file in WAL mode that is synced at every commit, or is in memory."""

    def __init__(
        self,
        folder: Path | None,
        *,
        payloads: Payloads | None = None,
        accept_loss: bool = False,
        delete_grace_s: float = 3600.0,
        upload_expiry_s: float = 3600.0,
    ) -> None:
        """Open the catalogue in `folder`, or create it, and migrate its schema.

        Args:
            folder: the store's folder; must exist, on a local file system. None: the catalogue is in memory until it is closed.
            payloads: the chunk store, which must belong to the same store; None: that is not checked.
            accept_loss: see `EngineConfig`.
            delete_grace_s: how long a deleted tensor's payload stays: at least as long as the longest Get.
            upload_expiry_s: how long after its last mark an upload can be resumed.

        Raises:
            StoreUnavailableError: a newer version wrote the catalogue, it does not match the payloads, it is damaged, the
                SQLite library is unsafe, or the file system is remote.
        """
        self._index_check: IndexCheck | None = None
        if folder is None:
            self._database: Database | MemoryDatabase = MemoryDatabase()
        else:
            self._database = _open(folder, payloads, accept_loss=accept_loss)
            _mend_counter(self._database)
            self._index_check = IndexCheck(self._database)
        super().__init__(self._database, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s)

    def check_present(self) -> None:
        """See `Catalogue`."""
        self._database.check_folder()
        self._database.check_writable()

    def maintain(self, *, idle: bool) -> None:
        """Checkpoint the log if it has grown, or if idle."""
        self._database.checkpoint(idle=idle)

    def close(self, timeout_s: float = 30.0) -> None:
        """See `Catalogue`. Checkpoints first."""
        if self._index_check is not None:
            self._index_check.close(timeout_s)
        self._database.close(timeout_s)


def _mend_counter(database: Database) -> None:
    """Raise a damaged counter of generations. A catalogue in which that fails still reads."""
    try:
        with database.read() as connection:
            is_damaged = is_counter_damaged(connection)
        if is_damaged:
            _log.warning("the catalogue is damaged: its counter of generations is raised")
            with database.write() as connection:
                mend_counter(connection)
    except (EngineError, *UNREADABLE) as error:
        _log.error("the counter of generations cannot be checked: %s", error)


def _open(folder: Path, payloads: Payloads | None, *, accept_loss: bool) -> Database:
    try:
        database = Database(folder, payloads, accept_loss=accept_loss)
    except (apsw.SQLError, UnicodeDecodeError) as error:
        raise StoreUnavailableError(f"the catalogue in {folder} cannot be opened: {error}") from error
    try:
        with database.read() as connection:
            require_schema(connection)
    except BaseException:
        database.close()
        raise
    return database
