"""What the pickle in a container of torch is made of, as it is read here: plain values, and these descriptions.

None, bool, int, float, str, list, tuple and dict are themselves. Whatever else a pickle names is one of the classes below: it
describes, and does nothing. They are compared by identity, so that nothing in a file can make comparing or hashing them slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["LongText", "Mark", "PickledBytes", "PickledObject", "PickledTensor", "PickledText", "Storage", "kind_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """Something that the pickle names, such as `datetime.datetime`, or makes of it. It is never imported and never called."""

    name: str
    """Module and name, joined by "."."""


@dataclass(frozen=True, slots=True, eq=False)
class LongText:
    """A text that stays in the file."""

    offset: int
    """Of its UTF-8, in bytes from the start of the pickle."""
    length: int
    """Bytes of UTF-8."""


PickledText: TypeAlias = "str | LongText"


@dataclass(frozen=True, slots=True, eq=False)
class PickledBytes:
    """Bytes, as the text whose code points they are."""

    text: PickledText


@dataclass(slots=True, eq=False)
class PickledObject:
    """Something small that the pickle says how to make, such as a date. It is not made; `metadata_values` reads it."""

    name: str
    """Of what would be called: module and name, joined by "."."""
    arguments: tuple[object, ...]
    """What it would be called with; whatever the file says."""
    state: object = None
    """What it would be given afterwards; of those listed in `pt_pickle`, only a `numpy.dtype` is given any."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """The numbers of one or several tensors."""

    kind: str
    """What kind of storage, such as "torch.FloatStorage"."""
    key: str
    """Its member is `data/<key>`."""
    count: object
    """An int where the file is right: elements, bytes of an untyped storage."""


@dataclass(frozen=True, slots=True, eq=False)
class PickledTensor:
    """A tensor: a view of a storage. Nothing is checked yet; every field is what the file says."""

    storage: object
    """A `Storage` where the file is right."""
    offset: object
    """An int, in elements."""
    shape: object
    """A tuple of ints."""
    strides: object
    """A tuple of ints, in elements."""
    dtype: object
    """A mark such as `torch.uint16`, where the storage is untyped; None: the storage says it."""
    flags: object
    """A dict that may have `conj` and `neg`, values that are to be conjugated or negated; or None."""


def kind_of(value: object) -> str:
    """Return what people call a value of a pickle: "datetime.datetime", "torch.Tensor", "list"."""
    if isinstance(value, (Mark, PickledObject)):
        return value.name
    names = {LongText: "str", PickledBytes: "bytes", PickledTensor: "torch.Tensor", Storage: "torch.Storage"}
    return names.get(type(value), type(value).__name__)
