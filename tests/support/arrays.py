"""Arrays of every dtype and awkward shape, and a comparison that looks at bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tensorus_codecs.dtypes import DTYPES, DType

DTYPE_NAMES = [dtype.name for dtype in DTYPES]

SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (0, 3), (3, 5), (2, 3, 4), (1, 1, 1, 1), (257, 129)]
"""A scalar, empty ones, odd ones, and one that is larger than a page."""


def random_bits(dtype: DType | str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Return values of random bits: NaNs with payloads, subnormals, infinities and -0.0 are among them."""
    name = dtype if isinstance(dtype, str) else dtype.name
    numpy_dtype = np.dtype(getattr(ml_dtypes, name, None) or name)
    bits = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * numpy_dtype.itemsize, np.uint8)
    if name == "bool":
        bits &= 1
    return bits.view(numpy_dtype).reshape(shape)


def normal(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0, scale: float = 0.02) -> np.ndarray[Any, Any]:
    """Return values as weights have them: N(0, scale)."""
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(numpy_dtype)


def canonical(array: np.ndarray[Any, Any]) -> bytes:
    """Return the canonical bytes, the simple way."""
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return little.tobytes()


def assert_same_bits(found: Any, expected: np.ndarray[Any, Any]) -> None:
    """Fail unless dtype, shape and every bit agree."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert canonical(found) == canonical(expected)
