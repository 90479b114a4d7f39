"""Tracks the processes that use a local store, and which of them hold payloads, with kernel locks that end with the process.

Each process creates a folder in `tmp/` and keeps it locked (flock). A folder that can be locked belongs to a dead process.
Kept payloads are locked by their keys, in `uploads.lock`.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import Leases, PayloadBusyError
from tensorus_server.chunk_store.os_errors import as_store_errors
from tensorus_server.key_locks import KeyLocks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LocalLeases", "living_processes"]


class LocalLeases(Leases):
    """The leases of one process on one store."""

    def __init__(self, store_folder: Path) -> None:
        """Create this process's folder in `tmp/` of the store, which must exist, and lock it.

        Raises:
            OSError: the folder cannot be created or locked.
        """
        self._parent = store_folder / "tmp"
        self.own_folder, self._descriptor = _make_locked_folder(self._parent)
        """The folder that this process writes to; removed when the leases are closed."""
        try:
            self._locks = KeyLocks(store_folder / "uploads.lock")
        except BaseException:
            os.close(self._descriptor)
            raise
        self._closed = False

    def acquire(self, payload_key: str) -> None:
        """See `Leases`."""
        if not self._locks.acquire(payload_key):
            raise PayloadBusyError(f"another writer has the payload {payload_key}")

    def release(self, payload_key: str) -> None:
        """See `Leases`."""
        self._locks.release(payload_key)

    def has_other_users(self) -> bool:
        """See `Leases`."""
        with as_store_errors("look for other processes"):
            return any(not _can_lock(descriptor) for descriptor, _ in self._foreign_folders())

    def sweep_folders(self) -> int:
        """Remove the folders of dead processes, and return how many files they had."""
        swept = 0
        with as_store_errors("drop the payloads of a dead process"):
            for descriptor, folder in self._foreign_folders():
                # Another sweep may have removed the folder since it was opened.
                with suppress(FileNotFoundError):
                    if _can_lock(descriptor):
                        swept += sum(1 for _ in folder.iterdir())
                        shutil.rmtree(folder)
        return swept

    def close(self) -> None:
        """See `Leases`."""
        if self._closed:
            return
        self._closed = True
        shutil.rmtree(self.own_folder, ignore_errors=True)
        os.close(self._descriptor)
        self._locks.close()

    def _foreign_folders(self) -> Iterator[tuple[int, Path]]:
        """Yield the folders of other processes, each with a descriptor that is closed before the next one."""
        return _open_folders(self._parent, self.own_folder)


def living_processes(store_folder: Path) -> int:
    """Return how many processes have the store in a folder open. Changes nothing.

    Raises:
        StoreUnavailableError: the folder cannot be read.
    """
    parent = store_folder / "tmp"
    if not parent.is_dir():
        return 0
    with as_store_errors("look for other processes"):
        return sum(not _can_lock(descriptor) for descriptor, _ in _open_folders(parent))


def _open_folders(parent: Path, own_folder: Path | None = None) -> Iterator[tuple[int, Path]]:
    for folder in parent.iterdir():
        if folder == own_folder:
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield descriptor, folder
            finally:
                os.close(descriptor)


def _can_lock(descriptor: int) -> bool:
    """Lock a folder if its process is dead, and return whether it is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_locked_folder(parent: Path) -> tuple[Path, int]:
    """Create a folder that belongs to this process while the descriptor is open."""
    while True:
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A sweep may have removed the folder before it was locked; then create another.
            if folder.exists():
                return folder, descriptor
            os.close(descriptor)
