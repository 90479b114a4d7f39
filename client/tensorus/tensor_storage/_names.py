r"""Converts dataset names, which may be any text, to names that the store accepts.

A store refuses control characters, and parts between slashes that are empty, "." or "..". Such a name is stored as "%" followed
by the name, in which every "%", "/" and control character becomes "%" and two hexadecimal digits: "../a" becomes "%..%2Fa". All
other names are stored unchanged, unless they look like an escaped name; then they are escaped too. So the mapping is injective.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["shown_name", "stored_name"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"[%/\x00-\x1f\x7f]")


def stored_name(name: object) -> str:
    """Return the dataset's name in the store.

    Raises:
        TypeError: `name` is not a str.
        ValueError: it is empty or contains a NUL.
    """
    if not isinstance(name, str):
        raise TypeError(f"name of a dataset is a {type(name).__name__}, must be a str")
    if not name or "\0" in name:
        raise ValueError(f"name of a dataset is {name!r}, must not be empty or have a NUL")
    return _written(name) if _is_refused(name) or _is_written(name) else name


def shown_name(stored: str) -> str:
    """Return the name that the user gave; the inverse of `stored_name`."""
    return unquote(stored[1:]) if _is_written(stored) else stored


def _is_refused(name: str) -> bool:
    return _CONTROL.search(name) is not None or any(part in {"", ".", ".."} for part in name.split("/"))


def _written(name: str) -> str:
    return "%" + _ESCAPED.sub(lambda found: f"%{ord(found.group()):02X}", name)


def _is_written(stored: str) -> bool:
    """Return whether this is an escaped name, as `stored_name` returns it."""
    if not stored.startswith("%"):
        return False
    name = unquote(stored[1:])
    return _written(name) == stored and (_is_refused(name) or _is_written(name))
