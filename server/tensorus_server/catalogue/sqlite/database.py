"""One SQLite file: its connections, its transactions, its log.

One connection writes, in transactions that take turns: under a thread lock within the process, and under `flock` on
`writer.lock` between processes, since SQLite's own busy wait polls and is unfair. A few connections read, each borrowed for
one short transaction, since an open read transaction keeps the log from being reset.

Lock order: `_write_lock`, then the file lock, then SQLite's own.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from typing import TYPE_CHECKING, Any

import apsw

from tensorus_server.catalogue.sqlite.steps import STEPS
from tensorus_server.errors import LimitExceededError, StorageFullError, StoreUnavailableError
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Database", "apply_migrations", "now_us", "select"]

_SQLITE_MIN = 3051003
"""3.51.3: versions before it, but for two patched ones, can corrupt a WAL database with two connections."""

_SQLITE_PATCHED = frozenset({3050007, 3044006})

_BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process; within one, locks are waited for in turn."""

_PRAGMAS = f"""
PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS};
PRAGMA synchronous = FULL;
PRAGMA journal_size_limit = 67108864;
PRAGMA wal_autocheckpoint = 0;
PRAGMA foreign_keys = ON;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
PRAGMA mmap_size = 0;
"""
"""synchronous=FULL: with NORMAL, a power cut lost every acknowledged row since the last checkpoint (measured). No mmap: an I/O
error would be a signal that kills the process. No automatic checkpoint: `checkpoint` does it between commits."""

_READERS_MAX = 8
_PAGE_BYTES = 4096
"""Of a new file. Measured, inline payloads of 4 KiB: 5.0 KB of file and of log for each, and 8.6 KB with pages of 8192 bytes,
each of which holds one."""

_WRITER_CACHE_KIB = 8 * 1024
"""A group of 512 tensors of 4 KiB is 2.6 MB of pages. SQLite's own 2 MB are full before its commit, and the pages then go to
the log one by one: 5 microseconds more for each tensor (measured)."""

_CHECKPOINT_BYTES = 16 * 1024 * 1024
"""Of log since the last checkpoint, then it is copied into the database: small enough to be quick, large enough to be rare."""

_PROGRESS_STEPS = 10_000
"""Virtual machine steps between looks at the clock: about a millisecond."""

_BROKEN = (apsw.IOError, apsw.CorruptError, apsw.NotADBError)
"""The disk fails, or the file is not what SQLite wrote."""

_REMOTE_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs"})
"""Their locks and syncs do not keep what SQLite needs."""


def now_us() -> int:
    """Return the time, in microseconds since 1970."""
    return time.time_ns() // 1000


class Database:
    """The connections to one catalogue file."""

    def __init__(self, folder: Path) -> None:
        """Open or create `catalogue.db` in `folder` and migrate it.

        Raises:
            StoreUnavailableError: the file is damaged or no database, a newer version wrote it, the SQLite library is unsafe,
                or the file system is remote.
        """
        _require_safe_sqlite()
        _require_local(folder)
        self._path = folder / "catalogue.db"
        self._log_path = folder / "catalogue.db-wal"
        self._write_lock = threading.Lock()
        self._lock_fd = os.open(folder / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._failure: str | None = None
        self._closed = False
        # Pages in the log, and how many of them the last checkpoint left in the database. The size of the log's file tells
        # nothing: it stays as it was when the log begins again at its start.
        self._log_pages = self._copied_pages = 0
        try:
            with self._file_lock():
                # Who makes the file turns it to WAL mode, and for that SQLite waits for nobody: others would be told "busy".
                self._writer = self._connect(create=True)
            self._migrate()
        except _BROKEN as error:
            os.close(self._lock_fd)
            raise StoreUnavailableError(f"the catalogue {self._path} cannot be opened: {error}") from error
        except BaseException:
            os.close(self._lock_fd)
            raise
        ((self._page_bytes,),) = select(self._writer, "PRAGMA page_size")
        self._writer.set_wal_hook(self._note_log)
        self._readers: queue.LifoQueue[apsw.Connection | None] = queue.LifoQueue()
        for _ in range(_READERS_MAX):
            # None: a connection that may be opened when it is needed.
            self._readers.put(None)

    def check_writable(self) -> None:
        """Raise `StoreUnavailableError` after a write whose outcome is unknown, or after `close`."""
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self._failure is not None:
            raise StoreUnavailableError(
                f"the catalogue failed and takes no more writes until a restart: {self._failure}"
            )

    @contextmanager
    def write(self) -> Iterator[apsw.Connection]:
        """Run the block in one transaction, durable when the block is left; any exception undoes it.

        Raises:
            StorageFullError: the disk is full; nothing was written.
            StoreUnavailableError: the outcome of the commit is unknown, now or earlier.
        """
        with self._write_lock, self._file_lock():
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                except BaseException:
                    self._roll_back()
                    raise
                self._commit()
            except apsw.FullError as error:
                raise StorageFullError("no space is left on the catalogue's disk") from error
            except _BROKEN as error:
                self._failure = str(error)
                raise StoreUnavailableError(f"the catalogue failed: {error}") from error

    @contextmanager
    def read(self) -> Iterator[apsw.Connection]:
        """Lend a connection for one read transaction: what the block sees is one state of the catalogue.

        Raises:
            LimitExceededError: a statement ran for longer than `STATEMENT_TIMEOUT_S`.
            StoreUnavailableError: the file cannot be read, or is damaged.
        """
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        lent = self._readers.get()
        try:
            connection = lent or self._connect(create=False)
            lent = connection
            deadline = time.monotonic() + STATEMENT_TIMEOUT_S
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _PROGRESS_STEPS)
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                # An error may have ended the transaction. SQLite refuses to commit one that met a damaged page.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except apsw.InterruptError as error:
            raise LimitExceededError(
                f"a statement ran for longer than {STATEMENT_TIMEOUT_S} s (statement_timeout_s)",
                limit=STATEMENT_TIMEOUT_S,
            ) from error
        except _BROKEN as error:
            raise StoreUnavailableError(f"the catalogue cannot be read: {error}") from error
        finally:
            self._readers.put(lent)

    def checkpoint(self, *, idle: bool) -> None:
        """Copy the log into the database if it has grown; when idle, and no other process writes, empty it.

        Neither readers nor writers of other processes are disturbed.

        Raises:
            StoreUnavailableError: the database could not be synced: what of it is durable only a restart can tell.
        """
        mode = self._checkpoint_mode(idle=idle)
        if mode is None:
            return
        with self._write_lock, ExitStack() as held:
            self.check_writable()
            # Writers have to wait while the log is emptied, and are to do that for the file lock, in turn.
            if mode == apsw.SQLITE_CHECKPOINT_TRUNCATE and not held.enter_context(self._file_lock_if_free()):
                return
            # Never wait for a reader here: the next checkpoint comes soon.
            self._writer.set_busy_timeout(0)
            try:
                self._log_pages, self._copied_pages = self._writer.wal_checkpoint(mode=mode)
            except (apsw.BusyError, apsw.FullError):
                # The log stays as long as it has to; nothing is lost.
                return
            except apsw.Error as error:
                self._failure = str(error)
                raise StoreUnavailableError(f"the catalogue could not be synced: {error}") from error
            finally:
                self._writer.set_busy_timeout(_BUSY_TIMEOUT_MS)

    def _checkpoint_mode(self, *, idle: bool) -> int | None:
        """Return which checkpoint is due, if any."""
        if self._closed or self._failure is not None:
            return None
        if idle:
            try:
                return apsw.SQLITE_CHECKPOINT_TRUNCATE if self._log_path.stat().st_size else None
            except FileNotFoundError:
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

    def close(self) -> None:
        """Empty the log and close every connection. Idempotent; waits for the reads that are going on."""
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            for _ in range(_READERS_MAX):
                connection = self._readers.get()
                if connection is not None:
                    connection.close()
            with self._file_lock_if_free() as is_free, suppress(apsw.Error):
                # Where another process writes, it does so later.
                if is_free:
                    self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._writer.close()
            os.close(self._lock_fd)

    @contextmanager
    def _file_lock(self) -> Iterator[None]:
        # A closed catalogue has no lock to take. Only who has the thread lock changes that.
        self.check_writable()
        fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    @contextmanager
    def _file_lock_if_free(self) -> Iterator[bool]:
        """Take the file lock for the block if no other process has it; yields whether it was free."""
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _connect(self, *, create: bool) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
        connection = apsw.Connection(str(self._path), flags=flags)
        if create:
            # The page size only counts before the first table; WAL mode stays with the file.
            _run(connection, f"PRAGMA page_size = {_PAGE_BYTES}; PRAGMA journal_mode = WAL;")
        _run(connection, _PRAGMAS)
        _run(connection, f"PRAGMA cache_size = -{_WRITER_CACHE_KIB};" if create else "PRAGMA query_only = ON;")
        return connection

    def _migrate(self) -> None:
        with self._file_lock():
            self._writer.execute("BEGIN EXCLUSIVE")
            try:
                apply_migrations(self._writer)
            except BaseException:
                self._roll_back()
                raise
            self._writer.execute("COMMIT")

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except apsw.FullError:
            # The log could not grow: the transaction is still open, and its outcome is ours to decide.
            self._roll_back()
            raise
        except apsw.Error as error:
            # Whether the log was synced, nobody knows. Not even a retry could tell: Linux reports a failed sync once.
            self._failure = str(error)
            self._roll_back()
            raise StoreUnavailableError(f"the outcome of a commit is unknown until a restart: {error}") from error

    def _roll_back(self) -> None:
        if self._writer.in_transaction:
            with suppress(apsw.Error):
                self._writer.execute("ROLLBACK")


def select(
    connection: apsw.Connection, statement: str, parameters: apsw.Bindings | None = None
) -> list[tuple[Any, ...]]:
    """Return all rows of one statement. What a column holds the schema says, and no type here can: hence `Any`."""
    return connection.execute(statement, parameters).fetchall()


def _run(connection: apsw.Connection, statements: str) -> None:
    """Run several statements; apsw runs them only as far as their rows are asked for."""
    connection.execute(statements).fetchall()


def apply_migrations(connection: apsw.Connection) -> None:
    """Bring the schema up to date within the connection's transaction; a step and the note that it ran share it."""
    migrations = _migrations()
    _run(
        connection,
        "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_us INTEGER NOT NULL) STRICT",
    )
    ((current,),) = select(connection, "SELECT coalesce(max(version), 0) FROM schema_version")
    if current > max(migrations):
        raise StoreUnavailableError(
            f"the catalogue has schema version {current}, this version of Tensorus knows up to {max(migrations)}; "
            "open it with the version that wrote it, or a newer one"
        )
    for version in sorted(migrations):
        if version > current:
            _run(connection, migrations[version])
            if version in STEPS:
                STEPS[version](connection)
            connection.execute("INSERT INTO schema_version VALUES (?, ?)", (version, now_us()))


def _migrations() -> dict[int, str]:
    """Return the schema's steps by version: forward only, each in the one transaction of the opening."""
    folder = resources.files("tensorus_server.catalogue.sqlite") / "migrations"
    return {int(file.name[:4]): file.read_text() for file in folder.iterdir() if file.name.endswith(".sql")}


def _require_safe_sqlite() -> None:
    # Of the library that runs: apsw's constant is the one that it was compiled against, which may be another.
    major, minor, patch, *_ = map(int, apsw.sqlite_lib_version().split("."))
    version = 1_000_000 * major + 1000 * minor + patch
    if version < _SQLITE_MIN and version not in _SQLITE_PATCHED:
        raise StoreUnavailableError(
            f"SQLite is {major}.{minor}.{patch}, which can corrupt a database; 3.51.3 or newer is needed: "
            "pip install --upgrade apsw"
        )


def _require_local(folder: Path) -> None:
    """Refuse a folder on a remote file system, as far as the kernel tells (Linux)."""
    resolved = str(folder.resolve())
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8") as mounts:  # noqa: PTH123 - no path of ours
            for line in mounts:
                _, mount_point, mount_kind, *_ = line.split()
                inside = resolved == mount_point or resolved.startswith(mount_point.rstrip("/") + "/")
                if inside and len(mount_point) >= len(best):
                    best, kind = mount_point, mount_kind
    except OSError:
        return
    if kind in _REMOTE_FILE_SYSTEMS:
        raise StoreUnavailableError(f"the store's folder is on {kind}, whose locks and syncs cannot be relied on")
