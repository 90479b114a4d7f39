"""Edits of stored tensors, as backends take them. Shared by both clients."""

from __future__ import annotations

from dataclasses import replace
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus._arguments import upload_of
from tensorus._arrays.canonical import as_numpy, empty_canonical
from tensorus._arrays.indexing import parse_index, selected_shape
from tensorus._backend import Append, Write
from tensorus.errors import InvalidSliceError
from tensorus.types import NewTensor

if TYPE_CHECKING:
    from tensorus._backend import Upload
    from tensorus.types import Index, TensorInfo

__all__ = ["append_of", "write_of"]


def append_of(tensor_id: str, values: object, axis: int, if_generation_match: int | None) -> Upload:
    """Return an append.

    Raises:
        TypeError: `values` is not an array.
    """
    return _upload(tensor_id, values, Append(axis), if_generation_match)


def write_of(info: TensorInfo, index: Index, values: object, if_generation_match: int | None) -> Upload:
    """Return a write into the tensor that `info` describes.

    Args:
        index: where the values belong, as for `get`.
        values: an array of the tensor's dtype, or a number; it is broadcast to the shape of the index.

    Raises:
        TypeError: `values` is neither an array nor a number, or the index is invalid.
        IndexError: the index does not fit the tensor's shape.
        InvalidSliceError: a slice goes beyond the end of an axis.
        ValueError: the values cannot be broadcast to the shape of the index.
    """
    shape = info.shape
    selected = selected_shape(shape, index)
    parsed = parse_index(index)
    between = (slice(None),) * (len(shape) - len(parsed.axes) - len(parsed.trailing_axes))
    given = (*parsed.axes, *between, *parsed.trailing_axes)
    for axis, (part, size) in enumerate(zip(given, shape, strict=True)):
        if max(part.start or 0, part.stop or 0) > size:
            raise InvalidSliceError(
                f"the write goes to {max(part.start or 0, part.stop or 0)} on axis {axis}, the tensor has size {size} there "
                f"[dataset={info.dataset}, tensor={info.id}]",
                reason="INVALID_SLICE",
            )
    array = _values(values, info.dtype)
    try:
        array = np.broadcast_to(array, selected)
    except ValueError:
        raise ValueError(
            f"values of shape {list(array.shape)} do not fit the index, which selects {list(selected)}"
        ) from None
    ranges = [range(*part.indices(size)) for part, size in zip(given, shape, strict=True)]
    # The server has no negative steps. With all axes of the tensor, those of integers included, they can be turned round.
    array = array.reshape([len(indices) for indices in ranges])
    array = array[tuple(slice(None, None, -1) if indices.step < 0 else slice(None) for indices in ranges)]
    axes = tuple(_forwards(indices) if indices.step < 0 else part for part, indices in zip(given, ranges, strict=True))
    return _upload(info.id, array, Write(axes), if_generation_match)


def _upload(tensor_id: str, values: object, edit: Append | Write, if_generation_match: int | None) -> Upload:
    new = NewTensor(values, tensor_id, if_generation_match=if_generation_match)
    return replace(upload_of(new), edit=edit)


def _values(values: object, dtype: str) -> np.ndarray[Any, Any]:
    if isinstance(values, Number) and not isinstance(values, np.generic):
        array = empty_canonical(dtype, ())
        array[...] = values
        return array
    return as_numpy(values)


def _forwards(indices: range) -> slice:
    """Return a slice with the same indices in ascending order."""
    if not indices:
        return slice(0, 0)
    return slice(indices[-1], indices[0] + 1, -indices.step)
