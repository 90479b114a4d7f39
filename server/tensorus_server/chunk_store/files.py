"""All file operations of the local chunk store.

They are in one class, so that tests can replace it to inject faults, or to lose data that was not synced.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from typing_extensions import Buffer

__all__ = ["Files", "UnsyncedFiles"]

_IOV_MAX = 1024
"""Largest number of buffers in one call: Linux's UIO_MAXIOV."""

_NO_FULL_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOTTY})
"""The errors of F_FULLFSYNC on file systems of macOS that do not support it."""


class Files:
    """File operations of the operating system. Every method raises the `OSError` of its system call."""

    def create(self, path: Path) -> int:
        """Create a file, which must not exist, and return a descriptor to write to it."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open_to_write(self, path: Path) -> int:
        """Return a descriptor to append to an existing file."""
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def open_to_change(self, path: Path) -> int:
        """Return a descriptor to write anywhere in an existing file."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """Overwrite the bytes that start at `offset`."""
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)

    def cut(self, descriptor: int, length: int) -> None:
        """Truncate the file to its first `length` bytes."""
        os.ftruncate(descriptor, length)

    def write_all(self, descriptor: int, buffers: Sequence[Buffer]) -> int:
        """Append all buffers and return their total size in bytes."""
        pending = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
        total = 0
        while pending:
            written = os.writev(descriptor, pending[:_IOV_MAX])
            total += written
            while pending and written >= pending[0].nbytes:
                written -= pending.pop(0).nbytes
            if written:
                pending[0] = pending[0][written:]
        return total

    def sync_data(self, descriptor: int) -> None:
        """Make the file's bytes and length durable."""
        _sync(descriptor, data_only=True)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file within the file system, atomically, and set its modification time, which listings report, to now."""
        os.utime(source)
        source.rename(target)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _sync(descriptor, data_only=False)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def open_to_read(self, path: Path) -> int:
        """Return a descriptor to read the file."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, or fewer if the file ends before that."""
        data = os.pread(descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        while len(data) and sum(map(len, parts)) < length:
            done = sum(map(len, parts))
            data = os.pread(descriptor, length - done, offset + done)
            parts.append(data)
        return b"".join(parts)

    def read_into(self, descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill the buffers from `offset`, one after the other, and return how many bytes there were; fewer if the file ends."""
        return os.preadv(descriptor, buffers, offset)


class UnsyncedFiles(Files):
    """File operations without syncs, for data that is not needed after a crash of the machine; see `EngineConfig.in_memory`."""

    def sync_data(self, descriptor: int) -> None:
        """Do nothing: the system writes the data to the disk whenever it wants."""

    def sync_folder(self, folder: Path) -> None:
        """Do nothing, likewise."""


def _sync(descriptor: int, *, data_only: bool) -> None:
    """Sync a file with the strongest call that the system has.

    On macOS, `fsync` leaves the data in the disk's cache, which loses it if the power fails. F_FULLFSYNC makes the disk write
    its cache.

    Source: fsync(2) and fcntl(2) of macOS; fdatasync(2) of Linux, which syncs the bytes and the length, but not the times.
    """
    full_sync: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
        except OSError as error:
            # Any other error comes from the disk. A second sync would then succeed although data is lost.
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    if data_only and hasattr(os, "fdatasync"):
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)
