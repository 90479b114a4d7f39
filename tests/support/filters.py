"""What a filter means, written from the words of `tensorus_server.filter.tree` alone: the judge of every catalogue.

It looks at each tensor on its own, keeps no index, and knows no SQL. Where the words leave a choice, it says which one it
took.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Dimension,
    Exists,
    Field,
    Filter,
    Key,
    Not,
    OneOf,
    Operator,
    Prefix,
    Property,
)
from tensorus_server.model import Tensor

_UNCOMPARABLE = object()
"""Stands for a value that exists and compares with nothing."""

_COMPARISONS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def matches(filter_: Filter, tensor: Tensor) -> bool:
    """Return whether the filter holds for the tensor."""
    if isinstance(filter_, AllOf):
        return all(matches(child, tensor) for child in filter_.filters)
    if isinstance(filter_, AnyOf):
        return any(matches(child, tensor) for child in filter_.filters)
    if isinstance(filter_, Not):
        return not matches(filter_.filter, tensor)
    values = list(_values(filter_.field, tensor))
    if isinstance(filter_, Exists):
        return bool(values)
    comparable = [value for value in values if value is not _UNCOMPARABLE]
    if isinstance(filter_, Prefix):
        return any(isinstance(value, str) and value.startswith(filter_.text) for value in comparable)
    if isinstance(filter_, OneOf):
        return any(_compare(Operator.EQUAL, value, wanted) for value in comparable for wanted in filter_.values)
    return any(_compare(filter_.operator, value, filter_.value) for value in comparable)


def _compare(how: Operator, value: float | str, wanted: float | str) -> bool:
    """Compare numbers with numbers and text with text; never across, and true is 1."""
    if isinstance(value, str) != isinstance(wanted, str):
        return False
    # Python compares text by code point, and an integer with a float exactly.
    return _COMPARISONS[how](value, wanted)


def _values(field: Field, tensor: Tensor) -> Iterator[Any]:
    """Yield every value that the tensor has for the field; none where it does not have it."""
    if isinstance(field, Key):
        for name, value in _leaves([], tensor.metadata):
            if name == field.name:
                yield _comparable(value)
    elif isinstance(field, Dimension):
        yield from tensor.spec.shape[field.axis : field.axis + 1]
    else:
        value = _property(field, tensor)
        if value is not None:
            yield value


def _property(field: Property, tensor: Tensor) -> float | str | None:
    values = tensor.values
    of_every_tensor: dict[Property, float | str] = {
        Property.ID: tensor.id,
        Property.DTYPE: tensor.spec.dtype.name,
        Property.SHAPE: "[" + ", ".join(map(str, tensor.spec.shape)) + "]",
        Property.RANK: len(tensor.spec.shape),
        Property.NBYTES: tensor.storage.canonical_bytes,
        Property.STORED_BYTES: tensor.storage.stored_bytes,
        # Seconds since 1970.
        Property.CREATED: tensor.created_us / 1e6,
    }
    if field in of_every_tensor:
        return of_every_tensor[field]
    if values is None:
        return None
    found: dict[Property, float | None] = {
        Property.MIN: values.minimum,
        Property.MAX: values.maximum,
        Property.MEAN: values.mean,
        Property.STANDARD_DEVIATION: values.standard_deviation,
        Property.L2_NORM: values.l2_norm,
        Property.ZERO_COUNT: values.zero_count,
        Property.NAN_COUNT: values.nan_count,
        Property.INFINITY_COUNT: values.infinity_count,
    }
    return found[field]


def _leaves(path: list[str], value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of every scalar in the metadata, and of every empty list and map.

    A map that has entries is named by them alone: it has no value of its own, and does not exist for a filter.
    """
    if isinstance(value, dict) and (value or not path):
        for key, item in value.items():
            yield from _leaves([*path, key], item)
    elif isinstance(value, list) and value:
        for item in value:
            yield from _leaves(path, item)
    else:
        yield ".".join(map(_escaped, path)), value


def _escaped(part: str) -> str:
    return "".join("\\" + character if character in ".@\\" else character for character in part)


def _comparable(value: Any) -> Any:
    """Return the value, or what stands for one that exists and compares with nothing."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else _UNCOMPARABLE
    if isinstance(value, float):
        return _UNCOMPARABLE if math.isnan(value) else value
    if isinstance(value, str):
        return value if "\0" not in value and len(value.encode()) <= 1024 else _UNCOMPARABLE
    return _UNCOMPARABLE
