"""Ends calls whose next message does not arrive, so that nobody can hold the threads of the server without sending anything.

gRPC runs a call on a thread as soon as its headers are there, and waits for the request on that thread, without a limit. So
methods that take one request are registered as methods that take a stream, and their only message is read here, after the
caller is known.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, TypeVar

from tensorus_server.errors import StreamStalledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Arrivals"]

_ARRIVES_S = 10.0
"""How long a request may take after the headers of its call: those of clients are in the same packet, unless it is large."""

_Message = TypeVar("_Message")

_log = logging.getLogger(__name__)


class Arrivals:
    """The calls that wait for a message now. Thread-safe."""

    def __init__(self) -> None:
        """Start without calls."""
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, float, Callable[[StreamStalledError], None]]] = {}
        """When each call gives up, how long it waits, and what ends it, by the thread that waits."""

    def next(
        self, messages: Iterator[_Message], end: Callable[[StreamStalledError], None], *, limit_s: float | None = None
    ) -> _Message | None:
        """Return the next message of a call; None: the client sends no more.

        Args:
            end: ends the call because nothing came in time; called on another thread, must not block.
            limit_s: how long to wait, if `end_late` is called now and then; None: `_ARRIVES_S`.

        Raises:
            RpcError: the call has ended.
        """
        thread = threading.get_ident()
        limit_s = _ARRIVES_S if limit_s is None else limit_s
        with self._lock:
            self._waiting[thread] = (time.monotonic() + limit_s, limit_s, end)
        try:
            return next(messages, None)
        finally:
            with self._lock:
                del self._waiting[thread]

    def end_late(self) -> None:
        """End every call whose message should have come by now."""
        now_s = time.monotonic()
        with self._lock:
            late = [found for found in self._waiting.values() if found[0] <= now_s]
        for _, limit_s, end in late:
            try:
                end(StreamStalledError(f"the request did not arrive within {limit_s:g} s"))
            except Exception:  # noqa: BLE001 - logged with its cause, and the others are ended
                _log.exception("a call whose request does not arrive cannot be ended")
