"""Which worker has which insert: a lock for each request, between the workers of one server.

A lock is one byte of `sessions.lock`, at a place that follows from the request's id. The kernel keeps it for whoever opened the
file (an "open file description lock"), and lets go of it however that process ends; the file itself stays empty. So an insert
that nobody else has costs two calls of the system, and a word to the other workers only where one of them has it.

Source: fcntl(2), "Open file description locks".
"""

from __future__ import annotations

import fcntl
import os
import struct
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
"""Two requests at one place would have to wait for each other; that does not happen by chance."""


class SessionLocks:
    """The locks of one worker; see `Peers`. One thread at a time."""

    def __init__(self, path: Path, ask: Callable[[str, int], None]) -> None:
        """Use the file at `path`, which is made if it is not there.

        Args:
            ask: has the other workers end their streams of a request, if they are older than a ticket; must not wait.
        """
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ask = ask
        self._last_ticket = 0

    def ticket(self) -> int:
        """See `Peers`. The clock is the same in all processes of the machine."""
        self._last_ticket = max(time.monotonic_ns(), self._last_ticket + 1)
        return self._last_ticket

    def try_lock(self, request_id: str) -> bool:
        """See `Peers`."""
        try:
            self._control(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, request_id)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def unlock(self, request_id: str) -> None:
        """See `Peers`. Without effect after `close`, which a stream that was told to end may outlive for a moment."""
        if self._descriptor >= 0:
            self._control(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, request_id)

    def is_locked(self, request_id: str) -> bool:
        """See `Peers`."""
        return self._control(fcntl.F_OFD_GETLK, fcntl.F_WRLCK, request_id) != fcntl.F_UNLCK

    def ask(self, request_id: str, ticket: int) -> None:
        """See `Peers`."""
        self._ask(request_id, ticket)

    def close(self) -> None:
        """Let go of every lock. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _control(self, command: int, kind: int, request_id: str) -> int:
        """Call fcntl for the lock of the request, and return the kind of lock that it answers with."""
        digest = blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest()
        place = int.from_bytes(digest, "little") % _PLACES
        answer = fcntl.fcntl(self._descriptor, command, _LOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        found: int = _LOCK.unpack(answer)[0]
        return found
