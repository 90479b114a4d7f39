"""Exact conversion of narrow dtypes to float32, for summaries and error measurement.

NumPy converts float16 one number at a time. `widen` works on the bits of the whole array, in half the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.quantizers._small_floats import widen
from tensorus_codecs.quantizers.fp16 import Fp16

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values

__all__ = ["exact_float32"]

_FEW_VALUES = 16384
"""Up to this many values NumPy is faster: `widen` needs ten NumPy calls for any number of values."""


def exact_float32(values: Values) -> Values:
    """Return `values` as float32, without copying if they already are. NaN payloads may be lost.

    Args:
        values: shape (n,), or any shape if not float16; of a dtype that float32 represents exactly.
    """
    if values.dtype != np.float16 or values.size <= _FEW_VALUES:
        return values.astype(np.float32, copy=False)
    numbers = np.empty(values.size, np.float32)
    widen(values.view(Fp16.small.word), Fp16.small, Fp16.small.exponent_max, numbers)
    return numbers
