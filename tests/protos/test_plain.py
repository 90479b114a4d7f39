"""Values that metadata does not hold: what becomes of them, whatever they are in."""

from __future__ import annotations

import datetime as dt
import enum
import math
import uuid
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from tensorus_protos.plain import DEPTH_MAX, plain, plain_set, seconds_since_1970

BERLIN = ZoneInfo("Europe/Berlin")


class Pair(NamedTuple):
    x: int
    y: Any


CONVERTED: list[tuple[Any, Any]] = [
    (np.int8(-1), -1),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float16(0.1), 0.0999755859375),
    (np.float32(0.1), 0.10000000149011612),
    (np.float64(0.1), 0.1),
    (np.bool_(True), True),
    (np.str_("é"), "é"),
    (np.datetime64("2025-09-01T12:00", "ms"), "2025-09-01T12:00:00.000"),
    (dt.date(2025, 9, 1), "2025-09-01"),
    (dt.time(12, 30), "12:30:00"),
    (dt.time(12, 30, tzinfo=dt.UTC), "12:30:00+00:00"),
    (dt.datetime.fromisoformat("2025-09-01T12:30:00.000005"), "2025-09-01T12:30:00.000005"),
    (dt.datetime(2025, 9, 1, tzinfo=dt.UTC), "2025-09-01T00:00:00+00:00"),
    (dt.datetime(2025, 9, 1, tzinfo=BERLIN), "2025-09-01T00:00:00+02:00"),
    ({2, 1}, [1, 2]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({"b", 2, None, "a", True, 0.5}, [0.5, True, 2, "a", "b", None]),
    ((1, 2), [1, 2]),
    (Pair(1, {2}), [1, [2]]),
    ({"a": [{"b": np.int64(1)}, {np.float32(0.5)}]}, {"a": [{"b": 1}, [0.5]]}),
]


@pytest.mark.parametrize(("value", "expected"), CONVERTED, ids=lambda value: type(value).__name__)
def test_what_is_listed_becomes_what_metadata_holds(value: Any, expected: Any) -> None:
    found = plain(value)
    assert repr(found) == repr(expected)
    assert plain({"key": [value]}) == {"key": [expected]}


class _Colour(enum.Enum):
    RED = 1


STAYING: list[Any] = [
    None,
    True,
    1,
    0.5,
    "text",
    b"bytes",
    1j,
    np.complex64(1j),
    np.longdouble(1),
    np.timedelta64(1, "s"),
    np.datetime64("NaT"),
    np.bytes_(b"x"),
    np.ones(2),
    dt.timedelta(1),
    dt.time(12, tzinfo=BERLIN),
    uuid.UUID(int=1),
    PurePosixPath("a"),
    Decimal(1),
    _Colour.RED,
    object(),
]


@pytest.mark.parametrize("value", STAYING, ids=lambda value: type(value).__name__)
def test_anything_else_stays_what_it_is(value: Any) -> None:
    found = plain(value)
    assert found is value or (found == value and type(found) is type(value))


def test_a_set_with_nan_is_a_list_with_the_numbers_in_order() -> None:
    nan = math.nan
    assert plain({nan, 2, 1}) == [1, 2, nan]


def test_large_numbers_of_a_set_are_in_order() -> None:
    assert plain_set([10**400, -(10**400), 1e308, 2**53 + 1, 2.0**53]) == [
        -(10**400),
        2.0**53,
        2**53 + 1,
        1e308,
        10**400,
    ]


def test_what_is_given_is_not_changed() -> None:
    inner = {"a": (1, {2})}
    given = [inner]
    assert plain(given) == [{"a": [1, [2]]}]
    assert given == [{"a": (1, {2})}]
    assert given[0] is inner


def test_what_holds_itself_ends_at_the_limit_of_depth() -> None:
    own: list[Any] = []
    own.append(own)
    found = plain(own)
    for _ in range(DEPTH_MAX + 1):
        assert found is not own
        (found,) = found
    assert found is own


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2025-09-01T00:00:00", 1756684800.0),
        ("2025-09-01T00:00:00Z", 1756684800.0),
        ("2025-09-01T02:00:00.25+02:00", 1756684800.25),
        ("2025-09-01", 1756684800.0),
        ("1970-01-01T00:00:00.123456789", 0.123456),
        ("0001-01-01T00:00:00+14:00", -62135647200.0),
        ("9999-12-31T23:59:59-14:00", 253402351199.0),
    ],
)
def test_a_time_in_iso_8601_is_seconds_since_1970_in_utc_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert seconds_since_1970(text) == seconds


@pytest.mark.parametrize("text", ["", "now", "1756684800.25", "12:30", "2025-13-01", "2025-09-01T25:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat|must be in"):
        seconds_since_1970(text)
