"""Copies of a dataclass that differ in one field, also within the dataclasses that it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tensorus_codecs.dtypes import DType, dtype_by_name
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.model import EncodingShare, Outcome

__all__ = ["variants_of"]


def variants_of(value: Any, absent: Mapping[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield for each field its path and a copy of `value` in which that field alone is another.

    Args:
        absent: for fields that are None, what to put in their place.
    """
    for field in dataclasses.fields(value):
        found = getattr(value, field.name)
        if found is None:
            if absent is not None and field.name in absent:
                yield field.name, dataclasses.replace(value, **{field.name: absent[field.name]})
        elif dataclasses.is_dataclass(found) and not isinstance(found, DType | StoragePolicy):
            for path, changed in variants_of(found):
                yield f"{field.name}.{path}", dataclasses.replace(value, **{field.name: changed})
        else:
            yield field.name, dataclasses.replace(value, **{field.name: _another(found)})


_OTHERS: list[tuple[type, Callable[[Any], Any]]] = [
    (bool, lambda value: not value),
    (int, lambda value: value + 1),
    (float, lambda value: value + 1),
    (str, lambda value: f"{value}x"),
    (bytes, lambda value: value[:-1] + bytes([value[-1] ^ 1])),
    (dict, lambda value: {**value, "another": 1}),
    (tuple, lambda value: value[:-1] + (_other_share(value[-1]) if _ends_with_share(value) else (7,))),
    (DType, lambda value: dtype_by_name("int8" if value.name != "int8" else "uint8")),
    (StoragePolicy, lambda value: dataclasses.replace(value, preset="fast")),
    (Outcome, lambda value: Outcome.REPLACED),
]
"""For each type, how to make another value; bool before int, which it is, too."""


def _ends_with_share(value: tuple[Any, ...]) -> bool:
    return bool(value) and isinstance(value[-1], EncodingShare)


def _other_share(share: EncodingShare) -> tuple[EncodingShare]:
    return (dataclasses.replace(share, chunks=share.chunks + 1, stored_bytes=share.stored_bytes + 1),)


def _another(value: Any) -> Any:
    return next(other for kind, other in _OTHERS if isinstance(value, kind))(value)
