"""bfloat16, the upper half of float32: the same range with 8 bits of precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import ml_dtypes
import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["Bf16"]

_BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_LARGEST = np.frombuffer(b"\x7f\x7f", _BFLOAT16)[0]
"""The largest finite value, bits 0x7f7f."""
_QUIET_NAN = _BFLOAT16.type(np.nan)
"""Bits 0x7fc0. It replaces every NaN, because processors convert payloads differently."""


@dataclass(frozen=True)
class Bf16(Quantizer):
    """`values` rounded to bfloat16, ties to even.

    Encodes float32 and float64 up to float32's largest value; a chunk with a larger finite value is refused. Values that would
    round to infinity become the largest bfloat16, within the same bound:

        |v - decoded| <= 2**-8 * |v|     where |v| >= 2**-126  (bfloat16's normal numbers)
        |v - decoded| <= 2**-134         below                 (its subnormal ones)

    float64 is first rounded to float32, so its bound is 2**-8 + 2**-24. Infinities and -0.0 are kept; every NaN becomes the
    quiet NaN without payload. No parameters.

    Source: the bfloat16 format, as ml_dtypes implements it.
    """

    id: ClassVar[str] = "bf16"
    number: ClassVar[int] = 3

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of more than 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize > 2

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG003 - the same for all
        """Return bfloat16."""
        return _BFLOAT16

    def encode(self, values: Values) -> Quantized:
        """Return bfloat16 codes of float32 or float64 `values`, shape (n,).

        Raises:
            TooManyExceptionsError: a finite value is beyond float32.
        """
        narrow = values.astype(np.float32, copy=False)
        codes = narrow.astype(_BFLOAT16)
        # A finite value became infinite either by rounding, which is undone here, or because it is beyond float32.
        infinite = np.isinf(codes)
        if infinite.any():
            rounded_up = infinite & np.isfinite(values)
            beyond = int(np.count_nonzero(rounded_up & np.isinf(narrow)))
            if beyond:
                raise TooManyExceptionsError(f"{beyond} of {values.size} values are beyond bf16's range, limit is 0")
            codes[rounded_up] = np.copysign(_LARGEST, narrow[rounded_up]).astype(_BFLOAT16)
        codes[np.isnan(codes)] = _QUIET_NAN
        return Quantized(codes, b"")

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, dtype `component`: float32 or float64."""
        values = np.empty(count, component)
        cls.decode_into(codes, parameters, values)
        return values

    @classmethod
    def decode_into(cls, codes: Values, parameters: bytes, values: Values) -> None:
        """See `Quantizer`."""
        if parameters:
            raise CorruptChunkError(f"bf16 has {len(parameters)} bytes of parameters, must be 0")
        values[:] = codes
