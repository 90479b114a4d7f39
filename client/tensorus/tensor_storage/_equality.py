"""Equality as `query_by_metadata` asks for it, as a filter of the catalogue.

A filter finds every record that is equal, and perhaps some that are not: to it a list counts as each of its elements. Whoever
asks compares what it finds once more. What a filter cannot say is None: then every record has to be looked at.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tensorus._where import filter_text

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["field_filter", "shape_filter"]

_INTEGER_EXACT_MAX = 2**53
_TEXT_BYTES_MAX = 1024
"""Numbers and text beyond these are not indexed; see the contract."""


def field_filter(field: str, value: object) -> str | None:
    """Return a filter that holds for every record whose `field` equals `value`."""
    if field in {"version", "compressed", "compression_metadata"}:
        return None
    if field == "shape":
        return shape_filter(value) if isinstance(value, (tuple, list)) else None
    if not isinstance(value, (bool, int, float, str)) or not _is_indexed(value):
        return None
    if field == "record_id":
        return filter_text({"@id": value}) if isinstance(value, str) else None
    if field == "dtype":
        return filter_text({"@dtype": value.removeprefix("torch.")}) if isinstance(value, str) else None
    key = _key(field)
    if key is None:
        return None
    equal = filter_text({key: value})
    # A tensor that another client inserted has no such field; its time is when it was stored.
    return f"{equal} OR NOT timestamp_utc EXISTS" if field == "timestamp_utc" else equal


def shape_filter(shape: Sequence[int]) -> str:
    """Return a filter that holds for tensors of this shape."""
    return filter_text({"@shape": json.dumps([int(size) for size in shape])})


def _key(field: str) -> str | None:
    """Return a field of the user's as filters name it: a dot in it does not lead into a dict."""
    return None if not field or "`" in field else re.sub(r"([.@\\])", r"\\\1", field)


def _is_indexed(value: float | str) -> bool:
    if isinstance(value, str):
        return len(value.encode(errors="replace")) <= _TEXT_BYTES_MAX and "\0" not in value
    return abs(value) <= _INTEGER_EXACT_MAX  # and so not for NaN
