"""Converts metadata between Python objects and `Value` messages.

Python             Value
None               null
bool               boolean
int                integer, within 64 bits; 1 and 1.0 stay distinct
float              number, NaN and infinities included
str                text
list, tuple        list
dict with str keys map

NumPy scalars are converted to the equal Python number. Any other type is refused with an error that gives the path to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, Union

import numpy as np

from tensorus_protos.plain import DEPTH_MAX
from tensorus_protos.rules import INTEGER_MAX, INTEGER_MIN
from tensorus_protos.v1 import tensorus_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Metadata", "MetadataValue", "from_value_map", "to_value", "to_value_map"]

MetadataValue: TypeAlias = Union[bool, int, float, str, "list[MetadataValue]", "dict[str, MetadataValue]", None]
"""The types of metadata values."""

Metadata: TypeAlias = "dict[str, MetadataValue]"

_NO_NUMBERS = (np.datetime64, np.timedelta64, np.void)
"""NumPy scalars that are not numbers, although `item` turns a time in nanoseconds into an int."""


def to_value(value: object, path: str = "value", depth: int = 0) -> pb.Value:
    """Return `value` as a message.

    Args:
        path: the name of this value in errors.
        depth: number of lists and dicts around it.

    Raises:
        TypeError: a value has a type that metadata cannot hold, or a key is not a string.
        ValueError: an integer is beyond 64 bits, text is not Unicode (it has a lone surrogate), or lists and dicts are nested
            more than 24 deep.
    """
    value = _without_numpy(value)
    if value is None:
        return pb.Value(null=True)
    if isinstance(value, bool):
        return pb.Value(boolean=value)
    if isinstance(value, int):
        if not INTEGER_MIN <= value <= INTEGER_MAX:
            raise ValueError(f"{path} is {value}, beyond the 64 bits of an integer")
        return pb.Value(integer=value)
    if isinstance(value, float):
        return pb.Value(number=value)
    if isinstance(value, str):
        return pb.Value(text=_checked_text(value, path))
    if depth >= DEPTH_MAX and isinstance(value, (list, tuple, dict)):
        raise ValueError(f"{path} is nested deeper than {DEPTH_MAX} lists and dicts")
    return _nested_to_value(value, path, depth)


def to_value_map(values: Mapping[str, object], path: str = "metadata", depth: int = 1) -> dict[str, pb.Value]:
    """Return a mapping's values as messages for a `map<string, Value>` field. Arguments and errors as in `to_value`."""
    entries: dict[str, pb.Value] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise TypeError(f"a key of {path} is a {type(key).__name__}, must be a str")
        entries[_checked_text(key, f"a key of {path}")] = to_value(value, f"{path}[{key!r}]", depth)
    return entries


def from_value_map(entries: Mapping[str, pb.Value]) -> Metadata:
    """Return the Python objects of a `map<string, Value>` field.

    Raises:
        ValueError: a value has a kind that this version does not know.
    """
    return {key: from_value(value) for key, value in entries.items()}


def from_value(value: pb.Value) -> MetadataValue:
    """Return the Python object of one message. Raises as `from_value_map` does."""
    kind = value.WhichOneof("kind")
    if kind == "text":
        return value.text
    if kind == "integer":
        return value.integer
    if kind == "number":
        return value.number
    if kind == "boolean":
        return value.boolean
    if kind == "null":
        return None
    if kind == "list":
        return [from_value(item) for item in value.list.values]
    if kind == "map":
        return from_value_map(value.map.entries)
    raise ValueError("a metadata value has no kind that this version knows")


def _nested_to_value(value: object, path: str, depth: int) -> pb.Value:
    if isinstance(value, (list, tuple)):
        items = [to_value(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
        return pb.Value(list=pb.ListValue(values=items))
    if isinstance(value, dict):
        return pb.Value(map=pb.MapValue(entries=to_value_map(value, path, depth + 1)))
    raise TypeError(
        f"{path} is a {type(value).__name__}; metadata holds None, bool, int, float, str, lists and dicts of these"
    )


def _without_numpy(value: object) -> object:
    return value.item() if isinstance(value, np.generic) and not isinstance(value, _NO_NUMBERS) else value


def _checked_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{path} is not Unicode text: {error.reason} at character {error.start}") from error
    return text
