"""Counts calls: an observer of all calls of a server.

What an open call has moved is added while it goes on, since one transfer may take hours: see `sample`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tensorus_server.errors import reason_of
from tensorus_server.meters import BUCKETS_S
from tensorus_server.metrics.board import PLACES
from tensorus_server.metrics.families import METHODS, OTHER, REASONS

if TYPE_CHECKING:
    from tensorus_server.metrics.board import Board
    from tensorus_server.rpc.calls import Call

__all__ = ["CallMeters"]

_OUTCOMES = {reason: number for number, reason in enumerate(("OK", "CANCELLED", *REASONS))}
_SUM = len(BUCKETS_S) + 1
_INSERTED = PLACES["tensorus_inserted_bytes_total"].start
_READ = PLACES["tensorus_read_bytes_total"].start
_OPEN = PLACES["tensorus_open_calls"].start


class _Places(NamedTuple):
    """Where the values of one method are on a board."""

    number: int
    """Of the method."""
    calls: int
    duration: int
    received: int
    sent: int


def _places_of(number: int) -> _Places:
    names = ("calls_total", "call_duration_seconds", "received_bytes_total", "sent_bytes_total")
    found = [PLACES[f"tensorus_{name}"] for name in names]
    calls, *others = (place.start + number * place.step for place in found)
    return _Places(number, calls + number * (len(_OUTCOMES) - 1), *others)


# Looked up once, since this runs for every call.
_OF_METHOD = {method: _places_of(number) for number, method in enumerate(METHODS)}
_OF_OTHERS = _OF_METHOD[OTHER]

_Moved: TypeAlias = tuple[int, int, int, int]
"""Bytes that were received, sent, inserted and read."""

_NOTHING: _Moved = (0, 0, 0, 0)


class CallMeters:
    """See the module's description. A `CallObserver`; thread-safe."""

    def __init__(self, board: Board) -> None:
        """Count on a board."""
        self._values = board.values
        self._lock = threading.Lock()
        # With each open call, what of it has been counted.
        self._open: dict[Call, _Moved] = {}

    def began(self, call: Call) -> None:
        """See `CallObserver`."""
        # Without the lock: a change of a dict is atomic.
        self._open[call] = _NOTHING

    def ended(self, call: Call, error: Exception | None) -> None:
        """See `CallObserver`."""
        seconds = time.monotonic() - call.started_s
        places = _OF_METHOD.get(call.method, _OF_OTHERS)
        outcome = _outcome(call, error)
        bucket = places.duration + bisect_left(BUCKETS_S, seconds)
        values = self._values
        with self._lock:
            self._add_moved(call, places, self._open.pop(call, _NOTHING))
            values[places.calls + outcome] += 1
            values[bucket] += 1
            values[places.duration + _SUM] += seconds

    def sample(self) -> None:
        """Count the open calls, and add what they have moved since the last time."""
        open_calls = [0.0] * len(METHODS)
        with self._lock:
            for call, before in self._open.copy().items():
                places = _OF_METHOD.get(call.method, _OF_OTHERS)
                open_calls[places.number] += 1
                self._open[call] = self._add_moved(call, places, before)
        for number, count in enumerate(open_calls):
            self._values[_OPEN + number] = count

    def _add_moved(self, call: Call, places: _Places, before: _Moved) -> _Moved:
        """Add what a call has moved beyond `before`, and return how much it has moved now. The lock is held."""
        values = self._values
        received, sent = call.received_bytes, call.sent_bytes
        inserted, read = call.inserted_bytes, call.read_bytes
        values[places.received] += received - before[0]
        values[places.sent] += sent - before[1]
        # Most calls move no values.
        if inserted:
            values[_INSERTED] += inserted - before[2]
        if read:
            values[_READ] += read - before[3]
        return received, sent, inserted, read


def _outcome(call: Call, error: Exception | None) -> int:
    if error is None:
        return _OUTCOMES["CANCELLED"] if call.is_cancelled else _OUTCOMES["OK"]
    return _OUTCOMES.get(reason_of(error), _OUTCOMES[OTHER])
