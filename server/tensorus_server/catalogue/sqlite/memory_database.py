"""A catalogue in memory: one connection, which threads use in turn.

It has no file, so nothing is synced, logged or locked, and a commit needs no system call. Other processes cannot use it, and
its content is gone when it is closed. The lock is reentrant: a thread may read within a write, or write within a read, which
then sees what was written.
"""

from __future__ import annotations

import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import apsw

from tensorus_server.catalogue.sqlite.connection import PAGE_BYTES, connect_memory
from tensorus_server.catalogue.sqlite.readers import Reader
from tensorus_server.catalogue.sqlite.requirements import require_safe_sqlite
from tensorus_server.catalogue.sqlite.schema import apply_migrations, schema_version
from tensorus_server.catalogue.sqlite.sqlite_errors import RETRY_AFTER_S, engine_error
from tensorus_server.errors import LimitExceededError, StorageFullError, StoreBusyError, StoreUnavailableError
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tensorus_server.catalogue.sqlite.connection import SqliteConnection

__all__ = ["MemoryDatabase"]

_TURN_TIMEOUT_S = 60.0
"""How long to wait for other threads: longer than any statement runs."""

_MEMORY_SHARE = 0.5
"""Share of the machine's memory that the catalogue may use; the same as Linux's default for tmpfs."""

_Result = TypeVar("_Result")


class MemoryDatabase:
    """See the module's description. Implements `Transactions`."""

    def __init__(self) -> None:
        """Create the schema."""
        require_safe_sqlite()
        self._turn = threading.RLock()
        self._closed = False
        pages_max = _pages_max()
        self._bytes_max = pages_max * PAGE_BYTES
        self._reader = Reader(connect_memory(pages_max))
        with self.write() as connection:
            apply_migrations(connection, schema_version(connection))

    def check_writable(self) -> None:
        """Raise `StoreUnavailableError` after `close`."""
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    def check_folder(self) -> None:
        """Do nothing, since a catalogue in memory has no folder."""

    @contextmanager
    def write(self) -> Iterator[SqliteConnection]:
        """See `Transactions`."""
        self._take_turn(_TURN_TIMEOUT_S)
        connection = self._reader.connection
        try:
            self.check_writable()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite may have ended the transaction because of the error.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except apsw.FullError as error:
            raise StorageFullError(
                f"the catalogue in memory is full, limit is {self._bytes_max} bytes, half of the machine's memory"
            ) from error
        except apsw.Error as error:
            raise engine_error(error, "written") from error
        finally:
            self._turn.release()

    def change(self, *, durable: bool = True) -> AbstractContextManager[SqliteConnection]:  # noqa: ARG002 - it always is
        """See `Transactions`. SQLite has one writer, so this is `write`."""
        return self.write()

    def write_on_full_disk(self, work: Callable[[SqliteConnection], _Result]) -> _Result:
        """See `Transactions`. A deletion in memory needs no space."""
        with self.write() as connection:
            return work(connection)

    @contextmanager
    def read(self, *, timed: bool = True) -> Iterator[SqliteConnection]:
        """See `Transactions`. Nobody else writes meanwhile."""
        self._take_turn(_TURN_TIMEOUT_S)
        try:
            self.check_writable()
            if timed:
                self._reader.deadline_s = time.monotonic() + STATEMENT_TIMEOUT_S
            yield self._reader.connection
        except apsw.InterruptError as error:
            raise LimitExceededError(
                f"a statement ran for longer than {STATEMENT_TIMEOUT_S} s (statement_timeout_s)",
                limit=STATEMENT_TIMEOUT_S,
            ) from error
        except apsw.Error as error:
            raise engine_error(error, "read") from error
        finally:
            self._reader.deadline_s = math.inf
            self._turn.release()

    @contextmanager
    def snapshot(self) -> Iterator[SqliteConnection]:
        """See `Transactions`. Nobody else writes meanwhile."""
        with self.read(timed=False) as connection:
            yield connection

    def file_bytes(self) -> int:
        """Return the size of the database in memory."""
        with self.read() as connection:
            return int(connection.pragma("page_count")) * PAGE_BYTES

    @contextmanager
    def lock_file_if_free(self, _: str) -> Iterator[bool]:
        """See `Transactions`. There is no other process."""
        yield True

    def checkpoint(self, *, idle: bool) -> None:
        """See `Transactions`. A catalogue in memory needs no maintenance."""

    def close(self, timeout_s: float) -> None:
        """Release the memory. Idempotent.

        Raises:
            StoreBusyError: a write or a read did not end in time.
        """
        self._take_turn(timeout_s)
        try:
            self._closed = True
            self._reader.connection.close()
        finally:
            self._turn.release()

    def _take_turn(self, timeout_s: float) -> None:
        if not self._turn.acquire(timeout=timeout_s):
            raise StoreBusyError(
                f"another call of the catalogue has not ended after {timeout_s:.0f} s", retry_after_s=RETRY_AFTER_S
            )


def _pages_max() -> int:
    """Return the largest number of pages for the catalogue."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, int(_MEMORY_SHARE * memory_bytes) // PAGE_BYTES)
