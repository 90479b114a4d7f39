"""The filter tree: conditions on metadata and on what every tensor has, joined by all, any and not.

A condition on a field that a tensor does not have is false, and `Not` is the exact complement. Numbers compare with numbers
(true is 1, false is 0), text with text by code point, and never across. A list in the metadata counts as each of its
elements. A value that no index can hold (null, NaN, an integer beyond 2**53, text with a NUL or above
`INDEXED_TEXT_BYTES_MAX`) exists, but compares with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from tensorus_protos.rules import flattened, join_key
from tensorus_server.errors import InvalidFilterError, LimitExceededError
from tensorus_server.limits import (
    FILTER_CONDITIONS_MAX,
    FILTER_DEPTH_MAX,
    FILTER_VALUES_MAX,
    FILTER_VALUES_TOTAL_MAX,
    INDEXED_TEXT_BYTES_MAX,
)

__all__ = [
    "AllOf",
    "AnyOf",
    "Compare",
    "Dimension",
    "Exists",
    "Field",
    "Filter",
    "Key",
    "Not",
    "OneOf",
    "Operator",
    "Prefix",
    "Property",
    "check_filter",
    "flatten_metadata",
    "indexed",
    "join_key",
]

INTEGER_EXACT_MAX = 2**53
"""Integers beyond it are not exact as float64, in which every number is indexed."""


class Property(Enum):
    """What every tensor has. The value is the name in the text form, after "@"."""

    ID = "id"
    DTYPE = "dtype"
    SHAPE = "shape"
    RANK = "rank"
    NBYTES = "nbytes"
    STORED_BYTES = "stored_bytes"
    CREATED = "created"
    MIN = "min"
    MAX = "max"
    MEAN = "mean"
    STANDARD_DEVIATION = "standard_deviation"
    L2_NORM = "l2_norm"
    ZERO_COUNT = "zero_count"
    NAN_COUNT = "nan_count"
    INFINITY_COUNT = "infinity_count"


@dataclass(frozen=True)
class Key:
    """A metadata key; nested keys joined by ".", see `join_key`."""

    name: str


@dataclass(frozen=True)
class Dimension:
    """The size of one axis."""

    axis: int


Field: TypeAlias = "Key | Property | Dimension"

Scalar: TypeAlias = "bool | int | float | str"


class Operator(Enum):
    """How two values compare."""

    EQUAL = "="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


@dataclass(frozen=True)
class AllOf:
    """Holds where every filter holds; an empty list always does."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class AnyOf:
    """Holds where one filter holds; an empty list never does."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """Holds where the filter does not."""

    filter: Filter


@dataclass(frozen=True)
class Compare:
    """Holds where the field has a value of the same kind that compares so. NOT_EQUAL: one of the same kind that differs."""

    field: Field
    operator: Operator
    value: Scalar


@dataclass(frozen=True)
class OneOf:
    """Holds where the field equals one of the values."""

    field: Field
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Exists:
    """Holds where the tensor has the field."""

    field: Field


@dataclass(frozen=True)
class Prefix:
    """Holds where the field is text that starts so."""

    field: Field
    text: str


Filter: TypeAlias = AllOf | AnyOf | Not | Compare | OneOf | Exists | Prefix


def check_filter(root: Filter) -> None:
    """Refuse a filter above the limits, or with a value that nothing equals.

    Raises:
        LimitExceededError: too deep, too many conditions, or too many values.
        InvalidFilterError: a value that no index holds.
    """
    conditions = values = 0
    level: list[Filter] = [root]
    depth = 0
    while level:
        depth += 1
        below: list[Filter] = []
        for node in level:
            if isinstance(node, (AllOf, AnyOf)):
                below.extend(node.filters)
            elif isinstance(node, Not):
                below.append(node.filter)
            else:
                conditions += 1
                values += _check_condition(node)
        level = below
        # Counted level by level, so that a hostile tree is refused before all of it is walked.
        for what, value, limit in (
            ("depth", depth, FILTER_DEPTH_MAX),
            ("number of conditions", max(conditions, len(below)), FILTER_CONDITIONS_MAX),
            ("number of one_of values", values, FILTER_VALUES_TOTAL_MAX),
        ):
            if value > limit:
                raise LimitExceededError(f"{what} of the filter is at least {value}, limit is {limit}", limit=limit)


def _check_condition(node: Compare | OneOf | Exists | Prefix) -> int:
    """Check one condition and return how many `one_of` values it has."""
    if isinstance(node, Compare):
        _check_value(node.value)
    elif isinstance(node, Prefix):
        _check_value(node.text)
    elif isinstance(node, OneOf):
        if len(node.values) > FILTER_VALUES_MAX:
            raise LimitExceededError(
                f"number of values of a one_of is {len(node.values)}, limit is {FILTER_VALUES_MAX}",
                limit=FILTER_VALUES_MAX,
            )
        for value in node.values:
            _check_value(value)
        return len(node.values)
    return 0


def _check_value(value: Scalar) -> None:
    if indexed(value) is None:
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        raise InvalidFilterError(
            f"nothing compares with {shown}: it is NaN, beyond 2**53, or text that has a NUL, is no Unicode, or is above "
            f"{INDEXED_TEXT_BYTES_MAX} bytes (indexed_text_bytes_max)"
        )


def indexed(value: object) -> float | str | None:
    """Return what an index holds for a metadata value: a float64, text, or None where comparisons never see it."""
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            # Lone surrogates: nothing stored has them.
            return None
        return value if "\0" not in value and size <= INDEXED_TEXT_BYTES_MAX else None
    if isinstance(value, (bool, int)):
        return float(value) if abs(value) <= INTEGER_EXACT_MAX else None
    if isinstance(value, float):
        return value if value == value else None  # noqa: PLR0124 - NaN differs from itself
    return None


def flatten_metadata(metadata: dict[str, Any]) -> list[tuple[str, float | str | None]]:
    """Return what filters see of `metadata`: a pair of key and indexed value for each scalar, lists element by element.

    A key whose value is an empty list or map is there, with no value.
    """
    return flattened(metadata, indexed)
