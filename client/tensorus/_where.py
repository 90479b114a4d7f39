"""Converts filters of users to the text form: text is taken as is, a dict states equalities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Where", "filter_text", "starts_with"]

Scalar: TypeAlias = "bool | int | float | str"

Where: TypeAlias = Union[str, "Mapping[str, Scalar | Sequence[Scalar]]"]
"""A filter as text, or a dict from metadata keys (or properties such as "@dtype") to values; a list means any of its values."""


def filter_text(where: Where | None) -> str:
    """Return the filter as text; empty for None.

    Raises:
        TypeError: a value has a type that filters cannot compare with.
        ValueError: the text form cannot express a key or number.
    """
    if where is None or isinstance(where, str):
        return where or ""
    return " AND ".join(_condition(key, value) for key, value in where.items())


def starts_with(field: str, prefix: str) -> str:
    """Return the filter of tensors whose property or metadata key, such as "@id", is text that begins with `prefix`."""
    return f"{_field(field)} STARTS WITH {_literal(prefix)}"


def _condition(key: str, value: object) -> str:
    if isinstance(value, (list, tuple, set, frozenset)):
        if not value:
            raise ValueError(f"values of {key!r} are an empty list, which matches nothing")
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
        # Use the base class's repr: the repr of a subclass, such as an enum, may not be a number.
        return int.__repr__(value) if isinstance(value, int) else float.__repr__(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be part of a filter; use bool, int, float, str or a list of these"
    )
