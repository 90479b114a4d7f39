"""A catalogue in PostgreSQL: its connections and its transactions.

Generations must be assigned in the order of the commits, so each transaction that assigns them, or deletes tensors, holds one
advisory lock from its begin until after its commit: it runs alone, as with SQLite. The lock belongs to the transaction, so it
works behind pgbouncer in transaction mode, and ends with the connection of a process that dies. Within a process, threads take
turns first, so that only one of them waits with a connection.

All settings are set in each transaction, for the same reason, in the message that begins it. Every wait has a time limit.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

from tensorus_server.catalogue.postgres.commits import commit
from tensorus_server.catalogue.postgres.connection import PostgresConnection
from tensorus_server.catalogue.postgres.migrations import migrations
from tensorus_server.catalogue.postgres.pool import CONNECTIONS_MAX, Pool, connect
from tensorus_server.catalogue.postgres.postgres_errors import RETRY_AFTER_S, engine_error, unavailable
from tensorus_server.errors import StoreBusyError, StoreUnavailableError
from tensorus_server.limits import STATEMENT_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus_server.catalogue.postgres.address import Address
    from tensorus_server.catalogue.postgres.pool import PooledConnection
    from tensorus_server.meters import Connections

__all__ = ["Database", "lock_number"]

_WRITER_WAIT_S = 60.0
"""How long a transaction waits for others that write: longer than any of them should take."""

_WRITE_STATEMENT_S = 600.0
"""How long a statement of a write may run. A restore deletes and inserts tens of thousands of rows with a few."""

_IDLE_S = 60.0
"""How long a transaction may do nothing, before the server ends it: its process hangs, and others may wait for its locks."""

_LOCK_IDLE_S = 600.0
"""The same for a transaction that only holds a lock."""

_PLANS = "SET LOCAL jit = off; SET LOCAL random_page_cost = 1.1; "
"""Every statement is meant to use indexes, and to take milliseconds, for which compiling it does not pay."""

_Result = TypeVar("_Result")


def lock_number(schema: str, name: str) -> int:
    """Return the number of an advisory lock. The locks of stores in other schemas have other numbers."""
    digest = hashlib.sha256(f"tensorus/{schema}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class Database:
    """The connections to one catalogue, whose schema exists. Implements `Transactions`. Thread-safe."""

    def __init__(self, address: Address) -> None:
        """Connect when a connection is needed."""
        self._address = address
        self._pool = Pool(address)
        self._closed = False
        self._turn = threading.Lock()
        settings = f'SET LOCAL search_path = "{address.schema}"; {_PLANS}'
        idle = f"SET LOCAL idle_in_transaction_session_timeout = {_ms(_IDLE_S)}; "
        read = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {settings}"
        self._begin_untimed = f"{read}SET LOCAL statement_timeout = 0"
        self._begin_read = f"{read}{idle}SET LOCAL statement_timeout = {_ms(STATEMENT_TIMEOUT_S)}"
        self._begin_change = (
            f"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; {settings}{idle}"
            f"SET LOCAL statement_timeout = {_ms(_WRITE_STATEMENT_S)}; SET LOCAL lock_timeout = {_ms(_WRITER_WAIT_S)}; "
            # A stricter setting stays.
            "SELECT set_config('synchronous_commit', 'on', true) "
            "WHERE current_setting('synchronous_commit') IN ('off', 'local'); "
            "SELECT pg_advisory_xact_lock({number}); {first}"
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint "
            f"WHERE NOT EXISTS (SELECT 1 FROM schema_version WHERE version > {max(migrations())})"
        )
        self._writer_lock = f"SELECT pg_advisory_xact_lock({lock_number(address.schema, 'write')}); "

    @property
    def where(self) -> str:
        """The server and the database, for messages."""
        return self._address.where

    def check_writable(self) -> None:
        """Raise `StoreUnavailableError` after `close`."""
        if self._closed:
            raise StoreUnavailableError("the store is closed")

    def connections(self) -> Connections:
        """Return how many connections there are now."""
        return self._pool.connections()

    def check_present(self) -> None:
        """Check that the server answers and takes writes.

        Raises:
            StoreUnavailableError: it does not, or is a standby.
        """
        with self.read() as connection:
            is_standby = connection.execute("SELECT pg_is_in_recovery()").fetchall() == [(True,)]
        if is_standby:
            raise StoreUnavailableError(
                f"{self.where}: the server is a standby and takes no writes", retry_after_s=RETRY_AFTER_S
            )

    @contextmanager
    def write(self) -> Iterator[PostgresConnection]:
        """Run the block in one transaction, alone, which is durable when the block ends; any exception rolls it back.

        Raises:
            StoreBusyError: another writer took too long; nothing was written.
            StorageFullError: no space is left; nothing was written.
            StoreUnavailableError: the server is away; nothing was written, unless it stays away during the commit: then the
                outcome is unknown, and a repeated call finds it.
        """
        self.check_writable()
        if not self._turn.acquire(timeout=_WRITER_WAIT_S):
            raise StoreBusyError(
                f"another write of the catalogue has been going on for {_WRITER_WAIT_S:.0f} s",
                retry_after_s=RETRY_AFTER_S,
            )
        try:
            with self._transaction(self._writer_lock) as connection:
                yield connection
        finally:
            self._turn.release()

    @contextmanager
    def change(self, *, durable: bool = True) -> Iterator[PostgresConnection]:
        """See `Transactions`. It runs at the same time as others."""
        self.check_writable()
        with self._transaction("" if durable else "SET LOCAL synchronous_commit = off; ") as connection:
            yield connection

    def write_on_full_disk(self, work: Callable[[PostgresConnection], _Result]) -> _Result:
        """See `Transactions`. The server's disk is the matter of who runs it: nothing is freed for the deletion."""
        with self.write() as connection:
            return work(connection)

    @contextmanager
    def read(self, *, timed: bool = True) -> Iterator[PostgresConnection]:
        """See `Transactions`."""
        begin = self._begin_read if timed else self._begin_untimed
        try:
            pooled, _ = self._begun(lambda _: begin)
            try:
                yield PostgresConnection(pooled.raw, begin, reads=True)
            finally:
                self._end(pooled)
        except psycopg.Error as error:
            raise engine_error(error, self.where, "read") from error

    @contextmanager
    def snapshot(self) -> Iterator[PostgresConnection]:
        """See `Transactions`. Beside the pool: a thread that writes meanwhile must not wait for a connection."""
        self.check_writable()
        try:
            with connect(self._address) as raw:
                raw.execute(self._begin_untimed.encode(), prepare=False)
                yield PostgresConnection(raw, self._begin_untimed, reads=True)
        except psycopg.Error as error:
            raise engine_error(error, self.where, "read") from error

    def file_bytes(self) -> int:
        """Return the size of the tables with their indexes."""
        statement = (
            "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = to_regnamespace(?)"
        )
        with self.read() as connection:
            ((total,),) = connection.execute(statement, (self._address.schema,)).fetchall()
        return int(total)

    @contextmanager
    def lock_file_if_free(self, name: str) -> Iterator[bool]:
        """Hold an advisory lock with this name during the block; yields False if another process holds it.

        It ends with its connection. If that breaks during the block, another process may take it, which does no harm: whatever
        is done under such a lock may be done by two at once, only not faster.
        """
        begin = (
            f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {_ms(_LOCK_IDLE_S)}; "
            f"SELECT pg_try_advisory_xact_lock({lock_number(self._address.schema, name)})"
        )
        try:
            pooled, is_free = self._begun(lambda _: begin)
        except psycopg.Error as error:
            raise engine_error(error, self.where, "read") from error
        try:
            yield bool(is_free)
        finally:
            self._end(pooled)

    def checkpoint(self, *, idle: bool) -> None:
        """See `Transactions`. The server does its own maintenance."""

    def close(self, timeout_s: float) -> None:
        """Close all connections. Idempotent; waits up to `timeout_s` for transactions in progress.

        Raises:
            StoreBusyError: one did not end in time. Its connection is closed when it does.
        """
        self._closed = True
        if not self._pool.close(timeout_s):
            raise StoreBusyError(f"a call of the catalogue has not ended after {timeout_s:.0f} s")

    @contextmanager
    def _transaction(self, first: str) -> Iterator[PostgresConnection]:
        """Run the block in a transaction that writes.

        Args:
            first: statements that belong to its begin.
        """
        try:
            begin = self._begin_change
            pooled, now_us = self._begun(lambda number: begin.format(number=number, first=first))
            try:
                if now_us is None:
                    raise StoreUnavailableError(
                        f"{self.where}: a newer version of Tensorus has migrated the catalogue; stop this process, and start "
                        "that version"
                    )
                yield PostgresConnection(pooled.raw, begin, reads=False, now_us=int(now_us))
                commit(self._address, pooled)
            finally:
                self._end(pooled)
        except psycopg.Error as error:
            raise engine_error(error, self.where, "written") from error

    def _begun(self, begin: Callable[[int], str]) -> tuple[PooledConnection, Any]:
        """Take a connection and begin a transaction in it.

        Args:
            begin: returns the statements for a connection's number.

        Returns:
            The connection, and the value that the last statement returned; None: it returned no row.
        """
        for _ in range(CONNECTIONS_MAX + 1):
            try:
                pooled = self._pool.take()
            except psycopg.Error as error:
                raise unavailable(error, self.where, "it cannot be reached") from error
            try:
                cursor = pooled.raw.execute(begin(pooled.number).encode(), prepare=False)
                while cursor.nextset():
                    pass
                rows = cursor.fetchall() if cursor.description is not None else []
                return pooled, rows[0][0] if rows else None
            except BaseException as error:
                is_stale = isinstance(error, psycopg.OperationalError) and pooled.raw.closed and not pooled.is_new
                self._end(pooled)
                if not is_stale:
                    raise
                # The server was restarted, or has closed an idle connection. Nothing was done yet.
                self._pool.discard_free()
        raise StoreUnavailableError(f"{self.where}: connections break at once", retry_after_s=RETRY_AFTER_S)

    def _end(self, pooled: PooledConnection) -> None:
        """Roll back what was not committed, and return the connection."""
        with suppress(psycopg.Error):
            if not pooled.raw.closed and pooled.raw.info.transaction_status.name != "IDLE":
                pooled.raw.execute("ROLLBACK", prepare=False)
        self._pool.give_back(pooled)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
