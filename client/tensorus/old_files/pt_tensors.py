"""Makes arrays of the tensors in a container of torch: a view of a storage becomes dense canonical values.

    element (i, j, ...)  =  storage[offset + i * strides[0] + j * strides[1] + ...]

Several tensors may share a storage, and a storage may be longer than its tensors need; of each, only the stretch that the
tensor touches is read. Nothing is allocated before the tensor fits its storage, and the storage its member in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tensorus.old_files.errors import OldRecordError
from tensorus.old_files.pt_values import Mark, Storage, kind_of
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.errors import UnsupportedDTypeError
from tensorus_protos.limits import RANK_MAX

if TYPE_CHECKING:
    from tensorus.old_files.pt_container import PtContainer
    from tensorus.old_files.pt_values import PickledTensor
    from tensorus_codecs.dtypes import DType

__all__ = ["Array", "old_dtype", "read_tensor"]

Array: TypeAlias = npt.NDArray[Any]
"""`Any`: of whichever dtype the file says."""

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}
"""Torch's words for the kinds of storages, and dtypes."""

_UNTYPED = "torch.storage.UntypedStorage"

_REPEATED_BYTES_MAX = 64 * 1024 * 1024
"""Canonical bytes of a tensor that has more elements than its storage, and so repeats some. The original cloned what it stored,
and a clone repeats nothing; without a limit, a few bytes of a file could be any amount of memory."""

_NUMBER_MAX = 2**63 - 1
"""Of a size, a stride, an offset and a count: what torch has."""


@dataclass(frozen=True)
class _View:
    """A tensor whose every number has been checked."""

    key: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    begin: int
    """The first element that it touches."""
    end: int
    """The one after the last."""


def old_dtype(name: object) -> DType:
    """Return the dtype of a torch name such as "torch.float32".

    Raises:
        OldRecordError: it is no such name, or torch's alone.
    """
    try:
        if isinstance(name, str) and name.startswith("torch."):
            return dtype_by_name(name.removeprefix("torch."))
    except UnsupportedDTypeError:
        pass
    shown = name if isinstance(name, str) else kind_of(name)
    raise OldRecordError(f"dtype {shown[:80]!r} cannot be stored")


def read_tensor(container: PtContainer, tensor: PickledTensor) -> Array:
    """Return a tensor's values: dense, row-major, little-endian, in memory of their own.

    Memory: the stretch of its storage, and once more the tensor where that is not dense.

    Raises:
        OldRecordError: it does not fit its storage, or cannot be a tensor.
        OldFileError: the storage's member is missing, short or damaged.
    """
    view = _checked(container, tensor)
    if view.begin == view.end:
        return _empty(view)
    width = view.dtype.element_bytes
    raw = np.empty((view.end - view.begin) * width, np.uint8)
    container.read_into(f"data/{view.key}", view.begin * width, memoryview(raw))
    if container.big_endian:
        raw.view(f"u{view.dtype.component.itemsize}").byteswap(inplace=True)
    # NumPy verifies once more that the strides stay within the stretch.
    strided: Array = np.ndarray(view.shape, view.dtype.numpy, raw, 0, tuple(stride * width for stride in view.strides))
    return _resolved(np.asarray(strided, order="C"), view.dtype, tensor.flags)


def _empty(view: _View) -> Array:
    try:
        return np.empty(view.shape, view.dtype.numpy)
    except ValueError as error:
        raise OldRecordError(f"its shape is {list(view.shape)}: {error}") from error


def _resolved(array: Array, dtype: DType, flags: object) -> Array:
    """Return the values that the bits stand for."""
    if dtype.name == "bool":
        # Torch writes 0 and 1; any other bit pattern is true, and canonical as 1.
        return np.asarray(array.view(np.uint8) != 0)
    if isinstance(flags, dict):
        if flags.get("conj") is True and np.iscomplexobj(array):
            array = np.asarray(np.conjugate(array))
        if flags.get("neg") is True:
            array = np.asarray(np.negative(array))
    return array


def _checked(container: PtContainer, tensor: PickledTensor) -> _View:
    storage = tensor.storage
    if not isinstance(storage, Storage):
        raise OldRecordError(f"its storage is a {kind_of(storage)}")
    dtype, storage_bytes = _dtype_and_bytes(storage, tensor.dtype)
    shape, strides = _numbers("shape", tensor.shape), _numbers("strides", tensor.strides)
    offset = _number("offset", tensor.offset)
    if len(shape) != len(strides) or len(shape) > RANK_MAX:
        raise OldRecordError(
            f"its shape has {len(shape)} axes and its strides have {len(strides)}; must be the same, at most {RANK_MAX}"
        )
    member_bytes = container.length(f"data/{storage.key}")
    if storage_bytes > member_bytes:
        raise OldRecordError(
            f"storage {storage.key!r} should have {storage_bytes} bytes, the file has {member_bytes} of it"
        )
    elements, storage_elements = math.prod(shape), storage_bytes // dtype.element_bytes
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if elements and last >= storage_elements:
        raise OldRecordError(f"its shape needs element {last} of storage {storage.key!r}, which has {storage_elements}")
    canonical_bytes = elements * dtype.element_bytes
    if elements > storage_elements and canonical_bytes > _REPEATED_BYTES_MAX:
        raise OldRecordError(
            f"it repeats {storage_elements} elements to {canonical_bytes} bytes, limit is {_REPEATED_BYTES_MAX} bytes"
        )
    begin, end = (offset, last + 1) if elements else (0, 0)
    # The stride of a single element is never taken, and may be anything.
    taken = tuple(stride if size > 1 else 0 for size, stride in zip(shape, strides, strict=True))
    return _View(storage.key, dtype, shape, taken, begin, end)


def _dtype_and_bytes(storage: Storage, named: object) -> tuple[DType, int]:
    """Return the dtype of a tensor, and how long its storage should be."""
    count = _number("storage", storage.count)
    if storage.kind == _UNTYPED and isinstance(named, Mark):
        return old_dtype(named.name), count
    kind = storage.kind.removeprefix("torch.").removesuffix("Storage")
    if named is not None or storage.kind != f"torch.{kind}Storage" or kind not in _STORAGES:
        raise OldRecordError(f"its storage is a {storage.kind[:80]}, which cannot be stored")
    dtype = dtype_by_name(_STORAGES[kind])
    return dtype, count * dtype.element_bytes


def _numbers(what: str, found: object) -> tuple[int, ...]:
    if not isinstance(found, tuple):
        raise OldRecordError(f"its {what} is a {kind_of(found)}, must be a tuple")
    return tuple(_number(what, number) for number in found)


def _number(what: str, found: object) -> int:
    """Return a number that is an int and not negative: torch has neither negative sizes nor negative strides."""
    if not isinstance(found, int) or isinstance(found, bool):
        raise OldRecordError(f"its {what} has a {kind_of(found)}, must be of integers")
    if not 0 <= found <= _NUMBER_MAX:
        raise OldRecordError(f"its {what} has {found}, must be from 0 to {_NUMBER_MAX}")
    return found
