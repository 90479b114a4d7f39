"""Values of narrow dtypes as float32, which holds them exactly: what is summed up and measured in.

NumPy converts float16 one number after the other; `widen` works on the bits of all, in half the time.
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
"""Up to here NumPy is faster: `widen` takes ten calls, however few values there are."""


def exact_float32(values: Values) -> Values:
    """Return `values` as float32, themselves where they are that already; every NaN may become the quiet one.

    Args:
        values: shape (n,), or any where they are not float16; of a dtype whose values float32 holds.
    """
    if values.dtype != np.float16 or values.size <= _FEW_VALUES:
        return values.astype(np.float32, copy=False)
    numbers = np.empty(values.size, np.float32)
    widen(values.view(Fp16.small.word), Fp16.small, Fp16.small.exponent_max, numbers)
    return numbers
