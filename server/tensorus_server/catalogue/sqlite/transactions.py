"""What the tables ask of the database under them: a file (`database.py`), or memory (`memory_database.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import apsw

__all__ = ["Transactions"]

_Result = TypeVar("_Result")


class Transactions(Protocol):
    """Transactions of one database. Safe in many threads."""

    def write(self) -> AbstractContextManager[apsw.Connection]:
        """Run the block in one transaction; any exception undoes it.

        Raises:
            StoreBusyError: somebody else writes, for long; nothing was written.
            StorageFullError: there is no room; nothing was written.
            StoreUnavailableError: it takes no writes; or, of a file, the outcome of the commit is unknown.
        """

    def write_on_full_disk(self, work: Callable[[apsw.Connection], _Result]) -> _Result:
        """Run `work`, which deletes, in one transaction, also where no space is left. It may run several times.

        Raises:
            StorageFullError: it needs more room than can be had.
            StoreUnavailableError: see `write`.
        """

    def read(self, *, timed: bool = True) -> AbstractContextManager[apsw.Connection]:
        """Lend a connection for one read transaction: what the block sees is one state of the catalogue.

        Args:
            timed: whether its statements are bounded in time.

        Raises:
            LimitExceededError: a statement ran for longer than `STATEMENT_TIMEOUT_S`.
            StoreBusyError: no connection can be had, for long.
            StoreUnavailableError: it cannot be read, or is damaged or closed.
        """

    def snapshot(self) -> AbstractContextManager[apsw.Connection]:
        """Lend a connection for one read transaction that may take long; its first statement settles what it sees.

        Raises:
            StoreBusyError, StoreUnavailableError: as of `read`.
        """

    def lock_file_if_free(self, name: str) -> AbstractContextManager[bool]:
        """Keep other processes from what goes by this name during the block; yields False where one is at it."""

    def checkpoint(self, *, idle: bool) -> None:
        """Tidy up, where there is something to tidy up; more of it where there is time.

        Raises:
            StoreUnavailableError: it takes no writes any more.
        """
