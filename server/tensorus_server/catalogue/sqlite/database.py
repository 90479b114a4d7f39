"""A catalogue in one SQLite file: its connections, its transactions and its log.

One connection writes. Writers take turns: threads by a lock within the process, processes by `flock` on `writer.lock`, because
SQLite's own busy wait polls and is unfair. A few connections read. Each is lent for one short transaction only, because an open
read transaction keeps the log from being reset.

Lock order: the thread lock of `writer_lock.py`, its file lock, then SQLite's own. All waits have timeouts, after which the call
fails with `StoreBusyError`. `sqlite_errors.py` maps SQLite's errors.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import apsw

from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import opening, writer_lock
from tensorus_server.catalogue.sqlite.connection import PAGE_BYTES, connect
from tensorus_server.catalogue.sqlite.epoch import EpochKeeper, FolderRemovedError, read_identity
from tensorus_server.catalogue.sqlite.file_lock import FileLock
from tensorus_server.catalogue.sqlite.readers import Readers
from tensorus_server.catalogue.sqlite.requirements import require_local, require_safe_sqlite
from tensorus_server.catalogue.sqlite.schema import apply_migrations, schema_version
from tensorus_server.catalogue.sqlite.spare_room import SpareRoom
from tensorus_server.catalogue.sqlite.sqlite_errors import BROKEN, engine_error
from tensorus_server.catalogue.sqlite.writer_lock import WriterLock
from tensorus_server.errors import (
    EngineError,
    StorageFullError,
    StoreBusyError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tensorus_server.catalogue.identity_check import Payloads
    from tensorus_server.catalogue.sqlite.connection import SqliteConnection
    from tensorus_server.model import StoreIdentity

__all__ = ["Database"]

_CLOSE_TIMEOUT_S = 30.0
"""How long `close` waits for writes and reads in progress: longer than any statement runs."""

_CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Growth of the log after which it is copied into the database: small enough to be quick, large enough to be rare."""

_BLOCKED_S = 5.0
"""Pause after a checkpoint that readers or a full disk prevented, since each attempt costs a commit."""

_FULL_DISK_TRIES = 20
_FULL_DISK_WAIT_S = 0.05

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


class Database:
    """The connections to one catalogue file. Implements `Transactions`."""

    def __init__(self, folder: Path, payloads: Payloads | None = None, *, accept_loss: bool = False) -> None:
        """Open or create `catalogue.db` in `folder` and migrate it.

        Args:
            payloads: the chunk store, whose identity must match; None: that is not checked.
            accept_loss: see `EngineConfig`.

        Raises:
            StoreUnavailableError: the file is damaged or not a database, a newer version wrote it, it does not match the
                payloads, the SQLite library is unsafe, or the file system is remote.
        """
        require_safe_sqlite()
        require_local(folder)
        self._path = folder / "catalogue.db"
        self._log_path = folder / "catalogue.db-wal"
        self._payloads = payloads
        self._writer_lock = WriterLock(folder / "writer.lock")
        self._failure: str | None = None
        self._failing = threading.Lock()
        self._closed = False
        # Pages in the log, and how many of them the last checkpoint copied. The size of the log's file does not tell, because
        # the file keeps its size when SQLite starts the log again from its beginning.
        self._log_pages = self._copied_pages = 0
        self._epochs = EpochKeeper(self._writer_lock.descriptor, payloads)
        self._blocked_until_s = 0.0
        self._spare = SpareRoom(folder)
        try:
            with self._writer_lock.hold_file_lock():
                self._open(accept_loss=accept_loss)
        except BaseException as error:
            self._writer_lock.close()
            if isinstance(error, apsw.FullError):
                raise engine_error(error, "opened") from error
            if isinstance(error, (apsw.Error, StoreBusyError)):
                raise StoreUnavailableError(f"the catalogue {self._path} cannot be opened: {error}") from error
            raise
        ((self._page_bytes,),) = select(self._writer, "PRAGMA page_size")
        self._writer.set_wal_hook(self._note_log)
        self._readers = Readers(partial(connect, self._path, create=False))

    def check_writable(self) -> None:
        """Raise `StoreUnavailableError` after a write whose outcome is unknown, or after `close`."""
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self._failure is not None:
            raise StoreUnavailableError(
                f"the catalogue failed and takes no more writes until a restart: {self._failure}"
            )

    def check_folder(self) -> None:
        """Check whether the store's folder was removed; if so, the catalogue takes no more writes.

        Raises:
            StoreUnavailableError: the disk does not say.
        """
        if not self._closed and self._failure is None:
            try:
                self._epochs.require_folder()
            except FolderRemovedError as error:
                self._fail_without_folder(error)
            except OSError as error:
                # Unless `close` has closed the lock's file meanwhile; `check_writable` says so.
                if not self._closed:
                    raise engine_error(error, "read") from error

    def _fail_without_folder(self, error: FolderRemovedError) -> None:
        with self._failing:
            # Two threads may notice it at the same time.
            already_failed, self._failure = self._failure, str(error)
        if already_failed is None:
            # Only a warning, since programs that never close their store may simply delete its folder when they are done.
            _log.warning("%s [%s]", error, self._path.parent)

    @contextmanager
    def write(self) -> Iterator[SqliteConnection]:
        """Run the block in one transaction, which is durable when the block ends; any exception rolls it back.

        Raises:
            StoreBusyError: another writer had the catalogue locked for too long; nothing was written.
            StorageFullError: the disk is full; nothing was written.
            StoreUnavailableError: the outcome of this or an earlier commit is unknown; or the system refused the write, and
                nothing was written.
        """
        # Checked under the thread lock and before the file lock, which a closed catalogue no longer has.
        with self._writer_lock.hold(self.check_writable):
            try:
                try:
                    self._writer.execute("BEGIN IMMEDIATE")
                    yield self._writer
                    raised = self._epochs.raise_if_due(self._writer)
                except BaseException:
                    self._roll_back()
                    raise
                self._commit()
                if raised is not None:
                    self._publish(raised)
            except FolderRemovedError as error:
                self._fail_without_folder(error)
                raise StoreUnavailableError(str(error)) from error
            except BROKEN as error:
                self._failure = str(error)
                raise StoreUnavailableError(f"the catalogue failed: {error}") from error
            except (apsw.Error, OSError) as error:
                raise engine_error(error, "written") from error

    def change(self, *, durable: bool = True) -> AbstractContextManager[SqliteConnection]:  # noqa: ARG002 - it always is
        """See `Transactions`. SQLite has one writer, so this is `write`."""
        return self.write()

    def write_on_full_disk(self, work: Callable[[SqliteConnection], _Result]) -> _Result:
        """Run `work` in one transaction, which is durable on return, even if no space is left on the disk.

        This is for deletions, which free space and so must not need any. `work` may run several times.

        Raises:
            StorageFullError: `work` needs more than the spare space, or other programs use it up as soon as it is free.
            StoreUnavailableError: see `write`.
        """
        tries_left = _FULL_DISK_TRIES
        while True:
            try:
                with self.write() as connection:
                    return work(connection)
            except StorageFullError:
                if not tries_left:
                    raise
                tries_left -= 1
                self._spare.release()
                # Inserts that fail because the disk is full release their space meanwhile.
                time.sleep(_FULL_DISK_WAIT_S)

    def read(self, *, timed: bool = True) -> AbstractContextManager[SqliteConnection]:
        """Lend a connection for one read transaction: the block sees a single state of the catalogue.

        Args:
            timed: whether its statements have a time limit. While the block runs, the log cannot be emptied.

        Raises:
            LimitExceededError: a statement ran for longer than `STATEMENT_TIMEOUT_S`.
            StoreBusyError: another program has the catalogue locked, or no connection became free in time.
            StoreUnavailableError: the file cannot be read, or is damaged.
        """
        return self._readers.lent(timed=timed)

    @contextmanager
    def snapshot(self) -> Iterator[SqliteConnection]:
        """Lend a new connection for one read transaction that may take long; its first statement fixes the state it sees.

        Raises:
            StoreBusyError: another program has the catalogue locked.
            StoreUnavailableError: the file cannot be read, or is damaged.
        """
        self.check_writable()
        try:
            connection = connect(self._path, create=False)
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                connection.close()
        except (apsw.Error, OSError) as error:
            raise engine_error(error, "read") from error

    def file_bytes(self) -> int:
        """Return the size of the database file and its log.

        Raises:
            StoreUnavailableError: the files were removed.
        """
        try:
            log_bytes = self._log_path.stat().st_size if self._log_path.exists() else 0
            return self._path.stat().st_size + log_bytes
        except OSError as error:
            raise engine_error(error, "read") from error

    @contextmanager
    def lock_file_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock file `name`, next to the catalogue, during the block; yields False if another process holds it.

        Raises:
            StoreUnavailableError: the store's folder was removed or moved, or the file cannot be locked.
        """
        try:
            lock = FileLock(self._path.with_name(name))
        except FileNotFoundError as error:
            self._fail_without_folder(FolderRemovedError())
            raise StoreUnavailableError(f"the catalogue takes no more writes: {self._failure}") from error
        try:
            try:
                is_free = lock.acquire_if_free()
            except OSError as error:
                raise engine_error(error, "written") from error
            yield is_free
        finally:
            lock.close()

    def checkpoint(self, *, idle: bool) -> None:
        """Copy the log into the database if it has grown; if idle, and no other process writes, also empty it.

        Readers are not blocked; writers of other processes wait for their turn.

        Raises:
            StoreUnavailableError: the database could not be synced, and only a restart can determine what is durable; or the
                disk does not say how long the log is.
        """
        # An upper bound of the database's size: some pages of the log replace pages of the database.
        self._spare.keep_up(self._database_bytes + self._log_pages * PAGE_BYTES)
        mode = self._checkpoint_mode(idle=idle)
        if mode is None:
            return
        with self._writer_lock.hold_thread_lock(), ExitStack() as held:
            self.check_writable()
            if mode == apsw.SQLITE_CHECKPOINT_PASSIVE:
                held.enter_context(self._writer_lock.hold_file_lock())
            elif not held.enter_context(self._writer_lock.hold_file_lock_if_free()):
                return
            # Do not wait for readers here: the next checkpoint will come soon.
            self._writer.set_busy_timeout(0)
            try:
                self._copy_log_in_spare_room(mode)
            except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.NoMemError, apsw.CantOpenError, OSError):
                # The log stays until a later checkpoint succeeds; nothing is lost.
                self._blocked_until_s = time.monotonic() + _BLOCKED_S
            except FolderRemovedError as error:
                self._fail_without_folder(error)
            except apsw.Error as error:
                self._failure = str(error)
                raise StoreUnavailableError(f"the catalogue could not be synced: {error}") from error
            finally:
                self._writer.set_busy_timeout(writer_lock.BUSY_TIMEOUT_MS)

    def _copy_log_in_spare_room(self, mode: int) -> None:
        try:
            self._copy_log(mode)
        except apsw.FullError:
            # The log itself may have filled the disk.
            if not self._spare.release():
                raise
            self._copy_log(mode)

    def _copy_log(self, mode: int) -> None:
        """Copy the log in two steps, so that the page with the epoch is last; see `epoch.py`. Both locks are held."""
        with self._pinned_log():
            self._raise_epoch()
            self._epochs.make_due()
            pages, copied = self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if copied < self._log_pages - 1:
            # Readers still use part of the log; the next checkpoint copies the rest.
            self._log_pages, self._copied_pages = pages, copied
            self._blocked_until_s = time.monotonic() + _BLOCKED_S
            return
        self._log_pages, self._copied_pages = self._writer.wal_checkpoint(mode=mode)
        self._database_bytes = self._path.stat().st_size

    @contextmanager
    def _pinned_log(self) -> Iterator[None]:
        """Prevent commits within the block from being copied into the database."""
        self._pin.execute("BEGIN")
        try:
            read_identity(self._pin)
            yield
        finally:
            self._pin.execute("COMMIT")

    def _raise_epoch(self) -> None:
        """Raise the epoch in a separate transaction, which adds one page to the log. Both locks are held."""
        self._epochs.make_due()
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            raised = self._epochs.raise_if_due(self._writer)
        except BaseException:
            self._roll_back()
            raise
        self._commit()
        if raised is not None:
            self._publish(raised)

    def _checkpoint_mode(self, *, idle: bool) -> int | None:
        """Return the mode of the checkpoint that is due, or None."""
        if self._closed or self._failure is not None or time.monotonic() < self._blocked_until_s:
            return None
        if idle:
            try:
                return apsw.SQLITE_CHECKPOINT_TRUNCATE if self._log_path.stat().st_size else None
            except FileNotFoundError:
                self.check_folder()
                return None
            except OSError as error:
                raise engine_error(error, "read") from error
        new_bytes = (self._log_pages - self._copied_pages) * self._page_bytes
        return apsw.SQLITE_CHECKPOINT_PASSIVE if new_bytes >= _CHECKPOINT_BYTES else None

    def _note_log(self, _: apsw.Connection, __: str, pages: int) -> int:
        """Record the number of pages in the log; SQLite calls this after each commit."""
        if pages < self._log_pages:
            # SQLite has started the log again from its beginning.
            self._copied_pages = 0
        self._log_pages = pages
        return apsw.SQLITE_OK

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Empty the log and close all connections. Idempotent; waits up to `timeout_s` each for writes and for reads.

        Raises:
            StoreBusyError: a write or a read did not end in time. Its connection stays open until the process ends.
        """
        with self._writer_lock.hold_thread_lock(timeout_s):
            if self._closed:
                return
            self._closed = True
            all_back = self._readers.close(timeout_s)
            with self._writer_lock.hold_file_lock_if_free() as is_free:
                # If another process is writing, that process empties the log later.
                emptied = is_free and all_back and self._failure is None and self._empty_log()
                self._spare.keep_up(self._database_bytes)
            self._pin.close()
            self._close_writer(copy_log=emptied)
            self._writer_lock.close()
        if not all_back:
            raise StoreBusyError(f"a read of the catalogue has not ended after {timeout_s:.0f} s")

    def _close_writer(self, *, copy_log: bool) -> None:
        """Close the connection. If it is the last one of all processes, SQLite removes the log, after copying it if allowed."""
        if not copy_log:
            # SQLite would copy the pages in any order, so the epoch might reach the database before the rest does.
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._writer.close()

    def _empty_log(self) -> bool:
        """Copy and empty the log if possible, and return whether it is empty."""
        with suppress(apsw.Error, EngineError, FolderRemovedError, OSError):
            # Do not wait for readers of other processes; the log then stays.
            self._writer.set_busy_timeout(0)
            if self._log_path.stat().st_size:
                self._copy_log(apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return self._log_path.stat().st_size == 0
        return False

    def _open(self, *, accept_loss: bool) -> None:
        """Connect, check that catalogue and payloads belong together, and migrate. The file lock is held.

        Nothing is written before the check: a log that is put back afterwards must still fit.
        """
        if self._payloads is not None and not accept_loss:
            opening.require_no_payloads(self._path, self._payloads)
        opening.secure_files(self._path)
        self._epochs.make_due()
        # Under the file lock, because a new file is switched to WAL mode here. SQLite does not wait for locks in that step, so
        # concurrent openings would fail as busy.
        self._writer = connect(self._path, create=True)
        try:
            self._writer.execute("BEGIN EXCLUSIVE")
            version = schema_version(self._writer)
            if self._payloads is not None and not accept_loss:
                opening.require_payloads(self._path.parent, self._writer, version, self._payloads)
            apply_migrations(self._writer, version)
            if self._payloads is not None and accept_loss:
                opening.accept_loss(self._path.parent, self._writer, version, self._payloads)
            self._writer.execute("COMMIT")
            if self._payloads is not None:
                identity = read_identity(self._writer)
                # If a loss is accepted, the identity file may be damaged and is not read.
                if accept_loss or self._payloads.read_identity() != identity:
                    self._payloads.write_identity(identity)
            self._pin = connect(self._path, create=False)
        except BaseException:
            self._close_writer(copy_log=False)
            raise
        self._database_bytes = self._path.stat().st_size
        self._spare.keep_up(self._database_bytes)

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except apsw.FullError:
            # The log could not grow. The transaction is still open, so it can be rolled back with a known outcome.
            self._roll_back()
            raise
        except Exception as error:
            # The log may or may not be on the disk. A retry could not tell either: Linux reports a failed fsync only once.
            self._failure = str(error)
            self._roll_back()
            raise StoreUnavailableError(f"the outcome of a commit is unknown until a restart: {error}") from error

    def _publish(self, raised: StoreIdentity) -> None:
        """Write the epoch to the chunk store after the commit that raised it."""
        try:
            self._epochs.publish(raised)
        except (EngineError, OSError) as error:
            # The commit is durable, but if its log were lost, that would not be detected.
            self._failure = str(error)
            raise StoreUnavailableError(f"the outcome of a commit is unknown until a restart: {error}") from error

    def _roll_back(self) -> None:
        if not self._writer.in_transaction:
            return
        try:
            self._writer.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - the caller gets the original error, which says more
            if self._writer.in_transaction:
                # The connection is unusable, since the next BEGIN would fail.
                self._failure = self._failure or f"a transaction could not be undone: {error}"
