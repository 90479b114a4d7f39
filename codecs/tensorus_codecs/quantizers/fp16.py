"""Half precision with one power of two per chunk, so that large values do not overflow and small ones do not underflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tensorus_codecs.quantizers._small_floats import ScaledFloat, SmallFloat

__all__ = ["Fp16"]


@dataclass(frozen=True)
class Fp16(ScaledFloat):
    """`values` scaled by a power of two and rounded to float16.

    e = exponent of the largest finite |v|, so that 2**(e - 1) <= max|v| < 2**e;  code = float16(v * 2**(15 - e)), ties to
    even;  decoded: code * 2**(e - 15). Scaling is exact, so only the rounding to float16 loses precision:

        |v - decoded| <= 2**-11 * |v|      where |v| >= 2**(e - 29)  (float16's normal numbers)
        |v - decoded| <= 2**(e - 40)       below                     (its subnormal ones)

    If 2**e is beyond the dtype (e = 128 for float32, 1024 for float64), codes that would round to 2**15 become 32752, within
    the same bound. Infinities and -0.0 are kept; every NaN becomes the quiet NaN without payload. A chunk without a finite
    value other than zero has e = 15.

    Parameters: e, int16, little-endian.

    Source: IEEE 754 binary16; the exponent per chunk is block floating point.
    """

    id: ClassVar[str] = "fp16"
    number: ClassVar[int] = 1
    code: ClassVar[np.dtype[Any]] = np.dtype("<f2")
    small: ClassVar[SmallFloat] = SmallFloat(
        np.dtype("<u2"), fraction_bits=10, bias=15, exponent_max=15, nan=0x7E00, infinity=0x7C00
    )
