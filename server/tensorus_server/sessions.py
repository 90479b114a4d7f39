"""Which inserts are going on: one stream for each request, and the newest wins."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["InsertSessions"]

_HAND_OVER_S = 30.0
"""How long a stream waits for the older one to end: it has chunks to encode, and a sync to wait for."""


class InsertSessions:
    """Request ids and the streams that have them. Safe in many threads."""

    def __init__(self) -> None:
        """Start without streams."""
        self._changed = threading.Condition()
        self._take_overs: dict[str, Callable[[], None]] = {}
        self._latest: dict[str, int] = {}
        self._tickets = itertools.count()

    @contextmanager
    def held(self, request_id: str, take_over: Callable[[], None]) -> Iterator[None]:
        """Have the request for as long as the block runs; a stream that has it is ended first.

        Args:
            take_over: called when a newer stream wants the request, perhaps more than once: must end this one soon.

        Raises:
            SessionTakenOverError: a newer stream was faster.
            StoreUnavailableError: the older stream does not end.
        """
        ticket = next(self._tickets)
        with self._changed:
            self._latest[request_id] = ticket
            # Whoever else waits for it waits in vain now.
            self._changed.notify_all()
            if request_id in self._take_overs:
                self._take_overs[request_id]()
            over = self._changed.wait_for(
                lambda: request_id not in self._take_overs or self._latest.get(request_id) != ticket, _HAND_OVER_S
            )
            if self._latest.get(request_id) != ticket:
                raise SessionTakenOverError(f"a newer stream goes on with insert {request_id}")
            if not over:
                del self._latest[request_id]
                raise StoreUnavailableError(f"the older stream of insert {request_id} has not ended yet")
            self._take_overs[request_id] = take_over
        try:
            yield
        finally:
            with self._changed:
                del self._take_overs[request_id]
                if self._latest.get(request_id) == ticket:
                    del self._latest[request_id]
                self._changed.notify_all()

    def is_held(self, request_id: str) -> bool:
        """Return whether a stream has the request."""
        with self._changed:
            return request_id in self._take_overs

    def end(self, request_id: str) -> None:
        """End the stream that has the request, if there is one, and wait until it has.

        Raises:
            StoreUnavailableError: it does not end.
        """
        with self._changed:
            # A newer one may have been waiting, and have it before this thread has seen the older one end.
            while (take_over := self._take_overs.get(request_id)) is not None:
                take_over()
                if not self._wait_for_end(request_id, take_over):
                    raise StoreUnavailableError(f"the stream of insert {request_id} has not ended yet")

    def _wait_for_end(self, request_id: str, take_over: Callable[[], None]) -> bool:
        """Wait for the stream that is ended by `take_over`; return whether it has ended. The lock is held."""
        return self._changed.wait_for(lambda: self._take_overs.get(request_id) is not take_over, _HAND_OVER_S)
