"""NumPy's basic indexing, as slices to request and axes to drop from the result.

The shape is unknown when the request is made. So an integer becomes a slice of length one whose axis is dropped from the
result, and an Ellipsis separates slices of the first axes from slices of the last axes.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tensorus._arrays.canonical import AnyArray
    from tensorus.types import Index

__all__ = ["ParsedIndex", "parse_index", "selected_shape"]


@dataclass(frozen=True)
class ParsedIndex:
    """An index, parsed."""

    axes: tuple[slice, ...]
    """Slices of the first axes."""
    trailing_axes: tuple[slice, ...]
    """Slices of the last axes."""
    integers: dict[int, int]
    """Integers by axis; a negative axis counts from the last one."""
    has_slices: bool
    """Whether the index has a slice or Ellipsis. If not, a result without axes is a scalar, as in NumPy."""

    def apply(self, array: AnyArray, shape: tuple[int, ...]) -> AnyArray:
        """Return the result that NumPy's indexing would give.

        Args:
            array: the part that was read, with all axes of the tensor.
            shape: shape of the whole tensor.

        Raises:
            IndexError: an integer is out of bounds.
        """
        dropped = set()
        for axis, index in self.integers.items():
            position = axis % len(shape)
            if array.shape[position] != 1:
                raise IndexError(f"index {index} is out of bounds for axis {position} with size {shape[position]}")
            dropped.add(position)
        kept = [size for position, size in enumerate(array.shape) if position not in dropped]
        result = array.reshape(kept)
        return result if self.has_slices or kept else result[()]


def parse_index(index: Index) -> ParsedIndex:
    """Parse `index`.

    Raises:
        TypeError: a part is not an integer, a slice or Ellipsis.
        IndexError: it has more than one Ellipsis.
    """
    parts = index if isinstance(index, tuple) else (index,)
    ellipses = [position for position, part in enumerate(parts) if part is Ellipsis]
    if len(ellipses) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    border = ellipses[0] if ellipses else len(parts)
    leading, trailing = parts[:border], parts[border + 1 :]
    integers: dict[int, int] = {}
    axes = tuple(_as_slice(part, axis, integers) for axis, part in enumerate(leading))
    trailing_axes = tuple(_as_slice(part, axis - len(trailing), integers) for axis, part in enumerate(trailing))
    has_slices = len(integers) < len(parts)
    return ParsedIndex(axes, trailing_axes, integers, has_slices)


def selected_shape(shape: tuple[int, ...], index: Index) -> tuple[int, ...]:
    """Return the shape of what an index selects of an array of this shape, as NumPy's indexing gives it.

    Raises:
        IndexError: the index does not fit the shape.
    """
    # Costs no memory: an array of this shape without elements of its own.
    return np.broadcast_to(np.uint8(0), shape)[index].shape


def _as_slice(part: object, axis: int, integers: dict[int, int]) -> slice:
    if isinstance(part, slice):
        return slice(
            *(None if bound is None else operator.index(bound) for bound in (part.start, part.stop, part.step))
        )
    try:
        if isinstance(part, bool):
            raise TypeError("NumPy takes a bool for a mask")
        number = operator.index(part)  # type: ignore[arg-type]  # raises TypeError for anything else
    except TypeError as error:
        raise TypeError(f"index has a {type(part).__name__}, must have only integers, slices and ...") from error
    integers[axis] = number
    # -1 is the last index; no stop can name the one after it.
    return slice(number, None if number == -1 else number + 1)
