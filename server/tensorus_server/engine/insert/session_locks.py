"""Locks that decide which worker of a server serves an insert: one lock for each request id.

A lock covers one byte of `sessions.lock`, at a position derived from the request id. It is an open file description lock: the
kernel releases it when the process ends for any reason. The file itself stays empty. An insert that no other worker serves
costs two system calls; a message to the other workers is needed only if one of them holds the lock.

Source: fcntl(2), "Open file description locks".
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["SessionLocks"]

_LOCK = struct.Struct("hhqqi4x")
"""struct flock: type, whence, start, length, process."""

_PLACES = 2**62
"""Number of positions. Two requests at one position would wait for each other, which is too unlikely to happen by chance."""


class SessionLocks:
    """The locks of one worker; implements `Peers`. Thread-safe; no method blocks but `end`."""

    look_s = 0.05

    def __init__(self, path: Path, ask: Callable[[str, int], None]) -> None:
        """Use the file at `path`; create it if it does not exist.

        Args:
            ask: tells the other workers to end their streams of a request that are older than a ticket; must not block.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ask = ask
        self._lock = threading.Lock()
        self._last_ticket = 0

    def attach(self, newer: Callable[[str, int], None]) -> None:
        """See `Peers`. The worker calls it, when its supervisor says so."""

    def arrive(self, _: str, *, contended: bool) -> int:  # noqa: ARG002 - tickets cost nothing
        """See `Peers`."""
        return self.ticket()

    def ticket(self) -> int:
        """Return the next ticket. They come from the monotonic clock, which all processes of the machine share."""
        with self._lock:
            self._last_ticket = max(time.monotonic_ns(), self._last_ticket + 1)
            return self._last_ticket

    def try_lock(self, request_id: str, _: int) -> bool:
        """See `Peers`."""
        try:
            self._control(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, request_id)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, request_id: str, _: int, *, at_once: bool) -> None:  # noqa: ARG002 - a system call is cheap
        """See `Peers`. Does nothing after `close`, since a stream that was told to end may outlive that for a moment."""
        if self._descriptor >= 0:
            self._control(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, request_id)

    def withdraw(self, request_id: str, ticket: int) -> None:
        """See `Peers`. A ticket alone takes nothing."""

    def is_locked(self, request_id: str) -> bool:
        """See `Peers`."""
        return self._control(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, request_id) != fcntl.F_UNLCK

    def ask(self, request_id: str, ticket: int) -> None:
        """See `Peers`."""
        self._ask(request_id, ticket)

    def end(self, request_id: str, timeout_s: float) -> bool:
        """See `Peers`."""
        give_up_s = time.monotonic() + timeout_s
        while self.is_locked(request_id):
            if time.monotonic() > give_up_s:
                return False
            self.ask(request_id, self.ticket())
            time.sleep(self.look_s)
        return True

    def close(self) -> None:
        """Release all locks. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _control(self, command: int, kind: int, request_id: str) -> int:
        """Call fcntl for the lock of the request, and return the type of lock in its answer."""
        digest = blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
        place = int.from_bytes(digest, "little") % _PLACES
        answer = fcntl.fcntl(self._descriptor, command, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        found: int = _LOCK.unpack(answer)[0]
        return found
