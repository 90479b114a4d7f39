"""The lock between a backup and whatever deletes payloads, in the file `backup.lock` of a store's folder.

A sweep shares it while it deletes a batch of payloads. A backup has it alone until it has every payload that its copy of the
catalogue names. The kernel releases it when a process ends. Each use opens the file anew, so threads exclude each other, too.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.os_errors import as_store_errors
from tensorus_server.errors import StorageFullError, StoreBusyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["BackupLock"]

_WAIT_S = 60.0
"""How long a backup waits for a sweep to end its batch, which takes milliseconds on a healthy disk."""

_POLL_S = 0.01


class BackupLock:
    """The lock of one store."""

    def __init__(self, folder: Path) -> None:
        """Use the file in the store's folder; it is created when it is first needed."""
        self._path = folder / "backup.lock"

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Share the lock during the block, without waiting; yield False if a backup has it.

        Raises:
            StoreUnavailableError: the store's folder was removed, or the file cannot be opened or locked.
        """
        try:
            with as_store_errors("lock the store against backups"):
                descriptor = self._open()
        except StorageFullError:
            # The file does not exist, so no backup has it, nor can make it. A sweep must be able to free space.
            yield True
            return
        try:
            with as_store_errors("lock the store against backups"):
                is_shared = _lock(descriptor, fcntl.LOCK_SH)
            yield is_shared
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the lock alone during the block.

        Raises:
            StoreBusyError: it is not free after a minute.
        """
        descriptor = self._open()
        try:
            until_s = time.monotonic() + _WAIT_S
            while not _lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() >= until_s:
                    raise StoreBusyError(
                        f"{self._path} is still locked after {_WAIT_S:.0f} s: another backup of this store is running, or a "
                        "sweep hangs",
                        retry_after_s=_WAIT_S,
                    )
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            owner = self._path.parent.stat()
            if os.geteuid() == 0 and os.fstat(descriptor).st_uid != owner.st_uid:
                # A backup that root makes must not leave a file that the server cannot open.
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
