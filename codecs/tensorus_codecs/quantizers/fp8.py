"""Eight-bit floats with one power of two per chunk: E4M3 with three fraction bits, E5M2 with two and a wider range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import ml_dtypes
import numpy as np

from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers._blocks import require_few_exceptions
from tensorus_codecs.quantizers._small_floats import EXPONENT, ScaledFloat, SmallFloat, narrow, parse_exponent, widen

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values

__all__ = ["Fp8E4M3Fn", "Fp8E5M2"]

_EXCEPTION = 0x7F
"""float8_e4m3fn's NaN: the code that marks an exception."""

_UNUSED = 0xFF
"""The negative NaN, which no encoder writes."""


@dataclass(frozen=True)
class Fp8E4M3Fn(ScaledFloat):
    """`values` scaled by a power of two and rounded to float8_e4m3fn.

    e = exponent of the largest finite |v|, so that 2**(e - 1) <= max|v| < 2**e;  code = float8_e4m3fn(v * 2**(8 - e)), ties to
    even, rounded once;  decoded: code * 2**(e - 8), exactly. So

        |v - decoded| <= 2**-4 * |v|       where |v| >= 2**(e - 14)  (the format's normal numbers)
        |v - decoded| <= 2**(e - 18)       below                     (its subnormal ones)

    If 2**e is beyond the dtype (e = 16 for float16, 128 for bfloat16 and float32, 1024 for float64), codes that would round to
    2**8 become 240, within the same bound. -0.0 is kept. A chunk without a finite value other than zero has e = 8.

    Exceptions are NaN and infinities, since the format has no infinity. Code 0x7f, the format's NaN, marks an exception; the
    values are stored raw, in order. Code 0xff is not used.

    Parameters, little-endian: e, int16; exceptions, raw, in the order of their codes.

    Source: Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433. The exponent is block floating point.
    """

    id: ClassVar[str] = "fp8_e4m3fn"
    number: ClassVar[int] = 6
    code: ClassVar[np.dtype[Any]] = np.dtype(ml_dtypes.float8_e4m3fn)
    small: ClassVar[SmallFloat] = SmallFloat(
        np.dtype("u1"), fraction_bits=3, bias=7, exponent_max=8, nan=_EXCEPTION, infinity=_EXCEPTION
    )

    def encode(self, values: Values) -> Quantized:
        """Return the codes of `values`, shape (n,).

        Raises:
            TooManyExceptionsError: more than 1 % of n are NaN or infinite; names both numbers.
        """
        codes, exponent = narrow(values, self.small)
        # `narrow` turned NaN and both infinities into the NaN code, the latter possibly with a sign.
        marked = codes & np.uint8(_EXCEPTION) == _EXCEPTION
        codes[marked] = _EXCEPTION
        exceptions = values[marked]
        require_few_exceptions(self.id, exceptions.size, values.size)
        return Quantized(codes.view(self.code), EXPONENT.pack(exponent) + exceptions.tobytes())

    @classmethod
    def decode_into(cls, codes: Values, parameters: bytes, values: Values) -> None:
        """See `Quantizer`."""
        words = codes.view(cls.small.word)
        marked = words == _EXCEPTION
        exception_count = int(np.count_nonzero(marked))
        expected_bytes = EXPONENT.size + exception_count * values.itemsize
        if len(parameters) != expected_bytes:
            raise CorruptChunkError(f"fp8_e4m3fn has {len(parameters)} bytes of parameters, must be {expected_bytes}")
        # The unused code is the largest, so one maximum finds it.
        if int(words.max()) == _UNUSED:
            raise CorruptChunkError("a code of fp8_e4m3fn is 0xff, which no value has")
        widen(words, cls.small, parse_exponent(cls.id, parameters, values.dtype), values)
        if exception_count:
            values[marked] = np.frombuffer(parameters, values.dtype, exception_count, EXPONENT.size)


@dataclass(frozen=True)
class Fp8E5M2(ScaledFloat):
    """`values` scaled by a power of two and rounded to float8_e5m2.

    e = exponent of the largest finite |v|, so that 2**(e - 1) <= max|v| < 2**e;  code = float8_e5m2(v * 2**(15 - e)), ties to
    even, rounded once;  decoded: code * 2**(e - 15), exactly. So

        |v - decoded| <= 2**-3 * |v|       where |v| >= 2**(e - 29)  (the format's normal numbers)
        |v - decoded| <= 2**(e - 32)       below                     (its subnormal ones)

    If 2**e is beyond the dtype (e = 16 for float16, 128 for bfloat16 and float32, 1024 for float64), codes that would round to
    2**15 become 28672, within the same bound. Infinities and -0.0 are kept; every NaN becomes the quiet NaN without payload,
    code 0x7e. A chunk without a finite value other than zero has e = 15.

    Parameters: e, int16, little-endian.

    Source: Micikevicius et al., FP8 Formats for Deep Learning, arXiv 2209.05433. The exponent is block floating point.
    """

    id: ClassVar[str] = "fp8_e5m2"
    number: ClassVar[int] = 7
    code: ClassVar[np.dtype[Any]] = np.dtype(ml_dtypes.float8_e5m2)
    small: ClassVar[SmallFloat] = SmallFloat(
        np.dtype("u1"), fraction_bits=2, bias=15, exponent_max=15, nan=0x7E, infinity=0x7C
    )
