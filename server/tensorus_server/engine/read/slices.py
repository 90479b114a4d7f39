"""Slices of a chunked tensor: finds the chunks that a slice touches, and where their elements belong in the result.

Method. A chunk is a run of elements in row-major order. Such a run consists of a few *boxes*. A box has fixed indices for the
first axes, a range of indices for the next axis, and all indices of the axes after that. For example, the run of elements 5 to
29 of shape (4, 10) has two boxes: the rest of row 0, and rows 1 and 2. A run has at most 2 * rank - 1 boxes. Within a box,
NumPy does the slicing. Its output is one run of the result, because the result has the same axes in the same order. So any
slice, with any steps, even negative ones, is read chunk by chunk in file order, with memory for one chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tensorus_server.errors import InvalidSliceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from tensorus_server.model import SliceSet

__all__ = ["SlicePlan", "resolve_slices"]


@dataclass(frozen=True)
class SelectedRun:
    """A run of the result's elements."""

    offset: int
    """Position of the first element in the result, in elements."""
    values: np.ndarray[Any, Any]
    """The elements in order; a view, of any shape."""


def resolve_slices(slices: SliceSet, shape: tuple[int, ...], *, dataset: str, tensor: str) -> tuple[range, ...]:
    """Return the selected indices of each axis; slices have NumPy's meaning.

    Raises:
        InvalidSliceError: there are more slices than axes, or a step is 0.
    """
    given = len(slices.axes) + len(slices.trailing_axes)
    if given > len(shape):
        raise InvalidSliceError(
            f"number of slices is {given}, the tensor has {len(shape)} axes",
            dataset=dataset,
            tensor=tensor,
            limit=len(shape),
        )
    whole = (slice(None),) * (len(shape) - given)
    ranges = []
    for axis, (part, size) in enumerate(zip((*slices.axes, *whole, *slices.trailing_axes), shape, strict=True)):
        if part.step == 0:
            raise InvalidSliceError(f"step of axis {axis} is 0, must not be 0", dataset=dataset, tensor=tensor)
        ranges.append(range(*part.indices(size)))
    return tuple(ranges)


class SlicePlan:
    """One slice of one tensor."""

    def __init__(self, shape: tuple[int, ...], selected: tuple[range, ...], chunk_elements: int) -> None:
        """Plan to read the indices `selected` of each axis, from a tensor of `shape` in chunks of `chunk_elements`."""
        self._shape = shape
        self._selected = selected
        self._chunk_elements = chunk_elements
        self._total = math.prod(shape)
        self.result_shape = tuple(len(indices) for indices in selected)
        self._strides = _row_major_strides(shape)
        self._result_strides = _row_major_strides(self.result_shape)
        # The same indices in ascending order, for finding chunks: the direction of a step does not matter there.
        self._ascending = tuple(indices if indices.step > 0 else indices[::-1] for indices in selected)

    @property
    def result_elements(self) -> int:
        """Number of selected elements."""
        return math.prod(self.result_shape)

    def contiguous(self) -> tuple[int, int] | None:
        """Return position and number of the selected elements if they are one run in order; None otherwise.

        They are, if some first axes select one index each, the next axis selects a range with step 1, and all axes after that
        are selected completely.
        """
        if self.result_elements == 0:
            return 0, 0
        axis = 0
        while axis < len(self._shape) and len(self._selected[axis]) == 1:
            axis += 1
        for position in range(axis, len(self._shape)):
            indices, size = self._selected[position], self._shape[position]
            whole = indices == range(size)
            if not whole and not (position == axis and indices.step == 1):
                return None
        first = sum(indices[0] * stride for indices, stride in zip(self._selected, self._strides, strict=True))
        return first, self.result_elements

    def chunks(self) -> Iterator[int]:
        """Yield the numbers of the chunks with selected elements, in ascending order."""
        position = self._next_selected(0)
        while position is not None:
            chunk = position // self._chunk_elements
            yield chunk
            position = self._next_selected((chunk + 1) * self._chunk_elements)

    def pieces(self, chunk: int, values: np.ndarray[Any, Any]) -> Iterator[SelectedRun]:
        """Yield the runs of the result that chunk number `chunk` contains.

        Args:
            chunk: one of the numbers from `chunks`.
            values: the chunk's elements, shape (n,).
        """
        begin = chunk * self._chunk_elements
        for prefix, low, high in _boxes(begin, begin + values.size, self._shape, self._strides):
            piece = self._piece(prefix, low, high, begin, values)
            if piece is not None:
                yield piece

    def _piece(
        self, prefix: tuple[int, ...], low: int, high: int, begin: int, values: np.ndarray[Any, Any]
    ) -> SelectedRun | None:
        """Return the selected elements of one box, which has indices `low` to `high` (exclusive) on axis `len(prefix)`."""
        axis = len(prefix)
        offset = 0
        for above, index in enumerate(prefix):
            if index not in self._selected[above]:
                return None
            offset += self._selected[above].index(index) * self._result_strides[above]
        if axis == len(self._shape):
            # The only box of a scalar tensor.
            return SelectedRun(0, values)
        start, stop = _positions_between(self._selected[axis], low, high)
        if start >= stop or 0 in self.result_shape[axis:]:
            return None
        offset += start * self._result_strides[axis]
        first = (
            sum(index * stride for index, stride in zip(prefix, self._strides, strict=False))
            + low * self._strides[axis]
        )
        inner = self._shape[axis + 1 :]
        box = values[first - begin : first - begin + (high - low) * self._strides[axis]].reshape((high - low, *inner))
        here = self._selected[axis][start:stop]
        outer = slice(here[0] - low, _stop(here, low), here.step)
        return SelectedRun(offset, box[(outer, *(_as_slice(indices) for indices in self._selected[axis + 1 :]))])

    def _next_selected(self, position: int) -> int | None:
        """Return the row-major position of the first selected element at or after `position`, or None."""
        if position >= self._total or 0 in self.result_shape:
            return None
        index = [position // stride % size for stride, size in zip(self._strides, self._shape, strict=True)]
        axis = 0
        while axis < len(index) and index[axis] in self._ascending[axis]:
            axis += 1
        if axis == len(index):
            return position
        # Advance to the next selected index of this axis; if it has none left, advance the axis before it, like a counter.
        at = _first_not_below(self._ascending[axis], index[axis])
        while at is None:
            axis -= 1
            if axis < 0:
                return None
            at = _first_not_below(self._ascending[axis], index[axis] + 1)
        index[axis] = self._ascending[axis][at]
        index[axis + 1 :] = [indices[0] for indices in self._ascending[axis + 1 :]]
        return sum(i * stride for i, stride in zip(index, self._strides, strict=True))


def _row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return, for each axis, how many elements a step along it skips."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _boxes(
    begin: int, end: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], int, int]]:
    """Yield the boxes of the elements from `begin` to `end` (exclusive): fixed first indices, and low and high of the next."""
    position = begin
    if not shape:
        yield (), 0, 1
        return
    while position < end:
        # The outermost axis such that `position` is at the start of one of its steps and the whole step fits into the run.
        axis = next(
            level for level, stride in enumerate(strides) if position % stride == 0 and position + stride <= end
        )
        stride = strides[axis]
        low = position // stride % shape[axis]
        high = min(shape[axis], low + (end - position) // stride)
        prefix = tuple(position // strides[above] % shape[above] for above in range(axis))
        yield prefix, low, high
        position += (high - low) * stride


def _positions_between(indices: range, low: int, high: int) -> tuple[int, int]:
    """Return the run of positions in `indices` whose indices are from `low` to `high` (exclusive); any direction."""
    if indices.step > 0:
        start = max(0, -(-(low - indices.start) // indices.step))
        stop = min(len(indices), -(-(high - indices.start) // indices.step))
    else:
        start = max(0, -(-(indices.start - high + 1) // -indices.step))
        stop = min(len(indices), -(-(indices.start - low + 1) // -indices.step))
    return start, stop


def _first_not_below(indices: range, value: int) -> int | None:
    """Return the position of the first index >= `value` in ascending `indices`, or None."""
    at = max(0, -(-(value - indices.start) // indices.step))
    return at if at < len(indices) else None


def _stop(indices: range, low: int) -> int | None:
    """Return the stop of a slice for `indices`, relative to `low`; None if a negative step ends at the very start."""
    stop = indices.stop - low
    return None if stop < 0 else stop


def _as_slice(indices: range) -> slice:
    return slice(indices.start, _stop(indices, 0), indices.step) if len(indices) else slice(0, 0)
