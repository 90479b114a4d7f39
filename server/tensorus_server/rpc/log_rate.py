"""A log that a client cannot fill: of lines of one kind, so many in a while, and then how many there were."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

__all__ = ["LogRate"]

_LINES_MAX = 20
"""Of one kind in one window."""

_WINDOW_S = 10.0
"""With about 25 reasons for a refusal, and lines of up to 1.2 KiB, a log grows by 60 KiB a second at the very worst."""


class LogRate:
    """Logs lines of a kind up to a rate. Safe in many threads.

    A logger that is set to DEBUG gets all of them: whoever turned that on asked for it.
    """

    def __init__(self, logger: logging.Logger) -> None:
        """Log to `logger`."""
        self._logger = logger
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def log(self, level: int, kind: str, text: str, *arguments: object) -> None:
        """Log a line, unless there were too many of its kind; arguments as of `Logger.log`."""
        if not self._logger.isEnabledFor(level):
            return
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.log(level, text, *arguments)
            return
        with self._lock:
            window = self._windows.setdefault(kind, _Window())
            suppressed = window.begin_if_over(time.monotonic())
            window.lines += 1
            lines = window.lines
        if suppressed:
            self._logger.log(level, "%s: %d more like these were not logged", kind, suppressed)
        if lines <= _LINES_MAX:
            self._logger.log(level, text, *arguments)
        if lines == _LINES_MAX:
            self._logger.log(level, "%s: more like these within %.0f s are not logged", kind, _WINDOW_S)


@dataclass
class _Window:
    """The lines of one kind since `began_s`."""

    began_s: float = 0.0
    lines: int = 0

    def begin_if_over(self, now_s: float) -> int:
        """Begin anew where the time is over; return how many lines of the one before were not logged."""
        if now_s - self.began_s < _WINDOW_S and self.lines:
            return 0
        suppressed = max(self.lines - _LINES_MAX, 0)
        self.began_s, self.lines = now_s, 0
        return suppressed
