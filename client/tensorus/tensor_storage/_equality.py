"""Expresses the equality of `query_by_metadata` as a filter of the catalogue.

A filter finds every equal record, and perhaps others, since it treats a list as each of its elements. The caller must compare
the records that it finds again. If a filter cannot express the equality, the result is None, and the caller must check every
record.
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
"""Larger numbers and longer texts are not indexed; see the contract."""


def field_filter(field: str, value: object) -> str | None:
    """Return a filter that matches every record whose `field` equals `value`, or None if there is no such filter."""
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
    # A tensor inserted through another API lacks this field; its timestamp is the time of the commit.
    return f"{equal} OR NOT timestamp_utc EXISTS" if field == "timestamp_utc" else equal


def shape_filter(shape: Sequence[int]) -> str:
    """Return a filter that matches tensors of this shape."""
    return filter_text({"@shape": json.dumps([int(size) for size in shape])})


def _key(field: str) -> str | None:
    """Return a user's field in the syntax of filters, with dots escaped; None if filters cannot name it."""
    return None if not field or "`" in field else re.sub(r"([.@\\])", r"\\\1", field)


def _is_indexed(value: float | str) -> bool:
    if isinstance(value, str):
        return len(value.encode(errors="replace")) <= _TEXT_BYTES_MAX and "\0" not in value
    return abs(value) <= _INTEGER_EXACT_MAX  # False for NaN
