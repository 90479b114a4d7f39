"""Counts calls: an observer of all calls of a server.

What an open call has moved is added while it goes on, since one transfer may take hours: see `sample`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING

from tensorus_server.errors import reason_of
from tensorus_server.meters import BUCKETS_S
from tensorus_server.metrics.board import PLACES
from tensorus_server.metrics.families import METHODS, OTHER, REASONS

if TYPE_CHECKING:
    from tensorus_server.metrics.board import Board
    from tensorus_server.rpc.calls import Call

__all__ = ["CallMeters"]

_OUTCOMES = {reason: index for index, reason in enumerate(("OK", "CANCELLED", *REASONS))}
_METHOD_INDEX = {method: index for index, method in enumerate(METHODS)}
_OTHER = _METHOD_INDEX[OTHER]
_SUM = len(BUCKETS_S) + 1


class CallMeters:
    """See the module's description. A `CallObserver`; thread-safe."""

    def __init__(self, board: Board) -> None:
        """Count on a board."""
        self._values = board.values
        self._lock = threading.Lock()
        # With each open call, what of it has been counted: bytes received, sent, inserted and read.
        self._open: dict[Call, tuple[int, int, int, int]] = {}
        self._calls = PLACES["tensorus_calls_total"].start
        self._durations = PLACES["tensorus_call_duration_seconds"]
        self._open_calls = PLACES["tensorus_open_calls"].start
        self._received = PLACES["tensorus_received_bytes_total"].start
        self._sent = PLACES["tensorus_sent_bytes_total"].start
        self._inserted = PLACES["tensorus_inserted_bytes_total"].start
        self._read = PLACES["tensorus_read_bytes_total"].start
        for index in range(len(METHODS)):
            self._values[self._open_calls + index] = 0.0

    def began(self, call: Call) -> None:
        """See `CallObserver`."""
        method = _METHOD_INDEX.get(call.method, _OTHER)
        with self._lock:
            self._open[call] = (0, 0, 0, 0)
            self._values[self._open_calls + method] += 1

    def tensor(self, call: Call, tensor_id: str, error: Exception | None) -> None:
        """See `CallObserver`. Errors of tensors are counted where clients are told of them."""

    def ended(self, call: Call, error: Exception | None) -> None:
        """See `CallObserver`."""
        seconds = time.monotonic() - call.started_s
        method = _METHOD_INDEX.get(call.method, _OTHER)
        outcome = _OUTCOMES.get(_reason(call, error), _OUTCOMES[OTHER])
        duration = self._durations.start + method * self._durations.step
        with self._lock:
            self._add_moved(call, method)
            if self._open.pop(call, None) is not None:
                self._values[self._open_calls + method] -= 1
            self._values[self._calls + method * len(_OUTCOMES) + outcome] += 1
            self._values[duration + bisect_left(BUCKETS_S, seconds)] += 1
            self._values[duration + _SUM] += seconds

    def sample(self) -> None:
        """Add what the open calls have moved since the last time."""
        with self._lock:
            for call in self._open:
                self._add_moved(call, _METHOD_INDEX.get(call.method, _OTHER))

    def _add_moved(self, call: Call, method: int) -> None:
        """Add what a call has moved and was not counted yet. The lock is held."""
        before = self._open.get(call)
        now = (call.received_bytes, call.sent_bytes, call.inserted_bytes, call.read_bytes)
        if before is None or now == before:
            return
        values = self._values
        values[self._received + method] += now[0] - before[0]
        values[self._sent + method] += now[1] - before[1]
        values[self._inserted] += now[2] - before[2]
        values[self._read] += now[3] - before[3]
        self._open[call] = now


def _reason(call: Call, error: Exception | None) -> str:
    if error is not None:
        return reason_of(error)
    return "CANCELLED" if call.is_cancelled else "OK"
