"""The element types, once for every codec: name, number, width, and what kind of numbers they hold.

Names are NumPy's and ml_dtypes' own; numbers are those of the wire contract and of the chunk record, and never change.
A type that is not in the table is opaque: its bytes can be stored and moved, by its width, and are never interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import ml_dtypes
import numpy as np

from tensorus_codecs.errors import UnsupportedDTypeError

__all__ = ["DTYPES", "DType", "Kind", "dtype_by_name", "dtype_by_number", "opaque_dtype"]


class Kind(Enum):
    """What a dtype's elements are."""

    BOOL = "bool"
    INTEGER = "integer"
    FLOAT = "float"
    COMPLEX = "complex"
    OPAQUE = "opaque"


@dataclass(frozen=True)
class DType:
    """One element type."""

    name: str
    """NumPy's or ml_dtypes' name, e.g. "bfloat16"; "opaque<bits>" for a type outside the table."""
    number: int
    """In the wire contract and in the chunk record; 0 in the record of an opaque type."""
    element_bytes: int
    """Width of one element in bytes."""
    kind: Kind
    """What the elements are."""

    @cached_property
    def numpy(self) -> np.dtype:
        """The little-endian NumPy dtype; raw bytes (`V<n>`) where opaque."""
        if self.kind is Kind.OPAQUE:
            return np.dtype((np.void, self.element_bytes))
        return np.dtype(getattr(ml_dtypes, self.name, None) or self.name).newbyteorder("<")

    @cached_property
    def component(self) -> np.dtype:
        """The NumPy dtype of one real number: of half a complex element, of the element itself otherwise."""
        if self.kind is Kind.COMPLEX:
            return np.dtype(f"<f{self.element_bytes // 2}")
        return self.numpy

    @cached_property
    def word(self) -> np.dtype:
        """The unsigned integer as wide as `component`: what filters work on. Bytes where no integer is as wide."""
        width = self.component.itemsize
        return np.dtype(f"<u{width}") if width in {1, 2, 4, 8} else np.dtype("u1")

    @property
    def is_real(self) -> bool:
        """Whether the components are floating-point numbers, which quantizers may round."""
        return self.kind in {Kind.FLOAT, Kind.COMPLEX}


def _table() -> tuple[DType, ...]:
    kinds = {"bool": Kind.BOOL, "uint": Kind.INTEGER, "int": Kind.INTEGER, "complex": Kind.COMPLEX}
    rows = (
        ("bool", 1, 1),
        ("uint8", 2, 1),
        ("int8", 3, 1),
        ("uint16", 4, 2),
        ("int16", 5, 2),
        ("uint32", 6, 4),
        ("int32", 7, 4),
        ("uint64", 8, 8),
        ("int64", 9, 8),
        ("float16", 10, 2),
        ("bfloat16", 11, 2),
        ("float32", 12, 4),
        ("float64", 13, 8),
        ("complex64", 14, 8),
        ("complex128", 15, 16),
        ("float8_e4m3fn", 16, 1),
        ("float8_e5m2", 17, 1),
    )
    return tuple(
        DType(name, number, width, kinds.get(name.rstrip("0123456789"), Kind.FLOAT)) for name, number, width in rows
    )


DTYPES: tuple[DType, ...] = _table()
"""Every dtype of the contract, in the order of their numbers."""

_BY_NAME = {dtype.name: dtype for dtype in DTYPES}
_BY_NUMBER = {dtype.number: dtype for dtype in DTYPES}

_OPAQUE_BITS_MAX = 128
"""As wide as the widest dtype of the table."""


def dtype_by_name(name: str) -> DType:
    """Return the dtype called `name`.

    Raises:
        UnsupportedDTypeError: no dtype has this name.
    """
    dtype = _BY_NAME.get(name)
    if dtype is None:
        raise UnsupportedDTypeError(f"dtype {name!r} is not one of {', '.join(_BY_NAME)}")
    return dtype


def dtype_by_number(number: int) -> DType | None:
    """Return the dtype with this number, or None where the table has none."""
    return _BY_NUMBER.get(number)


def opaque_dtype(number: int, element_bits: int) -> DType:
    """Return a dtype outside the table, whose bytes are kept and never interpreted.

    Args:
        number: what the contract of a newer version calls it, kept so that readers get it back; positive.
        element_bits: width of one element; whole bytes, 8 to 128.

    Raises:
        UnsupportedDTypeError: the width is not a whole number of bytes, or too large.
    """
    if element_bits % 8 != 0 or not 8 <= element_bits <= _OPAQUE_BITS_MAX:
        raise UnsupportedDTypeError(
            f"dtype {number} is unknown here and its element_bits is {element_bits}; "
            f"an unknown dtype needs whole bytes, 8 to {_OPAQUE_BITS_MAX} bits"
        )
    return DType(f"dtype_{number}", number, element_bits // 8, Kind.OPAQUE)
