"""One SQLite file: its connections, its transactions, its log.

One connection writes, in transactions that take turns: under a thread lock within the process, and under `flock` on
`writer.lock` between processes, since SQLite's own busy wait polls and is unfair. A few connections read, each borrowed for
one short transaction, since an open read transaction keeps the log from being reset.

Lock order: the thread lock of `turns.py`, its file lock, SQLite's own. Each is waited for only so long; after that the call
gets `StoreBusyError`, and everything else goes on. `faults.py` says what SQLite's errors become.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from tensorus_server.catalogue.sqlite import opening, turns
from tensorus_server.catalogue.sqlite.connection import PAGE_BYTES, connect
from tensorus_server.catalogue.sqlite.epoch import EpochKeeper, FolderRemovedError, read_identity
from tensorus_server.catalogue.sqlite.faults import BROKEN, engine_error
from tensorus_server.catalogue.sqlite.file_lock import FileLock
from tensorus_server.catalogue.sqlite.readers import Readers
from tensorus_server.catalogue.sqlite.requirements import require_local, require_safe_sqlite
from tensorus_server.catalogue.sqlite.schema import apply_migrations, schema_version
from tensorus_server.catalogue.sqlite.spare_room import SpareRoom
from tensorus_server.catalogue.sqlite.turns import Turns
from tensorus_server.errors import (
    EngineError,
    LimitExceededError,
    StorageFullError,
    StoreBusyError,
    StoreUnavailableError,
)
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tensorus_server.catalogue.identity import Payloads
    from tensorus_server.model import StoreIdentity

__all__ = ["Database", "now_us", "select"]

_CLOSE_TIMEOUT_S = 30.0
"""How long `close` waits for writes and reads that are going on: longer than any statement runs."""

_CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Of log since the last checkpoint, then it is copied into the database: small enough to be quick, large enough to be rare."""

_BLOCKED_S = 5.0
"""After a checkpoint that readers, or a full disk, kept from its end: each one costs a commit."""

_FULL_DISK_TRIES = 20
_FULL_DISK_WAIT_S = 0.05

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """The connections to one catalogue file. Implements `Transactions`."""

    def __init__(self, folder: Path, payloads: Payloads | None = None, *, accept_loss: bool = False) -> None:
        """Open or create `catalogue.db` in `folder` and migrate it.

        Args:
            payloads: whose identity must match, and follows the catalogue's epoch; None: nobody checks.
            accept_loss: see `EngineConfig`.

        Raises:
            StoreUnavailableError: the file is damaged or no database, a newer version wrote it, it does not match the payloads,
                the SQLite library is unsafe, or the file system is remote.
        """
        require_safe_sqlite()
        require_local(folder)
        self._path = folder / "catalogue.db"
        self._log_path = folder / "catalogue.db-wal"
        self._payloads = payloads
        self._turns = Turns(folder / "writer.lock")
        self._failure: str | None = None
        self._closed = False
        # Pages in the log, and how many of them the last checkpoint left in the database. The size of the log's file tells
        # nothing: it stays as it was when the log begins again at its start.
        self._log_pages = self._copied_pages = 0
        self._epochs = EpochKeeper(self._turns.descriptor, payloads)
        self._blocked_until_s = 0.0
        self._spare = SpareRoom(folder)
        try:
            with self._turns.of_process():
                self._open(accept_loss=accept_loss)
        except BaseException as error:
            self._turns.close()
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
        """Notice that the store's folder was removed; from then on there are no more writes."""
        if not self._closed and self._failure is None:
            try:
                self._epochs.require_folder()
            except FolderRemovedError as error:
                self._fail_without_folder(error)

    def _fail_without_folder(self, error: FolderRemovedError) -> None:
        # No error: programs that never close their store remove its folder when they are done with it.
        _log.warning("%s [%s]", error, self._path.parent)
        self._failure = str(error)

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """Run the block in one transaction, durable when the block is left; any exception undoes it.

        Raises:
            StoreBusyError: somebody else has the catalogue locked; nothing was written.
            StorageFullError: the disk is full; nothing was written.
            StoreUnavailableError: the outcome of the commit is unknown, now or earlier; or the system does not let it be
                written, and nothing was.
        """
        # A closed catalogue has no lock to take. Only who has the thread lock changes that.
        with self._turns.of_both(self.check_writable):
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

    def write_on_full_disk(self, work: Callable[[apsw.Connection], _Result]) -> _Result:
        """Run `work` in one transaction, durable when this returns, also where no space is left on the disk.

        For what deletes: it makes room, and must not need any. `work` may run several times.

        Raises:
            StorageFullError: `work` needs more than the spare room, or others use it up as soon as it is free.
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
                # Inserts that fail for want of space give theirs back.
                time.sleep(_FULL_DISK_WAIT_S)

    @contextmanager
    def read(self, *, timed: bool = True) -> Iterator[apsw.Connection]:
        """Lend a connection for one read transaction: what the block sees is one state of the catalogue.

        Args:
            timed: whether its statements are bounded in time. While one runs, the log is not emptied.

        Raises:
            LimitExceededError: a statement ran for longer than `STATEMENT_TIMEOUT_S`.
            StoreBusyError: another program has the catalogue locked, or all connections are lent for long.
            StoreUnavailableError: the file cannot be read, or is damaged.
        """
        try:
            reader = self._readers.take()
            try:
                connection = reader.connection
                reader.deadline_s = time.monotonic() + STATEMENT_TIMEOUT_S if timed else math.inf
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    # An error may have ended the transaction. SQLite refuses to commit one that met a damaged page.
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            finally:
                self._readers.give_back(reader)
        except apsw.InterruptError as error:
            raise LimitExceededError(
                f"a statement ran for longer than {STATEMENT_TIMEOUT_S} s (statement_timeout_s)",
                limit=STATEMENT_TIMEOUT_S,
            ) from error
        except (apsw.Error, OSError) as error:
            raise engine_error(error, "read") from error

    @contextmanager
    def snapshot(self) -> Iterator[apsw.Connection]:
        """Lend a connection of its own for one read transaction that may take long; its first statement settles what it sees.

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

    @contextmanager
    def lock_file_if_free(self, name: str) -> Iterator[bool]:
        """Take the lock file `name`, beside the catalogue, for the block; yields False where another process has it."""
        lock = FileLock(self._path.with_name(name))
        try:
            yield lock.acquire_if_free()
        finally:
            lock.close()

    def checkpoint(self, *, idle: bool) -> None:
        """Copy the log into the database if it has grown; when idle, and no other process writes, empty it.

        Readers are not disturbed; writers of other processes wait for their turn.

        Raises:
            StoreUnavailableError: the database could not be synced: what of it is durable only a restart can tell.
        """
        # Pages of the log may replace pages of the database: this is too much rather than too little.
        self._spare.keep_up(self._database_bytes + self._log_pages * PAGE_BYTES)
        mode = self._checkpoint_mode(idle=idle)
        if mode is None:
            return
        with self._turns.of_thread(), ExitStack() as held:
            self.check_writable()
            if mode == apsw.SQLITE_CHECKPOINT_PASSIVE:
                held.enter_context(self._turns.of_process())
            elif not held.enter_context(self._turns.of_process_if_free()):
                return
            # Never wait for a reader here: the next checkpoint comes soon.
            self._writer.set_busy_timeout(0)
            try:
                self._copy_log_in_spare_room(mode)
            except (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.NoMemError, apsw.CantOpenError, OSError):
                # The log stays as long as it has to; nothing is lost.
                self._blocked_until_s = time.monotonic() + _BLOCKED_S
            except FolderRemovedError as error:
                self._fail_without_folder(error)
            except apsw.Error as error:
                self._failure = str(error)
                raise StoreUnavailableError(f"the catalogue could not be synced: {error}") from error
            finally:
                self._writer.set_busy_timeout(turns.BUSY_TIMEOUT_MS)

    def _copy_log_in_spare_room(self, mode: int) -> None:
        try:
            self._copy_log(mode)
        except apsw.FullError:
            # The log may be what the disk is full of.
            if not self._spare.release():
                raise
            self._copy_log(mode)

    def _copy_log(self, mode: int) -> None:
        """Copy the log in two steps, the page with the epoch last; see `epoch`. Both locks are held."""
        with self._pinned_log():
            self._raise_epoch()
            self._epochs.make_due()
            pages, copied = self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        if copied < self._log_pages - 1:
            # Readers need a part of the log as it is; the next checkpoint copies the rest.
            self._log_pages, self._copied_pages = pages, copied
            self._blocked_until_s = time.monotonic() + _BLOCKED_S
            return
        self._log_pages, self._copied_pages = self._writer.wal_checkpoint(mode=mode)
        self._database_bytes = self._path.stat().st_size

    @contextmanager
    def _pinned_log(self) -> Iterator[None]:
        """Keep what is committed within the block from being copied into the database."""
        self._pin.execute("BEGIN")
        try:
            read_identity(self._pin)
            yield
        finally:
            self._pin.execute("COMMIT")

    def _raise_epoch(self) -> None:
        """Raise the epoch in a transaction of its own. It is one page: the log grows by one. Both locks are held."""
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
        """Return which checkpoint is due, if any."""
        if self._closed or self._failure is not None or time.monotonic() < self._blocked_until_s:
            return None
        if idle:
            try:
                return apsw.SQLITE_CHECKPOINT_TRUNCATE if self._log_path.stat().st_size else None
            except FileNotFoundError:
                self.check_folder()
                return None
        new_bytes = (self._log_pages - self._copied_pages) * self._page_bytes
        return apsw.SQLITE_CHECKPOINT_PASSIVE if new_bytes >= _CHECKPOINT_BYTES else None

    def _note_log(self, _: apsw.Connection, __: str, pages: int) -> int:
        """Take SQLite's word, after a commit, for how many pages the log has."""
        if pages < self._log_pages:
            # It begins again at its start.
            self._copied_pages = 0
        self._log_pages = pages
        return apsw.SQLITE_OK

    def close(self, timeout_s: float = _CLOSE_TIMEOUT_S) -> None:
        """Empty the log and close every connection. Idempotent; waits for reads and writes that are going on, so long each.

        Raises:
            StoreBusyError: a write or a read does not end. What it uses stays open, until the process ends.
        """
        with self._turns.of_thread(timeout_s):
            if self._closed:
                return
            self._closed = True
            all_back = self._readers.close(timeout_s)
            with self._turns.of_process_if_free() as is_free:
                # Where another process writes, it does so later.
                emptied = is_free and all_back and self._failure is None and self._empty_log()
                self._spare.keep_up(self._database_bytes)
            self._pin.close()
            self._close_writer(copy_log=emptied)
            self._turns.close()
        if not all_back:
            raise StoreBusyError(f"a read of the catalogue has not ended after {timeout_s:.0f} s")

    def _close_writer(self, *, copy_log: bool) -> None:
        """Close the connection; the last one of all processes removes the log, if it may copy it."""
        if not copy_log:
            # SQLite would copy the log in its own way, and the database would have the epoch before it has the rest.
            self._writer.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._writer.close()

    def _empty_log(self) -> bool:
        """Copy and empty the log as far as that is possible, and return whether nothing of it is left."""
        with suppress(apsw.Error, EngineError, FolderRemovedError, OSError):
            # Where another process reads, the log stays.
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
        # Who makes the file turns it to WAL mode, and for that SQLite waits for nobody: others would be told "busy".
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
                # Where a loss is accepted, what the payloads say may be damaged.
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
            # The log could not grow: the transaction is still open, and its outcome is ours to decide.
            self._roll_back()
            raise
        except Exception as error:
            # Whether the log was synced, nobody knows. Not even a retry could tell: Linux reports a failed sync once.
            self._failure = str(error)
            self._roll_back()
            raise StoreUnavailableError(f"the outcome of a commit is unknown until a restart: {error}") from error

    def _publish(self, raised: StoreIdentity) -> None:
        """Have the chunk store follow a commit that raised the epoch."""
        try:
            self._epochs.publish(raised)
        except (EngineError, OSError) as error:
            # The commit is durable, and nobody would notice if the log that holds it were lost.
            self._failure = str(error)
            raise StoreUnavailableError(f"the outcome of a commit is unknown until a restart: {error}") from error

    def _roll_back(self) -> None:
        if not self._writer.in_transaction:
            return
        try:
            self._writer.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - what made it necessary is on its way to the caller, and says more
            if self._writer.in_transaction:
                # The next transaction could not begin.
                self._failure = self._failure or f"a transaction could not be undone: {error}"


def select(
    connection: apsw.Connection, statement: str, parameters: apsw.Bindings | None = None
) -> list[tuple[Any, ...]]:
    """Return all rows of one statement. What a column holds the schema says, and no type here can: hence `Any`."""
    return connection.execute(statement, parameters).fetchall()
