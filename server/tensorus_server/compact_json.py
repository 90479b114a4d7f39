"""JSON as the catalogue keeps it, and as the size of metadata is measured."""

from __future__ import annotations

import json

__all__ = ["to_json"]

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def to_json(value: object) -> str:
    """Return compact JSON; NaN and infinities in Python's notation, which Python reads back."""
    return _encode(value)
