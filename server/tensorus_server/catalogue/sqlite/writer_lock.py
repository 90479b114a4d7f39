"""The lock of the catalogue's writer: a lock between threads, and `writer.lock` between processes.

Both waits have a timeout, after which the call fails with `StoreBusyError`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite.file_lock import FileLock
from tensorus_server.catalogue.sqlite.sqlite_errors import RETRY_AFTER_S
from tensorus_server.errors import StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["BUSY_TIMEOUT_MS", "WriterLock"]

BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process, or another program, that has the catalogue locked."""

_TURN_TIMEOUT_S = 60.0
"""How long to wait for other threads of this process, which may write much, and may have to wait for other processes, too."""


class WriterLock:
    """Both locks. The lock between threads is taken first."""

    def __init__(self, path: Path) -> None:
        """Use `writer.lock` at `path`; create it if it does not exist."""
        self._thread_lock = threading.Lock()
        self._file_lock = FileLock(path)

    @property
    def descriptor(self) -> int:
        """The descriptor of `writer.lock`."""
        return self._file_lock.descriptor

    @contextmanager
    def hold(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold both locks during the block, so that no other thread or process writes.

        Args:
            check: called after the first lock is taken; an exception that it raises releases the lock.
        """
        # Not composed from the methods below, because that is slower, and every write to the catalogue comes through here.
        self._take_thread_lock(_TURN_TIMEOUT_S)
        try:
            check()
            self._take_file_lock()
            try:
                yield
            finally:
                self._file_lock.release()
        finally:
            self._thread_lock.release()

    @contextmanager
    def hold_thread_lock(self, timeout_s: float | None = None) -> Iterator[None]:
        """Hold the lock between threads during the block; wait for it up to `timeout_s`, or `_TURN_TIMEOUT_S` if None."""
        self._take_thread_lock(_TURN_TIMEOUT_S if timeout_s is None else timeout_s)
        try:
            yield
        finally:
            self._thread_lock.release()

    @contextmanager
    def hold_file_lock(self) -> Iterator[None]:
        """Hold the lock between processes during the block. The caller holds the lock between threads."""
        self._take_file_lock()
        try:
            yield
        finally:
            self._file_lock.release()

    @contextmanager
    def hold_file_lock_if_free(self) -> Iterator[bool]:
        """Like `hold_file_lock`, but if another process has the lock, do not wait and yield False."""
        try:
            is_free = self._file_lock.acquire_if_free()
        except OSError as error:
            raise _not_taken(error) from error
        try:
            yield is_free
        finally:
            if is_free:
                self._file_lock.release()

    def close(self) -> None:
        """Close the file."""
        self._file_lock.close()

    def _take_thread_lock(self, timeout_s: float) -> None:
        if not self._thread_lock.acquire(timeout=timeout_s):
            raise StoreBusyError(
                f"another write of the catalogue has not ended after {timeout_s:.0f} s", retry_after_s=RETRY_AFTER_S
            )

    def _take_file_lock(self) -> None:
        try:
            taken = self._file_lock.acquire(BUSY_TIMEOUT_MS / 1000)
        except (OSError, RuntimeError) as error:
            raise _not_taken(error) from error
        if not taken:
            raise StoreBusyError(
                f"another process has had the catalogue's writer.lock for {BUSY_TIMEOUT_MS} ms (busy_timeout_ms)",
                retry_after_s=RETRY_AFTER_S,
            )


def _not_taken(error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(f"the catalogue's lock cannot be taken: {error}")
