"""Whose turn it is to write the catalogue: a lock between threads, then `writer.lock` between processes.

Each is waited for only so long; then the call gets `StoreBusyError`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite.faults import RETRY_AFTER_S
from tensorus_server.catalogue.sqlite.file_lock import FileLock
from tensorus_server.errors import StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["BUSY_TIMEOUT_MS", "Turns"]

BUSY_TIMEOUT_MS = 10_000
"""How long to wait for another process, or another program, that has the catalogue locked."""

_TURN_TIMEOUT_S = 60.0
"""How long to wait for other threads of this process: each of them has to wait for other processes, too, and may write much."""


class Turns:
    """Both locks. The thread's is taken first."""

    def __init__(self, path: Path) -> None:
        """Use `writer.lock` at `path`, which is made if it is not there."""
        self._thread_lock = threading.Lock()
        self._file_lock = FileLock(path)

    @property
    def descriptor(self) -> int:
        """Of `writer.lock`."""
        return self._file_lock.descriptor

    @contextmanager
    def of_both(self, check: Callable[[], None]) -> Iterator[None]:
        """Keep everybody else from writing during the block.

        Args:
            check: called between the two; what it raises ends the turn.
        """
        # One function for both: every write of the catalogue passes here.
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
    def of_thread(self, timeout_s: float | None = None) -> Iterator[None]:
        """Keep the other threads of this process from writing during the block; None: wait for `_TURN_TIMEOUT_S`."""
        self._take_thread_lock(_TURN_TIMEOUT_S if timeout_s is None else timeout_s)
        try:
            yield
        finally:
            self._thread_lock.release()

    @contextmanager
    def of_process(self) -> Iterator[None]:
        """Keep other processes from writing during the block. The thread lock is held."""
        self._take_file_lock()
        try:
            yield
        finally:
            self._file_lock.release()

    @contextmanager
    def of_process_if_free(self) -> Iterator[bool]:
        """As `of_process` where no other process has the lock; yields whether that is so."""
        is_free = self._file_lock.acquire_if_free()
        try:
            yield is_free
        finally:
            if is_free:
                self._file_lock.release()

    def close(self) -> None:
        """Let go of the file."""
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
            raise StoreUnavailableError(f"the catalogue's lock cannot be had: {error}") from error
        if not taken:
            raise StoreBusyError(
                f"another process has had the catalogue's writer.lock for {BUSY_TIMEOUT_MS} ms (busy_timeout_ms)",
                retry_after_s=RETRY_AFTER_S,
            )
