"""What users say of states and retentions, as backends take it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from support.cases import each
from tensorus._arguments import at_of, restored_state, retention_of
from tensorus._backend import State
from tensorus.errors import InvalidNameError, InvalidRequestError

SECOND_US = 1_000_000
NOON = datetime(2026, 1, 31, 12, 0, 0, 250_000, UTC)
NOON_US = 1_769_860_800 * SECOND_US + 250_000

STATES: dict[str, tuple[Any, State | None]] = {
    "none": (None, None),
    "a snapshot": ("before", State(snapshot="before")),
    "a snapshot of an odd name": ("17", State(snapshot="17")),
    "a generation": (17, State(generation=17)),
    "the first generation": (0, State(generation=0)),
    "a generation of 64 bits": (2**64 - 1, State(generation=2**64 - 1)),
    "a generation of NumPy": (np.int64(17), State(generation=17)),
    "a time in UTC": (NOON, State(time_us=NOON_US)),
    "a time elsewhere": (NOON.astimezone(timezone(timedelta(hours=-7))), State(time_us=NOON_US)),
    "a time before 1970": (datetime(1969, 12, 31, 23, 59, 59, 1, UTC), State(time_us=1 - SECOND_US)),
}


@each("name", STATES)
def test_a_state_is_a_snapshot_a_generation_or_a_time(name: str) -> None:
    said, state = STATES[name]
    assert at_of(said) == state


def test_a_time_without_a_time_zone_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415 - here alone

    monkeypatch.setenv("TZ", "XST+05:30")  # POSIX: west of Greenwich
    time.tzset()
    try:
        assert at_of(NOON.replace(tzinfo=None)) == State(time_us=NOON_US + int(5.5 * 3600) * SECOND_US)
    finally:
        monkeypatch.undo()
        time.tzset()


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "a bool": (True, TypeError, "at is a bool, must be a str"),
    "a float": (17.0, TypeError, "at is a float, must be a str"),
    "a date": (date(2026, 1, 31), TypeError, "at is a date, must be a str"),
    "a negative generation": (-1, InvalidRequestError, "at is -1, a generation must be from 0 to"),
    "a generation beyond 64 bits": (2**64, InvalidRequestError, "a generation must be from 0 to 18446744073709551615"),
    "a name that is no Unicode": ("\ud800", InvalidNameError, "name of a snapshot is not Unicode text"),
    "a time beyond UTC": (
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        InvalidRequestError,
        "which is no time in UTC",
    ),
}


@each("name", REFUSED)
def test_anything_else_is_refused(name: str) -> None:
    said, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message):
        at_of(said)


def test_a_restore_needs_a_state() -> None:
    assert restored_state(3) == State(generation=3)
    with pytest.raises(TypeError, match="at is None, must name the state to restore"):
        restored_state(None)  # type: ignore[arg-type]


def test_a_retention_is_a_timedelta() -> None:
    week = timedelta(days=7)
    assert retention_of(week) is week
    assert retention_of(None) is None
    for said in (7, "7d"):
        with pytest.raises(TypeError, match=r"must be a datetime\.timedelta"):
            retention_of(said)  # type: ignore[arg-type]
