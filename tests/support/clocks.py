"""Clocks that a test moves."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def moved_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets the clock of this process's SQLite catalogues forward, by some seconds."""
    real_ns = time.time_ns
    ahead_ns = 0

    def move(seconds: float) -> None:
        nonlocal ahead_ns
        ahead_ns += int(seconds * 1e9)

    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + ahead_ns)
    return move
