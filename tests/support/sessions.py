"""Streams that have a request, for tests of who has it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

from tensorus_server.engine.insert.sessions import InsertSessions

WAIT_S = 10.0


class Stream:
    """A stream on a thread of its own, which has its request until it is told to end."""

    def __init__(self, found: InsertSessions, request_id: str = "request", *, stubborn: bool = False) -> None:
        self.has_it = threading.Event()
        self.asked = threading.Event()
        """Set when somebody else wants the request."""
        self._sessions = found
        self._request_id = request_id
        self._stubborn = stubborn
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self.done: Future[None] = self._pool.submit(self._run)
        self._pool.shutdown(wait=False)

    def end(self) -> None:
        self._end.set()
        self.done.result(WAIT_S)

    def _run(self) -> None:
        with self._sessions.held(self._request_id, self._take_over):
            self.has_it.set()
            assert self._end.wait(WAIT_S)

    def _take_over(self) -> None:
        self.asked.set()
        if not self._stubborn:
            self._end.set()
