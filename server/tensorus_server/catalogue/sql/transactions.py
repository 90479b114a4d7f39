"""The interface between the tables and their database, which is a file (`database.py`) or memory (`memory_database.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["Transactions"]

_Result = TypeVar("_Result")


class Transactions(Protocol):
    """Transactions of one database. Thread-safe."""

    def write(self) -> AbstractContextManager[Connection]:
        """Run the block in one transaction; any exception rolls it back.

        Raises:
            StoreBusyError: other writers kept the database locked for too long; nothing was written.
            StorageFullError: no space is left; nothing was written.
            StoreUnavailableError: the database takes no writes, or, for a file, the outcome of the commit is unknown.
        """

    def change(self, *, durable: bool = True) -> AbstractContextManager[Connection]:
        """Do the same as `write`, for a transaction that touches only the tables of members, leases and begun objects.

        It assigns no generations and deletes no tensors, so a database that has many writers need not make it wait for others.

        Args:
            durable: whether it must survive a crash of the database. Leases need not: commits check them.

        Raises:
            StoreBusyError, StorageFullError, StoreUnavailableError: see `write`.
        """

    def write_on_full_disk(self, work: Callable[[Connection], _Result]) -> _Result:
        """Run `work`, which deletes, in one transaction, even if no space is left. `work` may run several times.

        Raises:
            StorageFullError: it needs more space than can be freed.
            StoreUnavailableError: see `write`.
        """

    def read(self, *, timed: bool = True) -> AbstractContextManager[Connection]:
        """Lend a connection for one read transaction: the block sees a single state of the catalogue.

        Args:
            timed: whether its statements have a time limit.

        Raises:
            LimitExceededError: a statement ran for longer than `STATEMENT_TIMEOUT_S`.
            StoreBusyError: no connection became free in time.
            StoreUnavailableError: the database cannot be read, is damaged, or is closed.
        """

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Lend a connection for one read transaction that may take long; its first statement fixes the state that it sees.

        Raises:
            StoreBusyError, StoreUnavailableError: see `read`.
        """

    def file_bytes(self) -> int:
        """Return the size of the database, with its log."""

    def lock_file_if_free(self, name: str) -> AbstractContextManager[bool]:
        """Hold the lock with this name between processes during the block; yields False if another process holds it."""

    def checkpoint(self, *, idle: bool) -> None:
        """Do maintenance if it is due; do more if `idle`.

        Raises:
            StoreUnavailableError: the database takes no more writes.
        """
