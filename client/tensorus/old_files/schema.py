"""Makes a schema of what the original kept as one: a dict that may have `shape`, `dtype` and `metadata`.

It held later inserts to it, and nothing that was there already; so does a store's. Where the two differ, the store's is
stricter: a bool is no "int" here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tensorus.old_files.errors import OldRecordError
from tensorus.old_files.pt_tensors import old_dtype
from tensorus.old_files.pt_values import Mark, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OldSchema", "converted_schema"]

_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}

_SHOWN_MAX = 5
"""Names in one note."""


@dataclass(frozen=True)
class OldSchema:
    """What a dataset's tensors must look like, as far as a store can say it; without a value, anything."""

    dtype: str | None = None
    """NumPy's or ml_dtypes' name, such as "float32"."""
    shape: tuple[int, ...] | None = None
    metadata: dict[str, type | None] = field(default_factory=dict)
    """Keys that must be there, and what they must be; None: anything."""


def converted_schema(pickled: object) -> tuple[OldSchema, tuple[str, ...]]:
    """Return the schema, and a note on each part of it that is dropped.

    Args:
        pickled: the dict, or None.
    """
    if pickled is None:
        return OldSchema(), ()
    if not isinstance(pickled, dict):
        return OldSchema(), (f"its schema is dropped: it is a {kind_of(pickled)}, must be a dict",)
    notes: list[str] = []
    dtype = _dtype(pickled["dtype"], notes) if pickled.get("dtype") is not None else None
    shape = _shape(pickled["shape"], notes) if pickled.get("shape") is not None else None
    metadata = _metadata(pickled["metadata"], notes) if pickled.get("metadata") is not None else {}
    unknown = [key if isinstance(key, str) else kind_of(key) for key in pickled if key not in _KNOWN]
    notes += [f"its schema's {key!r} is dropped: it never meant anything" for key in unknown[:_SHOWN_MAX]]
    return OldSchema(dtype, shape, metadata), tuple(notes)


_KNOWN = {"dtype", "shape", "metadata"}


def _dtype(pickled: object, notes: list[str]) -> str | None:
    try:
        return old_dtype(pickled.name if isinstance(pickled, Mark) else pickled).name
    except OldRecordError as error:
        notes.append(f"its schema's dtype is dropped: {error}")
        return None


def _shape(pickled: object, notes: list[str]) -> tuple[int, ...] | None:
    if isinstance(pickled, (list, tuple)):
        sizes = tuple(_sizes(pickled))
        if len(sizes) == len(pickled):
            return sizes
    notes.append(f"its schema's shape is dropped: it is a {kind_of(pickled)} that no shape is")
    return None


def _sizes(pickled: list[object] | tuple[object, ...]) -> Iterator[int]:
    for size in pickled:
        if isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63:
            yield size


def _metadata(pickled: object, notes: list[str]) -> dict[str, type | None]:
    if not isinstance(pickled, dict):
        notes.append(f"its schema's metadata is dropped: it is a {kind_of(pickled)}, must be a dict")
        return {}
    # As the original: of a type that it did not know, it only asked that the key is there.
    return {
        key: _TYPES.get(kind) if isinstance(kind, str) else None
        for key, kind in pickled.items()
        if isinstance(key, str)
    }
