"""Converts schemas between the form of Tensorus 0.1 and that of the store.

The former is a dict with any of `shape`, `dtype` ("torch.float32") and `metadata`, which maps fields to names of types. The
store checks every insert and metadata update against the schema. Fields that every record has are not checked. Other parts,
such as a description, never had an effect; they are dropped with a warning.
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
    """Return the store's form of a schema. A `UserWarning` names the parts that are dropped. `Any`: checked here.

    Raises:
        TypeError: the schema or its metadata is not a dict, or a part has a wrong type.
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
        # A field with an unknown type must exist, and may have any type.
        metadata={key: _TYPES.get(name) for key, name in (metadata or {}).items() if key not in SYSTEM_KEYS},
    )


def schema_from(dataset: DatasetInfo) -> dict[str, Any] | None:
    """Return a dataset's schema in the form of Tensorus 0.1, with the parts that it has; None if it has none."""
    schema = dataset.schema
    parts: dict[str, Any] = {}
    if schema.shape is not None:
        parts["shape"] = tuple(schema.shape)
    if schema.dtype is not None:
        parts["dtype"] = dtype_text(schema.dtype)
    if schema.metadata:
        parts["metadata"] = {key: "any" if kind is None else kind.__name__ for key, kind in schema.metadata.items()}
    return parts or None
