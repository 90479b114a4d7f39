"""A catalogue in SQLite that is open for reading only: no file of it is changed, created or locked against writers.

How SQLite may open the file depends on what is next to it, which is looked at before every transaction:

    no log, or an empty one without index    nobody writes, and everything is in the database file: it is opened as immutable,
                                             which needs neither a log nor locks
    a log with its index                     a process writes, or was killed: SQLite reads the log, too, through the index of
                                             the process that lives, or else through one that it makes in memory
    a log without its index                  refused, since SQLite would have to create the index

A process may begin to write while the file is open as immutable. It creates a log before it changes the file, so the next
transaction sees that, and what it commits. A transaction during which the file itself was changed fails: it may have read a
part of both states.

While a process writes, readers hold SQLite's shared locks during their transactions, as all readers do.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NoReturn

import apsw

from tensorus_server.catalogue.sql.catalogue import SqlCatalogue
from tensorus_server.catalogue.sqlite.connection import connect_to_read, is_quiet
from tensorus_server.catalogue.sqlite.opening import require_no_payloads, require_payloads
from tensorus_server.catalogue.sqlite.readers import Readers
from tensorus_server.catalogue.sqlite.requirements import require_local, require_safe_sqlite
from tensorus_server.catalogue.sqlite.schema import require_current_schema
from tensorus_server.catalogue.sqlite.schema_check import require_schema
from tensorus_server.catalogue.sqlite.sqlite_errors import RETRY_AFTER_S, engine_error
from tensorus_server.errors import ReadOnlyError, StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tensorus_server.catalogue.identity_check import FoundPayloads
    from tensorus_server.catalogue.sqlite.connection import SqliteConnection
    from tensorus_server.model import StoreIdentity

__all__ = ["ReadOnlySqliteCatalogue"]

_CLOSE_TIMEOUT_S = 30.0


class ReadOnlySqliteCatalogue(SqlCatalogue):
    """The catalogue of a store in a folder, for reading only."""

    read_only: ClassVar[bool] = True

    def __init__(self, folder: Path, *, payloads: FoundPayloads, delete_grace_s: float, upload_expiry_s: float) -> None:
        """Open the catalogue in `folder`; arguments as of `SqliteCatalogue`.

        Raises:
            StoreUnavailableError: there is none, it is damaged, its schema is older or newer than that of this version, it does
                not match the payloads, or it has a log that cannot be read.
        """
        self._database = _ReadOnlyDatabase(folder, payloads)
        super().__init__(self._database, delete_grace_s=delete_grace_s, upload_expiry_s=upload_expiry_s)

    def check_present(self) -> None:
        """See `Catalogue`."""
        self._database.check_writable()

    def maintain(self, *, idle: bool) -> None:
        """Do nothing: who writes maintains it."""

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """See `Catalogue`."""
        self._database.close(timeout_s)


@dataclass(frozen=True)
class _Found:
    """How the catalogue's files were found."""

    file: tuple[int, int]
    """Device and inode of the database."""
    content: tuple[int, int]
    """Its size, and when it was last written, in nanoseconds."""
    is_quiet: bool
    """Whether nobody writes it, and everything is in it."""


class _ReadOnlyDatabase:
    """Implements `Transactions`."""

    def __init__(self, folder: Path, payloads: FoundPayloads) -> None:
        require_safe_sqlite()
        require_local(folder)
        self._path = folder / "catalogue.db"
        self._log_path = folder / "catalogue.db-wal"
        self._closed = False
        self._switching = threading.Lock()
        require_no_payloads(self._path, payloads)
        if not self._path.is_file():
            raise StoreUnavailableError(
                f"there is no store in {folder}: it has no catalogue.db, and reading creates none"
            )
        self._opened = self._open(self._look())
        try:
            # Read before the catalogue's: a process that writes raises the catalogue's epoch first.
            identity = payloads.read_identity()
            with self.read() as connection:
                version = require_current_schema(connection)
                require_payloads(folder, connection, version, _AsRead(identity, payloads))
                require_schema(connection)
        except (apsw.Error, UnicodeDecodeError) as error:
            self.close()
            raise StoreUnavailableError(f"the catalogue in {folder} cannot be opened: {error}") from error
        except BaseException:
            self.close()
            raise

    @contextmanager
    def read(self, *, timed: bool = True) -> Iterator[SqliteConnection]:
        """See `Transactions`.

        Raises:
            StoreBusyError: the file was changed meanwhile; the next transaction sees the change.
        """
        found, readers = self._current()
        try:
            with readers.lent(timed=timed) as connection:
                yield connection
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, apsw.ReadOnlyError):
                raise
            # See `connect_to_read`. Connections that are opened anew get a mark.
            self._opened = self._open(found)
            readers.close(0.0)
            raise StoreBusyError("another process has just begun the log", retry_after_s=RETRY_AFTER_S) from error
        finally:
            self._require_unchanged(found)

    @contextmanager
    def snapshot(self) -> Iterator[SqliteConnection]:
        """See `Transactions`, and `read`."""
        found, _ = self._current()
        try:
            connection = self._connect(found)
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()
        except (apsw.Error, OSError) as error:
            raise engine_error(error, "read") from error
        finally:
            self._require_unchanged(found)

    def write(self) -> NoReturn:
        """Refuse."""
        raise _refusal()

    def change(self, *, durable: bool = True) -> NoReturn:  # noqa: ARG002 - as of `Transactions`
        """Refuse."""
        raise _refusal()

    def write_on_full_disk(self, work: object) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        raise _refusal()

    def lock_file_if_free(self, name: str) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse: only what writes takes these locks."""
        raise _refusal()

    def checkpoint(self, *, idle: bool) -> None:
        """Do nothing: the log is emptied by who writes it."""

    def check_writable(self) -> None:
        """Check that the catalogue is open: it has no writes that could have failed."""
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    def file_bytes(self) -> int:
        """See `Transactions`."""
        try:
            log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
            return self._path.stat().st_size + log_bytes
        except OSError as error:
            raise engine_error(error, "read") from error

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Close all connections. Idempotent.

        Raises:
            StoreBusyError: a read did not end in time.
        """
        self._closed = True
        _, readers = self._opened
        if not readers.close(timeout_s):
            raise StoreBusyError(f"a read of the catalogue has not ended after {timeout_s:.0f} s")

    def _current(self) -> tuple[_Found, Readers]:
        """Return how the files are now, and connections that were opened for that."""
        found = self._look()
        opened = self._opened
        if self._fits(opened[0], found) or self._closed:
            return opened
        with self._switching:
            opened = self._opened
            if not self._fits(opened[0], found) and not self._closed:
                self._opened = self._open(found)
                # Those that are lent are closed when nothing refers to them any more.
                opened[1].close(0.0)
            return self._opened

    @staticmethod
    def _fits(opened: _Found, found: _Found) -> bool:
        """Return whether connections that were opened for one state of the files are right for another one."""
        if opened.is_quiet or found.is_quiet:
            return opened == found
        return opened.file == found.file

    def _open(self, found: _Found) -> tuple[_Found, Readers]:
        return found, Readers(partial(self._connect, found))

    def _connect(self, found: _Found) -> SqliteConnection:
        return connect_to_read(self._path, immutable=found.is_quiet)

    def _look(self) -> _Found:
        try:
            found = self._path.stat()
            quiet = is_quiet(self._path)
        except OSError as error:
            raise engine_error(error, "read") from error
        return _Found((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns), quiet)

    def _require_unchanged(self, found: _Found) -> None:
        if not found.is_quiet:
            return
        try:
            now = self._path.stat()
        except OSError as error:
            raise engine_error(error, "read") from error
        if (now.st_size, now.st_mtime_ns) != found.content or (now.st_dev, now.st_ino) != found.file:
            raise StoreBusyError(
                "another process has begun to write the store while it was read: read again",
                retry_after_s=RETRY_AFTER_S,
            )


class _AsRead:
    """The payloads, with the identity that they had at one moment."""

    def __init__(self, identity: StoreIdentity | None, payloads: FoundPayloads) -> None:
        self._identity = identity
        self.published = payloads.published

    def read_identity(self) -> StoreIdentity | None:
        return self._identity


def _refusal() -> ReadOnlyError:
    return ReadOnlyError("the store is open for reading only")
