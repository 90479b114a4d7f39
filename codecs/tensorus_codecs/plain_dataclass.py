"""A dataclass that is frozen for type checkers only, because constructing a truly frozen one is slow.

`dataclass(frozen=True)` sets each field with `object.__setattr__`: a `Tensor` with its fifteen fields takes 3.2 microseconds
to construct instead of 1.2. Every small tensor needs several such objects, so reading small tensors is a fifth faster with
plain ones (measured). The server uses this decorator for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["plain_dataclass"]

T = TypeVar("T")


# Nothing refuses an assignment at run time, and instances are hashed, cached and shared: mypy is the guard.
@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def plain_dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a dataclass that compares and hashes by its fields and that type checkers treat as frozen."""
    return dataclass(unsafe_hash=True)(cls)
