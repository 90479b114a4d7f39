"""Raises the epoch of a store so that a catalogue that has lost its log is detected.

This invariant holds at every moment, no matter which process is killed:

    If the log holds a commit that was reported to a client and is not yet in the database file, the chunk store's epoch is
    higher than the one in the database file.

So a database file without its log is behind its payloads, and `identity_check.require_match` refuses it. Commits and
checkpoints maintain the invariant:

Commits. Copying the log (a checkpoint) brings the epoch in the database file up to the chunk store's. The first commit after
that raises the epoch, and writes it to the chunk store before the commit is reported to anyone. The processes that share the
store record whether the epoch is due in the length of `writer.lock`, which they read and write while they hold its lock:

    0 bytes     the next commit must raise the epoch; set when a catalogue is opened, and before a log is copied
    1 byte      the chunk store's epoch is already higher than the database file's, so commits need not raise it

A process that is killed between its commit and the write to the chunk store leaves 0 bytes, so the next commit of any process
raises the epoch again. In the steady state, the check costs each commit one `fstat`.

Checkpoints. Pages are copied in any order, and a process may be killed halfway. So the page with the epoch must be copied last.
First the epoch is raised once more, after a read transaction has pinned the log before that commit. Everything up to the pin is
copied and synced. Then the pin is released, and the last page is copied.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tensorus_server.model import StoreIdentity

if TYPE_CHECKING:
    import apsw

    from tensorus_server.catalogue.identity_check import Payloads

__all__ = ["EpochKeeper", "FolderRemovedError", "read_identity"]


class FolderRemovedError(Exception):
    """The store's files were removed while it was open, so writes would be lost. Used only within the catalogue."""

    def __init__(self) -> None:
        """Create the error with its fixed message."""
        super().__init__("the store's folder was removed while it was open; it takes no more writes")


class EpochKeeper:
    """Manages the epoch of one catalogue. All methods except `require_folder` need the lock on `writer.lock`."""

    def __init__(self, lock_fd: int, payloads: Payloads | None) -> None:
        """Use the descriptor of `writer.lock`.

        Args:
            payloads: the chunk store, which stores the epoch, too; None: a lost log is not detected.
        """
        self._lock_fd = lock_fd
        self._payloads = payloads

    def require_folder(self) -> None:
        """Raise `FolderRemovedError` if the store's files are gone."""
        if os.fstat(self._lock_fd).st_nlink == 0:
            raise FolderRemovedError

    def raise_if_due(self, connection: apsw.Connection) -> StoreIdentity | None:
        """Raise the epoch within the connection's transaction, if that is due.

        Returns:
            The identity to call `publish` with after the commit; None: it was not due.

        Raises:
            FolderRemovedError: the store's files are gone.
        """
        status = os.fstat(self._lock_fd)
        if status.st_nlink == 0:
            raise FolderRemovedError
        if status.st_size:
            return None
        return _identity(connection, "UPDATE store SET epoch = epoch + 1 RETURNING id, epoch")

    def publish(self, identity: StoreIdentity) -> None:
        """Write the epoch to the chunk store, durably, and record that later commits need not raise it.

        Raises:
            StoreUnavailableError, StorageFullError: the write failed; the commit must not be reported as successful.
        """
        if self._payloads is not None:
            self._payloads.write_identity(identity)
            os.ftruncate(self._lock_fd, 1)

    def make_due(self) -> None:
        """Make the next commit raise the epoch; called before the log is copied, and when a catalogue is opened."""
        os.ftruncate(self._lock_fd, 0)


def read_identity(connection: apsw.Connection) -> StoreIdentity:
    """Return the catalogue's identity."""
    return _identity(connection, "SELECT id, epoch FROM store")


def _identity(connection: apsw.Connection, statement: str) -> StoreIdentity:
    rows: list[tuple[Any, ...]] = connection.execute(statement).fetchall()  # `Any`: the schema says which types
    ((store_id, epoch),) = rows
    return StoreIdentity(store_id, epoch)
