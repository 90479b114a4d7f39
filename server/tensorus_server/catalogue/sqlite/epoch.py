"""When the epoch of a store is raised, so that a catalogue that lost its log is found out.

The rule that holds at every moment, whoever is killed:

    Where the log holds a commit that was acknowledged and that is not in the database file, the chunk store's epoch is
    higher than the one in the database file.

So a database file without its log is behind its payloads, and `identity.require_match` refuses it. Two things keep the rule:

Commits. Copying the log (a checkpoint) brings the epoch in the database file up to the chunk store's. The first commit after
it raises the epoch, and writes it to the chunk store before anybody is told of the commit. Whether it is due, the processes
that share the store tell each other by the length of `writer.lock`, which they read and write under its lock:

    0 bytes     the next commit must raise the epoch. So it is after an opening, and from before a log is copied
    1 byte      the chunk store's epoch is higher than the database file's: commits need not care

One that is killed between its commit and the chunk store leaves 0, and the next commit raises the epoch again, whoever's it is.
In the steady state a commit pays one `fstat`.

Checkpoints. Pages are copied in any order, and a process may be killed halfway. So the page with the epoch comes last: first
the epoch is raised once more, behind a read transaction that pins the log before this commit; everything up to the pin is
copied and synced; then the pin goes, and the last page follows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tensorus_server.model import StoreIdentity

if TYPE_CHECKING:
    import apsw

    from tensorus_server.catalogue.identity import Payloads

__all__ = ["EpochKeeper", "FolderRemovedError", "read_identity"]


class FolderRemovedError(Exception):
    """The files of the store were removed while it was open: what is written is lost. Never leaves the catalogue."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the store's folder was removed while it was open; it takes no more writes")


class EpochKeeper:
    """The epoch of one catalogue. Every method needs the lock on `writer.lock`, but for `require_folder`."""

    def __init__(self, lock_fd: int, payloads: Payloads | None) -> None:
        """Use the descriptor of `writer.lock`.

        Args:
            payloads: what follows the epoch; None: nothing does, and a lost log is not found out.
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
            What `publish` must be called with after the commit; None: nothing.

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
        """Make the chunk store follow, durably, and note that later commits need not care.

        Raises:
            StoreUnavailableError, StorageFullError: it could not; nobody may be told of the commit.
        """
        if self._payloads is not None:
            self._payloads.write_identity(identity)
            os.ftruncate(self._lock_fd, 1)

    def make_due(self) -> None:
        """Have the next commit raise the epoch: before the log is copied, and at an opening."""
        os.ftruncate(self._lock_fd, 0)


def read_identity(connection: apsw.Connection) -> StoreIdentity:
    """Return the catalogue's identity."""
    return _identity(connection, "SELECT id, epoch FROM store")


def _identity(connection: apsw.Connection, statement: str) -> StoreIdentity:
    rows: list[tuple[Any, ...]] = connection.execute(statement).fetchall()  # `Any`: the schema says which types
    ((store_id, epoch),) = rows
    return StoreIdentity(store_id, epoch)
