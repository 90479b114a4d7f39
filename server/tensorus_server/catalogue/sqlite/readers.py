"""A pool of connections that read the catalogue; each is lent for one short transaction."""

from __future__ import annotations

import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite.sqlite_errors import RETRY_AFTER_S, engine_error
from tensorus_server.errors import LimitExceededError, StoreBusyError, StoreUnavailableError
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.catalogue.sqlite.connection import SqliteConnection

__all__ = ["Reader", "Readers"]

_READERS_MAX = 8

_TURN_TIMEOUT_S = 60.0
"""How long to wait for a connection: longer than any statement of a query runs."""

_PROGRESS_STEPS = 10_000
"""Steps of SQLite's virtual machine between two checks of the deadline; they take about a millisecond."""


class Reader:
    """A connection whose statements have a deadline; used by one thread at a time."""

    def __init__(self, connection: SqliteConnection) -> None:
        """Install a handler that interrupts statements at the deadline."""
        self.connection = connection
        self.deadline_s = math.inf
        """When to interrupt a running statement, on the monotonic clock."""
        connection.set_progress_handler(lambda: time.monotonic() > self.deadline_s, _PROGRESS_STEPS)


class Readers:
    """See the module's description. Thread-safe."""

    def __init__(self, connect: Callable[[], SqliteConnection]) -> None:
        """Start without connections; `connect` opens one when it is needed."""
        self._connect = connect
        # Most reads take the plain lock instead of the condition, because it is several times as fast.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiters = 0
        self._closed = False
        # None stands for a connection that is not open yet. The list is a stack: the connection that was returned last is used
        # first, because it has pages in its cache.
        self._free: list[Reader | None] = [None] * _READERS_MAX

    @contextmanager
    def lent(self, *, timed: bool) -> Iterator[SqliteConnection]:
        """Lend a connection for one read transaction; see `Transactions.read`."""
        try:
            reader = self.take()
            try:
                connection = reader.connection
                reader.deadline_s = time.monotonic() + STATEMENT_TIMEOUT_S if timed else math.inf
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    # An error may have ended the transaction already. ROLLBACK rather than COMMIT, because SQLite refuses to
                    # commit a transaction that met a damaged page.
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            finally:
                self.give_back(reader)
        except apsw.InterruptError as error:
            raise LimitExceededError(
                f"a statement ran for longer than {STATEMENT_TIMEOUT_S} s (statement_timeout_s)",
                limit=STATEMENT_TIMEOUT_S,
            ) from error
        except (apsw.Error, OSError) as error:
            raise engine_error(error, "read") from error

    def take(self) -> Reader:
        """Take a free connection; the caller must return it with `give_back`.

        Raises:
            StoreBusyError: no connection became free in time.
            StoreUnavailableError: the catalogue is closed.
            apsw.Error: the connection cannot be opened.
        """
        with self._lock:
            if not self._free and not self._wait_until(lambda: self._closed or bool(self._free), _TURN_TIMEOUT_S):
                raise StoreBusyError(
                    f"{_READERS_MAX} reads of the catalogue have been going on for {_TURN_TIMEOUT_S:.0f} s",
                    retry_after_s=RETRY_AFTER_S,
                )
            if self._closed:
                raise StoreUnavailableError("the store is closed")
            taken = self._free.pop()
        if taken is not None:
            return taken
        try:
            return Reader(self._connect())
        except BaseException:
            self.give_back(None)
            raise

    def give_back(self, reader: Reader | None) -> None:
        """Return a connection; None: it could not be opened, and another may be opened in its place."""
        with self._lock:
            if reader is None:
                # Below the open ones: where no more can be opened, they are still of use.
                self._free.insert(0, None)
            else:
                self._free.append(reader)
            if self._waiters:
                self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Lend no more connections, wait for the lent ones, and close all; return False if one was not returned in time."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            all_back = self._wait_until(lambda: len(self._free) == _READERS_MAX, timeout_s)
            back, self._free = self._free, []
        for reader in back:
            if reader is not None:
                reader.connection.close()
        return all_back

    def _wait_until(self, happens: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until another thread makes the condition true; return whether it did in time. The lock is held."""
        give_up_s = time.monotonic() + timeout_s
        self._waiters += 1
        try:
            while not happens():
                left_s = give_up_s - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
            return True
        finally:
            self._waiters -= 1
