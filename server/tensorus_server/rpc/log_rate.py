"""Rate-limits log lines, so that a client cannot fill the log: each kind gets so many per window, then a count of the rest."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tensorus_server.logs.formats import Field

__all__ = ["LogRate"]

_LINES_MAX = 20
"""Lines of one kind in one window."""

_WINDOW_S = 10.0
"""Length of a window. With about 25 kinds (reasons), and lines of up to 1.2 KiB, a log grows by at most 60 KiB a second."""


class LogRate:
    """Logs up to `_LINES_MAX` lines of each kind per window. Thread-safe.

    A logger that is set to DEBUG gets all lines: someone who sets that wants to see them.
    """

    def __init__(self, logger: logging.Logger) -> None:
        """Log to `logger`."""
        self._logger = logger
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def log(
        self,
        level: int,
        kind: str,
        text: str,
        *arguments: object,
        fields: Callable[[], Mapping[str, Field]] = dict,
    ) -> None:
        """Log a line, unless its kind has used up its window; `text` and `arguments` are those of `Logger.log`.

        Args:
            fields: returns the names and values of the line for machines; called only if the line is logged.
        """
        if not self._logger.isEnabledFor(level):
            return
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.log(level, text, *arguments, extra={"fields": fields()})
            return
        with self._lock:
            window = self._windows.setdefault(kind, _Window())
            suppressed = window.begin_if_over(time.monotonic())
            window.lines += 1
            lines = window.lines
        if suppressed:
            self._logger.log(level, "%s: %d more like these were not logged", kind, suppressed)
        if lines <= _LINES_MAX:
            self._logger.log(level, text, *arguments, extra={"fields": fields()})
        if lines == _LINES_MAX:
            self._logger.log(level, "%s: more like these within %.0f s are not logged", kind, _WINDOW_S)


@dataclass
class _Window:
    """The lines of one kind since `began_s`."""

    began_s: float = 0.0
    lines: int = 0

    def begin_if_over(self, now_s: float) -> int:
        """Start a new window if this one has expired; return how many lines the old one suppressed."""
        if now_s - self.began_s < _WINDOW_S and self.lines:
            return 0
        suppressed = max(self.lines - _LINES_MAX, 0)
        self.began_s, self.lines = now_s, 0
        return suppressed
