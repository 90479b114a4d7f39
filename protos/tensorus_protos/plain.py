"""What metadata makes of values that Python programs have beside tensors, and that metadata itself does not hold.

NumPy scalar              the bool, int, float or str that it is; of a datetime64, its ISO 8601 text
date, time, datetime      their ISO 8601 text, with the offset from UTC where there is a time zone
set, frozenset            a list: numbers in order, then texts in order, then anything else as the set gives it
tuple                     a list

Anything else stays what it is, for whoever stores it to refuse: complex and longdouble, timedelta, NaT, a time in a zone whose
offset depends on the date, bytes, arrays. `TensorStorage` and the import of old files both convert by way of this module, so
that a value becomes the same in both.
"""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DEPTH_MAX", "plain", "plain_scalar", "plain_set", "seconds_since_1970"]

DEPTH_MAX = 24
"""Lists and dicts in one another that are looked into. A server takes 16; the protobuf runtime takes 100 messages in one
another, of which a dict is three, and fails in its own words beyond them."""

_PLAIN = frozenset({bool, int, float, str, type(None)})


def plain(value: object, depth: int = 0) -> object:
    """Return a value with everything in it that is listed above converted.

    Args:
        depth: lists and dicts that it is in already. What is deeper than `DEPTH_MAX` stays as it is.
    """
    if type(value) in _PLAIN or depth > DEPTH_MAX:
        return value
    if isinstance(value, dict):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return plain_set(plain(item, depth + 1) for item in value)
    return plain_scalar(value)


def plain_scalar(value: object) -> object:
    """Return a NumPy scalar, or a date or time, as it is listed above; anything else itself."""
    if isinstance(value, np.datetime64):
        return _unless_nat(str(value), value)
    if isinstance(value, np.timedelta64):
        # NumPy counts it among its integers.
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating, np.str_)):
        return value.item()
    if isinstance(value, (datetime, time)) and value.tzinfo is not None and value.utcoffset() is None:
        return value
    if isinstance(value, (date, time)):
        return _unless_nat(value.isoformat(), value)
    return value


def plain_set(items: Iterable[object]) -> list[object]:
    """Return the items of a set, which are plain already, in the order that is listed above."""
    return sorted(items, key=_rank)


def seconds_since_1970(text: str) -> float:
    """Return the seconds since 1970 of a time in ISO 8601; without an offset it is in UTC.

    Raises:
        ValueError: it is no such time.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _unless_nat(text: str, value: object) -> object:
    """Return the text; the value itself where it is no time, which pandas says likewise."""
    return value if text == "NaT" else text


def _rank(item: object) -> tuple[int, float, str]:
    if isinstance(item, str):
        return 1, 0, item
    if isinstance(item, (bool, int, float)) and not (isinstance(item, float) and math.isnan(item)):
        return 0, item, ""
    return 2, 0, ""
