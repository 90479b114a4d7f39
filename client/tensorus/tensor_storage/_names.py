r"""Names of datasets: any text for the user, and for the store what it takes.

A store refuses control characters, and parts between slashes that are empty, "." or "..". Such a name is stored as "%" and the
name with every "%", "/" and control character as "%" and two hexadecimal digits: "../a" as "%..%2Fa". Every other name is
stored as it is, unless it looks like one of those; then it is written so itself. So no two names are stored alike.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["shown_name", "stored_name"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ESCAPED = re.compile(r"[%/\x00-\x1f\x7f]")


def stored_name(name: object) -> str:
    """Return the name under which the store has the dataset.

    Raises:
        TypeError: it is no text.
        ValueError: it is empty, or has a NUL.
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
    """Return whether this is what `stored_name` makes of another name."""
    if not stored.startswith("%"):
        return False
    name = unquote(stored[1:])
    return _written(name) == stored and (_is_refused(name) or _is_written(name))
