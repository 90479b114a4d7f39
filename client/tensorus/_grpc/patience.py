"""When a call that failed is tried again, how long to wait before that, and when to give up.

Whoever wants to know about interruptions passes an observer; the default one warns when a call makes no progress.
"""

from __future__ import annotations

import inspect
import random
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from tensorus.errors import ConnectionLostWarning

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from tensorus.errors import TensorusError

__all__ = ["PASSING_REASONS", "STALL_REASONS", "Interruption", "Observer", "Patience", "warn_when_stuck"]

_FIRST_WAIT_S = 0.05
_LONGEST_WAIT_S = 2.0

STALL_REASONS = frozenset({"STREAM_STALLED", "CANCELLED"})
"""How a stream ends on which nothing moved for too long: the second where the server could not say why."""

_TRANSPORT_REASONS = frozenset({"INTERNAL", "UNKNOWN"})
"""A broken connection may be reported as these, too. The server's own errors of these reasons have a `number`, under which its
log has more; they are not tried again."""

PASSING_REASONS = (
    frozenset(
        {
            "UNAVAILABLE",
            "CANCELLED",
            "DRAINING",
            "RATE_LIMITED",
            "STORE_BUSY",
            "STORE_UNAVAILABLE",
            "STREAM_STALLED",
            "TOO_MANY_STREAMS",
        }
    )
    | _TRANSPORT_REASONS
)
"""Of errors that pass: the connection broke, the server is stopping, restarting or overloaded, its store is locked, or the
caller makes too many calls, and is told for how long to wait."""

_BETWEEN_REASONS = frozenset({"UNAVAILABLE", "CANCELLED"}) | _TRANSPORT_REASONS
"""Of errors that something between client and server may have caused: the server itself gave no reason."""


@dataclass(frozen=True)
class Interruption:
    """A call failed and will be tried again."""

    error: TensorusError
    at_same_place: int
    """How often it has failed since it last made progress; 1: the first time."""

    @property
    def explanation(self) -> str:
        """What is wrong, for a person."""
        text = f"the call fails without progress and is tried again: {self.error}"
        if self.error.reason in _BETWEEN_REASONS:
            text += (
                ". If a proxy stands before the server, look at its limits on the size and the duration of a request "
                "(nginx: client_max_body_size 0)"
            )
        return text


Observer: TypeAlias = "Callable[[Interruption], None]"
"""Called before each wait, on the thread or event loop of the call. What it raises ends the call."""


def warn_when_stuck(interruption: Interruption) -> None:
    """Warn when a call fails for the second time at the same place: once for each place."""
    if interruption.at_same_place == 2:
        warnings.warn(
            interruption.explanation, ConnectionLostWarning, stacklevel=_callers_level(inspect.currentframe())
        )


def _callers_level(frame: FrameType | None) -> int:
    """Return the stack level of the code that called Tensorus, so that the warning names its line."""
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "tensorus":
        frame = frame.f_back
        level += 1
    return level


class Patience:
    """The patience of one call. Time and waits begin anew whenever a failure finds the call further than ever before.

    Only the place counts, not that something arrived: a connection that always breaks at the same place gets nowhere. Time
    counts from the first failure at a place, so a transfer may take as long as it takes.
    """

    def __init__(
        self,
        timeout_s: float,
        on_interruption: Observer = warn_when_stuck,
        *,
        reasons: frozenset[str] = PASSING_REASONS,
    ) -> None:
        """Give up `timeout_s` seconds after the first failure at a place.

        Args:
            reasons: of the errors that are waited for.
        """
        self._timeout_s = timeout_s
        self._on_interruption = on_interruption
        self._reasons = reasons
        self._furthest: tuple[int, ...] = ()
        self._since_s = 0.0
        self._wait_s = _FIRST_WAIT_S
        self.at_same_place = 0
        """How often it has failed since it last made progress."""
        self.interruptions = 0

    def wait(self, error: TensorusError, place: tuple[int, ...]) -> None:
        """Wait before the next attempt. Arguments and errors as of `wait_s`."""
        time.sleep(self.wait_s(error, place))

    def wait_s(self, error: TensorusError, place: tuple[int, ...]) -> float:
        """Return how long to wait before the next attempt: a random time, so that many clients do not come back at once.

        Args:
            place: how far the call is, at least one number; larger is further.

        Raises:
            TensorusError: `error` itself, where it will not pass, or the time is up.
        """
        if place > self._furthest:
            self._furthest, self._since_s, self._wait_s = place, time.monotonic(), _FIRST_WAIT_S
            self.at_same_place = 0
        left_s = self._since_s + self._timeout_s - time.monotonic()
        asked_s = float(error.facts.get("retry_after_s", 0))
        if not self._passes(error, asked_s, left_s) or left_s <= 0:
            raise error
        self.interruptions += 1
        self.at_same_place += 1
        self._on_interruption(Interruption(error, self.at_same_place))
        wait_s = self._wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return min(max(wait_s, asked_s), left_s)

    def _passes(self, error: TensorusError, asked_s: float, left_s: float) -> bool:
        if error.reason == "RATE_LIMITED":
            # Sooner, it would be refused again.
            passes = 0 < asked_s <= left_s
        else:
            passes = not (error.reason in _TRANSPORT_REASONS and "number" in error.facts)
        return passes and error.reason in self._reasons
