"""The filter tree: conditions on metadata and on properties, combined with all, any and not.

A condition on a field that a tensor lacks is false; `Not` is the exact complement. Numbers compare with numbers (true is 1,
false is 0), and text with text, by code point. A number and a text never compare. A list in the metadata counts as each of its
elements. Some values cannot be indexed: null, NaN, integers beyond 2**53, and text with a NUL or above
`INDEXED_TEXT_BYTES_MAX`. `Exists` finds them, but no comparison does.
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
"""All numbers are indexed as float64, which does not represent larger integers exactly."""


class Property(Enum):
    """A field that every tensor has. The enum's value is its name in the text form, after "@"."""

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
    """True if all filters are; true if there are none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class AnyOf:
    """True if at least one filter is; false if there are none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not:
    """True if the filter is false."""

    filter: Filter


@dataclass(frozen=True)
class Compare:
    """True if the field has a value of the same kind for which the comparison holds; the kinds are number and text.

    So NOT_EQUAL is false for a tensor whose field is missing or of the other kind.
    """

    field: Field
    operator: Operator
    value: Scalar


@dataclass(frozen=True)
class OneOf:
    """True if the field equals one of the values."""

    field: Field
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class Exists:
    """True if the tensor has the field."""

    field: Field


@dataclass(frozen=True)
class Prefix:
    """True if the field is text that starts with `text`."""

    field: Field
    text: str


Filter: TypeAlias = AllOf | AnyOf | Not | Compare | OneOf | Exists | Prefix


def check_filter(root: Filter) -> None:
    """Refuse a filter above the limits, or with a value that no comparison can match.

    Raises:
        LimitExceededError: the filter is too deep, or has too many conditions or values.
        InvalidFilterError: a value cannot be indexed.
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
        # Checked level by level, so that a hostile tree is refused before all of it is walked.
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
            f"nothing compares with {shown}: it is NaN, beyond 2**53, or text that has a NUL, is not Unicode, or is above "
            f"{INDEXED_TEXT_BYTES_MAX} bytes (indexed_text_bytes_max)"
        )


def indexed(value: object) -> float | str | None:
    """Return a metadata value as the index holds it: a float64, or text; None if comparisons ignore it."""
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            # A lone surrogate, which stored text never contains.
            return None
        return value if "\0" not in value and size <= INDEXED_TEXT_BYTES_MAX else None
    if isinstance(value, (bool, int)):
        return float(value) if abs(value) <= INTEGER_EXACT_MAX else None
    if isinstance(value, float):
        return value if value == value else None  # noqa: PLR0124 - NaN differs from itself
    return None


def flatten_metadata(metadata: dict[str, Any]) -> list[tuple[str, float | str | None]]:
    """Return metadata as filters see it: a key and an indexed value for each scalar; each element of a list counts.

    A key whose value is an empty list or map is included, with None.
    """
    return flattened(metadata, indexed)
