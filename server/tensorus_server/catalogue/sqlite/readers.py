"""The connections that read the catalogue: a few, each lent for one short transaction."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite.faults import RETRY_AFTER_S
from tensorus_server.errors import StoreBusyError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

__all__ = ["Readers"]

_READERS_MAX = 8

_TURN_TIMEOUT_S = 60.0
"""How long to wait for a connection: longer than any statement of a query runs."""

_LOOK_S = 0.1
"""How often who waits for a connection checks whether the catalogue is closed."""


class Readers:
    """See the module's description. Safe in many threads."""

    def __init__(self, connect: Callable[[], apsw.Connection]) -> None:
        """Start with none; `connect` opens one when it is needed."""
        self._connect = connect
        self._closed = threading.Event()
        # None: a connection that may be opened.
        self._free: queue.LifoQueue[apsw.Connection | None] = queue.LifoQueue()
        for _ in range(_READERS_MAX):
            self._free.put(None)

    @contextmanager
    def lent(self) -> Iterator[apsw.Connection]:
        """Lend a connection for the block.

        Raises:
            StoreBusyError: all are lent, for long.
            StoreUnavailableError: the catalogue is closed.
        """
        lent = self._take()
        try:
            connection = lent or self._connect()
            lent = connection
            yield connection
        finally:
            self._free.put(lent)

    def close(self, timeout_s: float) -> bool:
        """Lend no more, and close every connection as it comes back; False where one has not in time."""
        self._closed.set()
        give_up_s = time.monotonic() + timeout_s
        try:
            for _ in range(_READERS_MAX):
                connection = self._free.get(timeout=max(give_up_s - time.monotonic(), 0.0))
                if connection is not None:
                    connection.close()
        except queue.Empty:
            return False
        return True

    def _take(self) -> apsw.Connection | None:
        """Take a connection that nobody else has, or the right to open one."""
        give_up_s = time.monotonic() + _TURN_TIMEOUT_S
        while True:
            # Again after each wait: `close` may have begun to collect the connections meanwhile.
            if self._closed.is_set():
                raise StoreUnavailableError("the store is closed")
            try:
                return self._free.get(timeout=_LOOK_S)
            except queue.Empty:
                if time.monotonic() > give_up_s:
                    raise StoreBusyError(
                        f"{_READERS_MAX} reads of the catalogue have been going on for {_TURN_TIMEOUT_S:.0f} s",
                        retry_after_s=RETRY_AFTER_S,
                    ) from None
