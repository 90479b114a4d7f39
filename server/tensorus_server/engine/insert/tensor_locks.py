"""Locks by which edits of one tensor wait for each other, from reading the tensor to the end of the commit.

Edits of one process wait for each other in memory. Those of several processes share locks (`SharedLocks`): in a file, or in the
catalogue if they are on several machines. Whoever
waits for a shared lock holds a second one, the gate, so that a process with many edits does not keep it from all others.

Inserts and deletions take no such locks. If one replaces or deletes the tensor meanwhile, the commit notices, and the client
repeats the edit.
"""

from __future__ import annotations

import threading
import time
from hashlib import blake2b
from typing import TYPE_CHECKING, Protocol

from tensorus_server.errors import StoreBusyError
from tensorus_server.limits import EDIT_TIMEOUT_S

if TYPE_CHECKING:
    from tensorus_server.model import Dataset

__all__ = ["SharedLocks", "TensorLock", "TensorLocks"]


class SharedLocks(Protocol):
    """Locks by key that several processes share: `KeyLocks`, or `LeaseLocks`. Thread-safe; no method waits for a lock."""

    poll_s: tuple[float, float]
    """How often to look whether another process has released a lock: at first, and at last."""

    def acquire(self, key: str) -> bool:
        """Take the lock of a key; return False if it is held, in this process or another."""

    def acquire_unless(self, key: str, gate: str) -> bool:
        """Take the lock of a key unless somebody has that of `gate`."""

    def release(self, key: str) -> None:
        """Release the lock; has no effect if it is not held."""

    def close(self) -> None:
        """Release all locks. Idempotent."""


class TensorLock:
    """The lock of one tensor, held."""

    def __init__(self, locks: TensorLocks, key: tuple[int, str]) -> None:
        """Belong to the holder, who releases it on any thread."""
        self._locks = locks
        self._key = key

    def release(self) -> None:
        """Let the next edit begin. To be called once."""
        self._locks.release(self._key)


class TensorLocks:
    """The locks of all tensors that are being edited. Thread-safe."""

    def __init__(self, shared: SharedLocks | None = None) -> None:
        """Start without locks.

        Args:
            shared: the locks of all processes of the store; `close` closes them. None: this process has the store alone.
        """
        self._shared = shared
        self._lock = threading.Lock()
        self._held: dict[tuple[int, str], tuple[threading.Lock, int]] = {}

    def acquire(self, dataset: Dataset, tensor_id: str) -> TensorLock:
        """Wait for the tensor's lock.

        Raises:
            StoreBusyError: other edits of the tensor have taken longer than `EDIT_TIMEOUT_S`.
        """
        key = (dataset.number, tensor_id)
        give_up_s = time.monotonic() + EDIT_TIMEOUT_S
        with self._lock:
            turn, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = turn, users + 1
        try:
            if turn.acquire(timeout=EDIT_TIMEOUT_S):
                try:
                    if self._take_shared(key, give_up_s):
                        return TensorLock(self, key)
                except BaseException:
                    turn.release()
                    raise
                turn.release()
        except BaseException:
            self._leave(key)
            raise
        self._leave(key)
        raise StoreBusyError(
            f"other edits of the tensor have taken longer than {EDIT_TIMEOUT_S:.0f} s (edit_timeout_s); repeat the edit",
            dataset=dataset.name,
            tensor=tensor_id,
        )

    def release(self, key: tuple[int, str]) -> None:
        """See `TensorLock.release`."""
        try:
            if self._shared is not None:
                self._shared.release(_shared_key(key, "tensor"))
        finally:
            self._held[key][0].release()
            self._leave(key)

    def close(self, timeout_s: float = 0.0) -> bool:  # noqa: ARG002 - nothing is in progress
        """Release the shared locks, and return True. Idempotent."""
        if self._shared is not None:
            self._shared.close()
        return True

    def _leave(self, key: tuple[int, str]) -> None:
        with self._lock:
            turn, users = self._held[key]
            if users == 1:
                del self._held[key]
            else:
                self._held[key] = turn, users - 1

    def _take_shared(self, key: tuple[int, str], give_up_s: float) -> bool:
        """Take the lock that all processes share; return False if the time is up. The caller has this process's lock."""
        if self._shared is None:
            return True
        gate, tensor = _shared_key(key, "gate"), _shared_key(key, "tensor")
        if self._shared.acquire_unless(tensor, gate):
            return True
        if not self._wait_for(gate, give_up_s):
            return False
        try:
            return self._wait_for(tensor, give_up_s)
        finally:
            self._shared.release(gate)

    def _wait_for(self, shared_key: str, give_up_s: float) -> bool:
        assert self._shared is not None
        wait_s, longest_s = self._shared.poll_s
        while not self._shared.acquire(shared_key):
            if time.monotonic() > give_up_s:
                return False
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)
        return True


def _shared_key(key: tuple[int, str], kind: str) -> str:
    number, tensor_id = key
    return blake2b(f"{kind} {number} {tensor_id}".encode(errors="surrogatepass"), digest_size=8).hexdigest()
