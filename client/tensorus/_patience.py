"""How long to wait before a transfer is tried again, and when to give it up."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus.errors import TensorusError

__all__ = ["Patience"]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0

_PASSING_REASONS = frozenset(
    {"UNAVAILABLE", "CANCELLED", "DRAINING", "STORE_BUSY", "STORE_UNAVAILABLE", "TOO_MANY_STREAMS"}
)
"""Of errors that pass: the connection broke, or the server stops, restarts, or has too much to do; or its store is locked."""

_TRANSPORT_REASONS = frozenset({"INTERNAL", "UNKNOWN"})
"""What breaks a connection may come as these, too: of ours, they carry the number under which the server's log has more."""


class Patience:
    """Of one transfer. Time and waits begin anew whenever an interruption finds it further than ever before.

    What counts is the place, and not that something arrived: a connection that always breaks at the same place gets nowhere.
    Time counts from an interruption, so that a transfer may take as long as it takes.
    """

    def __init__(self, timeout_s: float) -> None:
        """Give up so many seconds after the first interruption at a place."""
        self._timeout_s = timeout_s
        self._furthest: tuple[int, ...] = ()
        self._since_s = 0.0
        self._wait_s = _FIRST_WAIT_S
        self.interruptions = 0

    def wait(self, error: TensorusError, place: tuple[int, ...]) -> None:
        """Wait before the next attempt. Arguments and errors as of `wait_s`."""
        time.sleep(self.wait_s(error, place))

    def wait_s(self, error: TensorusError, place: tuple[int, ...]) -> float:
        """Return how long to wait before the next attempt: a random time, so that many clients do not come back at once.

        Args:
            place: how far the transfer is; larger: further.

        Raises:
            TensorusError: `error` itself, where it will not pass, or patience is at its end.
        """
        if place > self._furthest:
            self._furthest, self._since_s, self._wait_s = place, time.monotonic(), _FIRST_WAIT_S
        left_s = self._since_s + self._timeout_s - time.monotonic()
        passes = error.reason in _PASSING_REASONS or (
            error.reason in _TRANSPORT_REASONS and "number" not in error.facts
        )
        if not passes or left_s <= 0:
            raise error
        self.interruptions += 1
        wait_s = self._wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        asked_s = float(error.facts.get("retry_after_s", 0))
        return min(max(wait_s, asked_s), left_s)
