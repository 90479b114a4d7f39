"""Filters as users write them: text as it is, or a dict of what must be equal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Where", "filter_text"]

Scalar: TypeAlias = "bool | int | float | str"

Where: TypeAlias = Union[str, "Mapping[str, Scalar | Sequence[Scalar]]"]
"""A filter in the text form, or metadata keys (or properties such as "@dtype") and their values; a list: one of these."""


def filter_text(where: Where | None) -> str:
    """Return the filter in the text form; empty where there is none.

    Raises:
        TypeError: a value that nothing can equal.
        ValueError: a key or number that the text form cannot hold.
    """
    if where is None or isinstance(where, str):
        return where or ""
    return " AND ".join(_condition(key, value) for key, value in where.items())


def _condition(key: str, value: object) -> str:
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            raise ValueError(f"values of {key!r} are an empty list: nothing is one of none")
        return f"{_field(key)} IN ({', '.join(map(_literal, value))})"
    return f"{_field(key)} = {_literal(value)}"


def _field(key: str) -> str:
    if key.startswith("@"):
        return key
    if "`" in key or not key:
        raise ValueError(f"key {key!r} cannot be part of a filter")
    return f"`{key}`"


def _literal(value: object) -> str:
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be part of a filter: nothing equals it")
        # By the base's own repr: an enum's, say, is no number.
        return int.__repr__(value) if isinstance(value, int) else float.__repr__(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be part of a filter; bool, int, float, str and lists of these can"
    )
