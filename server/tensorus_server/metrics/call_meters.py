"""Counts calls: an observer of all calls of a server.

What an open call has moved is added while it goes on, since one transfer may take hours: see `sample`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, TypeAlias

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
_Moved: TypeAlias = tuple[int, int, int, int]
"""Bytes that were received, sent, inserted and read."""

_NOTHING: _Moved = (0, 0, 0, 0)
_SUM = len(BUCKETS_S) + 1


class CallMeters:
    """See the module's description. A `CallObserver`; thread-safe."""

    def __init__(self, board: Board) -> None:
        """Count on a board."""
        self._values = board.values
        self._lock = threading.Lock()
        # With each open call, what of it has been counted.
        self._open: dict[Call, _Moved] = {}
        self._calls = PLACES["tensorus_calls_total"].start
        self._durations = PLACES["tensorus_call_duration_seconds"]
        self._open_calls = PLACES["tensorus_open_calls"].start
        self._received = PLACES["tensorus_received_bytes_total"].start
        self._sent = PLACES["tensorus_sent_bytes_total"].start
        self._inserted = PLACES["tensorus_inserted_bytes_total"].start
        self._read = PLACES["tensorus_read_bytes_total"].start

    def began(self, call: Call) -> None:
        """See `CallObserver`."""
        # Without the lock: a change of a dict is atomic.
        self._open[call] = _NOTHING

    def tensor(self, call: Call, tensor_id: str, error: Exception | None) -> None:
        """See `CallObserver`. Errors of tensors are counted where clients are told of them."""

    def ended(self, call: Call, error: Exception | None) -> None:
        """See `CallObserver`."""
        seconds = time.monotonic() - call.started_s
        method = _METHOD_INDEX.get(call.method, _OTHER)
        outcome = _OUTCOMES.get(_reason(call, error), _OUTCOMES[OTHER])
        duration = self._durations.start + method * self._durations.step
        values = self._values
        with self._lock:
            self._add_moved(call, method, self._open.pop(call, _NOTHING))
            values[self._calls + method * len(_OUTCOMES) + outcome] += 1
            values[duration + bisect_left(BUCKETS_S, seconds)] += 1
            values[duration + _SUM] += seconds

    def sample(self) -> None:
        """Count the open calls, and add what they have moved since the last time."""
        open_calls = [0.0] * len(METHODS)
        with self._lock:
            for call, before in self._open.copy().items():
                method = _METHOD_INDEX.get(call.method, _OTHER)
                open_calls[method] += 1
                self._open[call] = self._add_moved(call, method, before)
        for method, count in enumerate(open_calls):
            self._values[self._open_calls + method] = count

    def _add_moved(self, call: Call, method: int, before: _Moved) -> _Moved:
        """Add what a call has moved beyond `before`, and return how much it has moved now. The lock is held."""
        received, sent, inserted, read = now = (
            call.received_bytes,
            call.sent_bytes,
            call.inserted_bytes,
            call.read_bytes,
        )
        values = self._values
        values[self._received + method] += received - before[0]
        values[self._sent + method] += sent - before[1]
        # Most calls move no values.
        if inserted:
            values[self._inserted] += inserted - before[2]
        if read:
            values[self._read] += read - before[3]
        return now


def _reason(call: Call, error: Exception | None) -> str:
    if error is not None:
        return reason_of(error)
    return "CANCELLED" if call.is_cancelled else "OK"
