"""Half precision with one power of two per chunk, so that nothing overflows and small tensors do not vanish."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["Fp16"]

_PARAMETERS = struct.Struct("<h")
"""exponent, int16."""

_LARGEST_EXPONENT = 15
"""Scaled values stay below 2**15, so that rounding cannot reach float16's infinity at 65520. Source: IEEE 754 binary16."""

_LARGEST_CODE = np.float16(32752)
"""The largest float16 below 2**15. Only where 2**e is beyond the dtype: rounding up to 2**15 would decode to infinity there."""

_QUIET_NAN = np.float16(np.nan)
"""Bits 0x7e00. One NaN for all: conversions of other payloads differ between processors."""


@dataclass(frozen=True)
class Fp16(Quantizer):
    """`values` scaled by a power of two and rounded to float16.

    e = exponent of the largest finite |v|, so that 2**(e - 1) <= max|v| < 2**e;  code = float16(v * 2**(15 - e)), ties to
    even;  decoded: code * 2**(e - 15). Scaling is exact, so that only the rounding to float16 loses anything:

        |v - decoded| <= 2**-11 * |v|      where |v| >= 2**(e - 29)  (float16's normal numbers)
        |v - decoded| <= 2**(e - 40)       below                     (its subnormal ones)

    Where 2**e is beyond the dtype (e = 128 for float32, 1024 for float64), codes that would round to 2**15 become 32752,
    within the same bound. Infinities stay; every NaN becomes the quiet one without payload; -0.0 stays. A chunk without a
    finite value other than zero has e = 15.

    Parameters: e, int16, little-endian.

    Source: IEEE 754 binary16; the exponent per chunk is block floating point.
    """

    id: ClassVar[str] = "fp16"
    number: ClassVar[int] = 1
    code_dtype: ClassVar[np.dtype[Any]] = np.dtype("<f2")

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of more than 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize > 2

    def encode(self, values: Values) -> Quantized:
        """Return float16 codes of float32 or float64 `values`, shape (n,)."""
        finite_maximum = _largest_finite_magnitude(values)
        exponent = int(np.frexp(finite_maximum)[1]) if finite_maximum > 0 else _LARGEST_EXPONENT
        codes = _scale(values, _LARGEST_EXPONENT - exponent).astype(np.float16)
        codes[np.isnan(codes)] = _QUIET_NAN
        if exponent == np.finfo(values.dtype).maxexp:
            codes[codes == 2.0**_LARGEST_EXPONENT] = _LARGEST_CODE
            codes[codes == -(2.0**_LARGEST_EXPONENT)] = -_LARGEST_CODE
        return Quantized(codes, _PARAMETERS.pack(exponent))

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any]) -> Values:
        """Return the values, dtype `component`: float32 or float64."""
        if len(parameters) != _PARAMETERS.size:
            raise CorruptChunkError(f"fp16 has {len(parameters)} bytes of parameters, must be {_PARAMETERS.size}")
        (exponent,) = _PARAMETERS.unpack(parameters)
        limits = np.finfo(component)
        if not limits.minexp - limits.nmant < exponent <= max(limits.maxexp, _LARGEST_EXPONENT):
            raise CorruptChunkError(f"exponent of fp16 is {exponent}, beyond what {component} holds")
        return _scale(codes.astype(component), exponent - _LARGEST_EXPONENT)


def _largest_finite_magnitude(values: Values) -> float:
    maximum = max(float(values.max()), -float(values.min()))
    if np.isfinite(maximum):
        return maximum
    # NaN and infinities hide the rest: look at the finite values only. Rare, so it may be slow.
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _scale(values: Values, exponent: int) -> Values:
    """Return values * 2**exponent, rounded once."""
    limits = np.finfo(values.dtype)
    scaled: Values
    if limits.minexp <= exponent < limits.maxexp:
        scaled = values * values.dtype.type(2.0**exponent)
    else:
        # 2**exponent is no normal number itself: slow, and only for chunks of extreme values.
        scaled = np.ldexp(values, exponent)
    return scaled
