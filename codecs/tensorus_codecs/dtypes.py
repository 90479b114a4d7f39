"""The element types that all codecs share: name, number, width, and kind of number.

Names are those of NumPy and ml_dtypes. Numbers are those of the wire contract and the chunk record, and never change.
A type outside the table is opaque: its elements have a width, so they can be stored and moved, but are never interpreted.
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
    """Number in the wire contract and in the chunk record; the record of an opaque type has 0."""
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
        """The NumPy dtype of one real number: half of a complex element, otherwise the element itself."""
        if self.kind is Kind.COMPLEX:
            return np.dtype(f"<f{self.element_bytes // 2}")
        return self.numpy

    @cached_property
    def word(self) -> np.dtype:
        """The unsigned integer as wide as `component`, which filters work on. A byte if no integer has that width."""
        width = self.component.itemsize
        return np.dtype(f"<u{width}") if width in {1, 2, 4, 8} else np.dtype("u1")

    @property
    def is_real(self) -> bool:
        """Whether the components are floating-point numbers, which quantizers may round."""
        return self.kind in {Kind.FLOAT, Kind.COMPLEX}


def _table() -> tuple[DType, ...]:
    # The kind follows from the name without its digits. What is not listed here (float, bfloat, float8_e4m3fn) is a float.
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
    """Return the dtype with this number, or None."""
    return _BY_NUMBER.get(number)


def opaque_dtype(number: int, element_bits: int) -> DType:
    """Return a dtype outside the table. Its bytes are kept and never interpreted.

    Args:
        number: its number in a newer version of the contract, kept so that readers get it back; positive.
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
