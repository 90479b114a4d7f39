"""Schemas as Tensorus 0.1 had them, and as a store has them.

A dict with any of `shape`, `dtype` ("torch.float32") and `metadata`, names of fields and of their types. The store checks every
insert and update of metadata against it. Keys that every record has anyway are not part of what it checks. Other parts, such as
a description, never meant anything: they are left out, with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tensorus.tensor_storage._metadata import SYSTEM_KEYS, dtype_text
from tensorus.types import Schema

if TYPE_CHECKING:
    from tensorus.types import DatasetInfo

__all__ = ["schema_from", "schema_to"]

_PARTS = ("shape", "dtype", "metadata")

_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


def schema_to(schema: Mapping[str, Any] | None) -> Schema:
    """Return what a store is asked to check; `Any`: checked here. A `UserWarning` names the parts that it leaves out.

    Raises:
        TypeError: it is no dict, or one of its parts is not what it should be.
    """
    if schema is None:
        return Schema()
    if not isinstance(schema, Mapping):
        raise TypeError(f"schema is a {type(schema).__name__}, must be a dict")
    unknown = [repr(key) for key in schema if key not in _PARTS]
    if unknown:
        warnings.warn(
            f"the schema's {', '.join(unknown)} is ignored: a schema has {', '.join(_PARTS)}", UserWarning, stacklevel=3
        )
    shape, dtype, metadata = (schema.get(part) for part in _PARTS)
    if not isinstance(metadata, (Mapping, type(None))):
        raise TypeError(f"metadata of the schema is a {type(metadata).__name__}, must be a dict")
    return Schema(
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        shape=None if shape is None else tuple(shape),
        # A type that is not known: the field has to be there, and may be anything.
        metadata={key: _TYPES.get(name) for key, name in (metadata or {}).items() if key not in SYSTEM_KEYS},
    )


def schema_from(dataset: DatasetInfo) -> dict[str, Any] | None:
    """Return a dataset's schema as a dict, of what there is of it; None: it takes anything."""
    schema = dataset.schema
    parts: dict[str, Any] = {}
    if schema.shape is not None:
        parts["shape"] = tuple(schema.shape)
    if schema.dtype is not None:
        parts["dtype"] = dtype_text(schema.dtype)
    if schema.metadata:
        parts["metadata"] = {key: "any" if kind is None else kind.__name__ for key, kind in schema.metadata.items()}
    return parts or None
