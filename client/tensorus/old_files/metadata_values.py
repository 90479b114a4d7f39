"""Reads what an object in a pickle would be: a NumPy scalar, a date or time, the items of a set.

The pickle names a function and says what to call it with. It is not called: what it would make is worked out from the
arguments, each of which is checked first. A description that its own library never writes is none, and its value is dropped.

    scalar     (dtype, bytes)         dtype: ("f4", ...), then (version, byte order, None, None, None, ...), of datetime64 with
                                      its unit at the end: (..., (_, (b"ns", 1, 1, 1)))
    date       (bytes,)               year (2 bytes, big-endian), month, day
    time       (bytes[, zone])        hour, minute, second, microsecond (3 bytes, big-endian)
    datetime   (bytes[, zone])        both
    zone       timezone(timedelta(days, seconds, microseconds)[, name]); others are not known here
    set        ([item, ...],)         likewise frozenset

Source: `__reduce__` of these types, in CPython's `_datetimemodule.c` and NumPy's `descriptor.c` and `scalartypes.c.src`.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from tensorus.old_files.errors import OldDataError
from tensorus.old_files.pt_values import LongText, PickledBytes, PickledObject, kind_of
from tensorus.old_files.record_values import read_text
from tensorus_protos.plain import plain_scalar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorus.old_files.pt_container import PtContainer

__all__ = ["object_kind", "object_length", "object_value", "set_items"]

_SETS = frozenset({"__builtin__.set", "__builtin__.frozenset"})
_SCALARS = frozenset({"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"})

_READ_DTYPES = re.compile(r"b1|[iu][1248]|f[248]|M8|U\d{1,6}")
"""What a metadata value can be made of. A text has up to 64 KiB, so that more digits make no sense."""

_BYTES = frozenset({"b1", "i1", "u1"})

_UNITS = re.compile(rb"Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as")

_MOMENT_CHARACTERS_MAX = 10
"""Of a date, a time or both: a byte each."""

_KINDS = {
    "c8": "complex64",
    "c16": "complex128",
    "f12": "longdouble",
    "f16": "longdouble",
    "M8": "datetime64",
    "m8": "timedelta64",
}
"""NumPy's names of what metadata does not hold, by a dtype's first argument."""


def set_items(value: PickledObject) -> list[object] | None:
    """Return the items of a set, in the pickle's order; None where it is none."""
    if value.name in _SETS and value.state is None and len(value.arguments) == 1:
        (items,) = value.arguments
        return items if isinstance(items, list) else None
    return None


def object_length(value: PickledObject) -> int:
    """Return how many bytes an object's value has at least, before it is read."""
    longest = max((_length(item.text) for item in value.arguments if isinstance(item, PickledBytes)), default=0)
    # A character of a NumPy text has four bytes, and each of these is one or two in the pickle.
    return longest // 8


def object_value(container: PtContainer, value: PickledObject) -> object:
    """Return the bool, int, float or text that metadata makes of an object; None where it makes nothing of it.

    Memory: a few times its bytes.

    Args:
        container: where longer texts are.
    """
    if value.state is not None:
        return None
    try:
        found = _scalar(container, value) if value.name in _SCALARS else _moment(container, value)
        plain = plain_scalar(found)
    except (OldDataError, ValueError, OverflowError):
        # Such as month 13.
        return None
    return None if isinstance(plain, (np.generic, date, time)) else plain


def object_kind(value: PickledObject) -> str:
    """Return what people call an object: "numpy.complex64", "datetime.timedelta"."""
    if value.name in _SCALARS and len(value.arguments) == 2:
        dtype = value.arguments[0]
        code = dtype.arguments[0] if isinstance(dtype, PickledObject) and dtype.arguments else None
        if isinstance(code, str):
            return f"numpy.{_KINDS[code]}" if code in _KINDS else f"a NumPy scalar of dtype {code[:20]!r}"
    if value.name in {"datetime.datetime", "datetime.time"} and len(value.arguments) == 2:
        zone = value.arguments[1]
        if not isinstance(zone, PickledObject):
            return f"{value.name} in a time zone of {kind_of(zone)[:80]}"
    return value.name


def _scalar(container: PtContainer, value: PickledObject) -> object:
    if len(value.arguments) != 2 or not isinstance(value.arguments[1], PickledBytes):
        return None
    dtype = _dtype(container, value.arguments[0])
    if dtype is None or _length(value.arguments[1].text) < dtype.itemsize:
        return None
    data = _bytes(container, value.arguments[1])
    if len(data) != dtype.itemsize:
        return None
    if dtype.kind == "U":
        # Not by NumPy, which fails in its own words beyond Unicode, and has no array without bytes.
        return data.decode("utf-32-be" if dtype.byteorder == ">" else "utf-32-le").rstrip("\0")
    return np.frombuffer(data, dtype)[0]


def _dtype(container: PtContainer, described: object) -> np.dtype[Any] | None:
    """Return a dtype of `_READ_DTYPES`; None for any other."""
    if not isinstance(described, PickledObject) or described.name != "numpy.dtype" or not described.arguments:
        return None
    code, state = described.arguments[0], described.state
    if not isinstance(code, str) or not _READ_DTYPES.fullmatch(code):
        return None
    # Compared, and never looked up: whatever stands here need not have a hash.
    if not isinstance(state, tuple) or not 8 <= len(state) <= 9 or state[0] not in (3, 4):
        return None
    order, *record, width = state[1:6]
    # One byte has no order; a dtype of several fields is none of these.
    if order not in (("|",) if code in _BYTES else ("<", ">")) or any(part is not None for part in record):
        return None
    unit = _unit(container, state[8]) if code == "M8" and len(state) == 9 else ""
    if unit is None or (code.startswith("U") and width != 4 * int(code[1:])):
        return None
    return np.dtype(f"{order}{code}{unit}")


def _unit(container: PtContainer, described: object) -> str | None:
    """Return the unit of a datetime64 as a dtype has it: "[25s]"."""
    if not isinstance(described, tuple) or len(described) != 2 or not isinstance(described[1], tuple):
        return None
    name, *numbers = described[1]
    if not isinstance(name, PickledBytes) or _length(name.text) > 2 or len(numbers) != 3 or not _are_integers(numbers):
        return None
    unit = _bytes(container, name)
    if not _UNITS.fullmatch(unit) or not 1 <= numbers[0] < 2**31 or numbers[1:] != [1, 1]:
        return None
    return f"[{numbers[0]}{unit.decode()}]"


def _moment(container: PtContainer, value: PickledObject) -> object:
    if not 1 <= len(value.arguments) <= 2 or not isinstance(value.arguments[0], PickledBytes):
        return None
    if _length(value.arguments[0].text) > _MOMENT_CHARACTERS_MAX:
        return None
    data = _bytes(container, value.arguments[0])
    if value.name == "datetime.date" and len(data) == 4 and len(value.arguments) == 1:
        return date(*_date_of(data))
    zone = _zone(value.arguments[1]) if len(value.arguments) == 2 else None
    if zone is None and len(value.arguments) == 2:
        return None
    if value.name == "datetime.datetime" and len(data) == 10:
        return datetime(*_date_of(data), *_time_of(data[4:]), tzinfo=zone)
    if value.name == "datetime.time" and len(data) == 6:
        return time(*_time_of(data), tzinfo=zone)
    return None


def _date_of(data: bytes) -> tuple[int, int, int]:
    return int.from_bytes(data[:2], "big"), data[2], data[3]


def _time_of(data: bytes) -> tuple[int, int, int, int]:
    return data[0], data[1], data[2], int.from_bytes(data[3:6], "big")


def _zone(described: object) -> timezone | None:
    """Return a fixed offset from UTC; None for any other zone."""
    if not isinstance(described, PickledObject) or described.name != "datetime.timezone" or described.state is not None:
        return None
    if not 1 <= len(described.arguments) <= 2:
        return None
    offset = described.arguments[0]
    if not isinstance(offset, PickledObject) or offset.name != "datetime.timedelta" or offset.state is not None:
        return None
    if len(offset.arguments) != 3 or not _are_integers(offset.arguments):
        return None
    # The name of a zone is no part of ISO 8601.
    return timezone(timedelta(*offset.arguments))


def _are_integers(found: Sequence[object]) -> TypeGuard[Sequence[int]]:
    return all(isinstance(number, int) and not isinstance(number, bool) for number in found)


def _length(text: str | LongText) -> int:
    return text.length if isinstance(text, LongText) else len(text)


def _bytes(container: PtContainer, described: PickledBytes) -> bytes:
    return read_text(container, described.text).encode("latin-1")
