"""Converts common Python values that metadata cannot hold to values that it can.

NumPy scalar              the equal bool, int, float or str; for datetime64, ISO 8601 text
date, time, datetime      ISO 8601 text, with the UTC offset if there is a time zone
set, frozenset            a list: sorted numbers, then sorted texts, then all other items in the order of the set
tuple                     a list

Any other value is returned unchanged, and storing it fails: complex and longdouble, timedelta, NaT, a time in a zone whose
offset depends on the date, bytes, arrays. `TensorStorage` and the import of old files share this module, so both convert a
value in the same way.
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
"""Deepest nesting of lists and dicts that is converted. A server accepts 16 levels. The protobuf runtime accepts 100 nested
messages, of which a dict needs three, and beyond that fails with an error of its own."""

_PLAIN = frozenset({bool, int, float, str, type(None)})


def plain(value: object, depth: int = 0) -> object:
    """Return `value` with everything in it converted as listed above.

    Args:
        depth: number of lists and dicts around it. Values deeper than `DEPTH_MAX` are not converted.
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
    """Convert a NumPy scalar, date or time as listed above; return any other value unchanged."""
    if isinstance(value, np.datetime64):
        return _unless_nat(str(value), value)
    if isinstance(value, np.timedelta64):
        # timedelta64 is a subclass of np.integer, but must not become an int.
        return value
    if isinstance(value, (np.bool_, np.integer, np.floating, np.str_)):
        return value.item()
    # A `time` in a zoneinfo zone has no offset without a date, so its text would lose the zone.
    if isinstance(value, (datetime, time)) and value.tzinfo is not None and value.utcoffset() is None:
        return value
    if isinstance(value, (date, time)):
        return _unless_nat(value.isoformat(), value)
    return value


def plain_set(items: Iterable[object]) -> list[object]:
    """Return the items of a set, already converted, in the order listed above."""
    return sorted(items, key=_rank)


def seconds_since_1970(text: str) -> float:
    """Return an ISO 8601 time as seconds since 1970. A time without an offset is taken as UTC.

    Raises:
        ValueError: `text` is not an ISO 8601 time.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def _unless_nat(text: str, value: object) -> object:
    """Return `text`, or `value` itself if it is NaT. NumPy and pandas both print that as "NaT"."""
    return value if text == "NaT" else text


def _rank(item: object) -> tuple[int, float, str]:
    if isinstance(item, str):
        return 1, 0, item
    if isinstance(item, (bool, int, float)) and not (isinstance(item, float) and math.isnan(item)):
        return 0, item, ""
    return 2, 0, ""
