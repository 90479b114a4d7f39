"""Converts arrays to canonical bytes and back.

Anything array-like becomes a NumPy array, which shares memory if possible. ml_dtypes provides bfloat16 and float8, which NumPy
lacks. Torch is optional, and is imported only when needed.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tensorus.errors import UnsupportedDTypeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus.types import AsArray

__all__ = [
    "AnyArray",
    "as_numpy",
    "canonical_array",
    "canonical_blocks",
    "default_kind",
    "dtype_name",
    "element_bytes",
    "empty_canonical",
    "from_canonical",
]

AnyArray: TypeAlias = npt.NDArray[Any]

_DTYPE_NAMES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "bfloat16"),
    *("float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
)
"""The contract's dtypes, by their names in NumPy or ml_dtypes."""

_FROM_ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def as_numpy(tensor: object) -> AnyArray:
    """Return a NumPy array of the same values, which shares memory if possible.

    Raises:
        TypeError: `tensor` is not an array.
        UnsupportedDTypeError: the contract lacks its dtype, or only its own library can read its values.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        array = _from_torch(tensor, torch)
    elif hasattr(tensor, "__array__"):
        array = np.asarray(tensor)
    elif hasattr(tensor, "__dlpack__"):
        array = _from_dlpack(tensor)
    else:
        raise TypeError(
            f"a {type(tensor).__name__} is not a tensor: it has neither __array__ nor __dlpack__; wrap it in numpy.asarray"
        )
    dtype_name(array)
    return array


def dtype_name(array: AnyArray) -> str:
    """Return the contract's name of the array's dtype.

    Raises:
        UnsupportedDTypeError: the contract lacks this dtype.
    """
    return _name_of(array.dtype)


@lru_cache(maxsize=1024)
def _name_of(dtype: np.dtype[Any]) -> str:
    name = dtype.newbyteorder("=").name
    if name not in _DTYPE_NAMES:
        raise UnsupportedDTypeError(
            f"dtype {dtype} is not one of {', '.join(_DTYPE_NAMES)}", reason="UNSUPPORTED_DTYPE"
        )
    return name


def canonical_blocks(array: AnyArray, block_bytes: int) -> Iterator[memoryview]:
    """Yield the array's canonical bytes in order, in blocks of `block_bytes`; the last one may be shorter.

    Blocks of a dense little-endian array are views. Any other array is rearranged block by block, never copied as a whole; its
    blocks may be shorter.
    """
    little = _little_endian(array.dtype)
    if array.flags.c_contiguous and array.dtype == little:
        view = memoryview(array.reshape(-1).view(np.uint8))
        for start in range(0, view.nbytes, block_bytes):
            yield view[start : start + block_bytes]
        return
    if dtype_name(array) in _FROM_ML_DTYPES:
        # NumPy's iterator does not support these dtypes, so move their bits as integers.
        array = array.view(f"u{array.itemsize}")
        little = array.dtype
    blocks = np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_dtypes=[little],
        order="C",
        casting="equiv",
        buffersize=block_bytes // array.itemsize,
    )
    for block in blocks:
        # Copy, since the iterator reuses its buffer.
        yield memoryview(np.asarray(block).tobytes())


@lru_cache(maxsize=1024)
def _little_endian(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("<")


def default_kind() -> AsArray:
    """Return "torch" if torch is installed, else "numpy"."""
    return "torch" if _has_torch() else "numpy"


def element_bytes(dtype: str) -> int:
    """Return the size of a dtype's elements in bytes.

    Raises:
        UnsupportedDTypeError: this version does not know the dtype.
    """
    return _canonical_dtype(dtype).itemsize


def empty_canonical(dtype: str, shape: tuple[int, ...]) -> AnyArray:
    """Return an uninitialized little-endian array, to be filled with canonical bytes.

    Raises:
        UnsupportedDTypeError: this version does not know the dtype.
    """
    # NumPy requests huge pages, so its fresh memory is five times faster than torch's (measured: 8.8 and 1.7 GB/s).
    return np.empty(shape, _canonical_dtype(dtype))


def canonical_array(dtype: str, shape: tuple[int, ...], data: memoryview) -> AnyArray:
    """Return a new array from all of its canonical bytes. This takes a third of the time of filling an empty array.

    Raises:
        UnsupportedDTypeError: this version does not know the dtype.
        ValueError: the shape needs another number of bytes.
    """
    return np.frombuffer(data, _canonical_dtype(dtype)).reshape(shape).copy()


@cache
def _canonical_dtype(dtype: str) -> np.dtype[Any]:
    if dtype not in _DTYPE_NAMES:
        raise UnsupportedDTypeError(
            f"dtype {dtype!r} is not known to this version of Tensorus; a newer one may read it",
            reason="UNSUPPORTED_DTYPE",
        )
    return np.dtype(getattr(ml_dtypes, dtype) if dtype in _FROM_ML_DTYPES else dtype).newbyteorder("<")


def from_canonical(array: AnyArray, kind: AsArray) -> Any:  # `Any`: torch need not be installed
    """Return the array itself in native byte order, or a torch tensor that shares its memory.

    Raises:
        ImportError: `kind` is "torch", and torch is not installed.
    """
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if kind == "numpy":
        return array
    if not _has_torch():
        raise ImportError("torch is not installed: pip install 'tensorus[torch]', or ask for as_='numpy'")
    import torch  # noqa: PLC0415 - it takes a second to import, and not every program needs it

    # NumPy's indexing returns a scalar for a single element, but torch accepts only arrays.
    array = np.asarray(array)
    name = array.dtype.name
    if name in _FROM_ML_DTYPES:
        return torch.from_numpy(array.view(f"i{array.itemsize}" if array.itemsize > 1 else "u1")).view(
            getattr(torch, name)
        )
    return torch.from_numpy(array)


def _from_dlpack(tensor: Any) -> AnyArray:  # `Any`: of a library that need not be installed
    try:
        array: AnyArray = np.from_dlpack(tensor)
    except (RuntimeError, BufferError) as error:
        raise UnsupportedDTypeError(
            f"a {type(tensor).__name__} cannot be read through __dlpack__: {error}", reason="UNSUPPORTED_DTYPE"
        ) from error
    return array


def _from_torch(tensor: Any, torch: Any) -> AnyArray:  # `Any`: torch need not be installed
    _require_dense(tensor, torch)
    name = str(tensor.dtype).removeprefix("torch.")
    if name in _FROM_ML_DTYPES:
        dense = tensor.detach().cpu().resolve_conj().resolve_neg()
        bits = dense.view(torch.int16 if dense.itemsize > 1 else torch.uint8).numpy()
        converted: AnyArray = bits.view(getattr(ml_dtypes, name))
        return converted
    if name not in _DTYPE_NAMES:
        raise UnsupportedDTypeError(
            f"dtype {tensor.dtype} is not one of {', '.join(_DTYPE_NAMES)}", reason="UNSUPPORTED_DTYPE"
        )
    # `force` detaches the tensor, copies it to the CPU, and resolves lazy conjugation and negation.
    array: AnyArray = tensor.numpy(force=True)
    return array


def _require_dense(tensor: Any, torch: Any) -> None:  # `Any`: torch need not be installed
    if tensor.is_quantized:
        wrong = "a quantized torch tensor is not dense; call dequantize() first"
    elif tensor.is_nested:
        wrong = "a nested torch tensor has no shape; insert its tensors one by one"
    elif tensor.is_meta:
        wrong = "a torch tensor on the device meta has no values"
    elif tensor.layout is not torch.strided:
        wrong = f"a torch tensor of layout {tensor.layout} is not dense; call to_dense() first"
    else:
        return
    raise UnsupportedDTypeError(wrong, reason="UNSUPPORTED_DTYPE")


@cache
def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None
