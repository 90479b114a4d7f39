"""Rounds fraction bits to zero within the same dtype. Only a compressor makes the result smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers._float_formats import float_format

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.quantizers._float_formats import FloatFormat

__all__ = ["BitRound"]

_KEEP_BITS_MAX = 52
"""float64's fraction."""


@dataclass(frozen=True)
class BitRound(Quantizer):
    """`values` rounded to `keep_bits` bits of their fraction; the lower bits are zero.

    With b the bits of v as an unsigned integer and drop = max(fraction bits of the dtype - keep_bits, 0):

        code = (b + 2**(drop - 1) - 1 + (bit drop of b)) with its lowest drop bits cleared;  code = b where drop is 0
        decoded: the value whose bits are the code

    This rounds to nearest, ties to even, on the bits as an integer: a carry correctly increments the exponent. A finite value
    that would round to infinity has its low bits cleared instead. NaN and infinities keep all their bits; zeros and -0.0 are
    kept.

        |v - decoded| <= 2**-(keep_bits + 1) * 2**x,  x = max(floor(log2 |v|), exponent of the smallest normal number)

    The error is less than twice that where low bits are cleared, which happens only in the dtype's last step before infinity.
    The fraction has 10 bits in float16, 7 in bfloat16, 23 in float32 and 52 in float64.

    No parameters.

    Source: Klöwer et al., Compressing atmospheric data into its real information content (2021). Same as numcodecs' BitRound,
    which leaves NaN, infinities and values that would round to infinity undefined.
    """

    id: ClassVar[str] = "bitround"
    number: ClassVar[int] = 8

    keep_bits: int = 7
    """Fraction bits to keep, 0 to 52; bfloat16 has 7. A number not below the dtype's own keeps every bit."""

    def __post_init__(self) -> None:
        """Refuse any other number of bits."""
        self._require_integer("keep_bits", 0, _KEEP_BITS_MAX)

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of at least 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize >= 2

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:
        """Return the unsigned integer as wide as `component`."""
        return np.dtype(f"<u{component.itemsize}")

    def encode(self, values: Values) -> Quantized:
        """Return the rounded bits of `values`, shape (n,)."""
        form = float_format(values.dtype)
        words = values.view(form.word)
        drop = form.fraction_bits - self.keep_bits
        return Quantized(_rounded(words, form, drop) if drop > 0 else words, b"")

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:  # noqa: ARG003 - a code each
        """Return the codes viewed as dtype `component`."""
        if parameters:
            raise CorruptChunkError(f"bitround has {len(parameters)} bytes of parameters, must be 0")
        return codes.view(component)


def _rounded(words: Words, form: FloatFormat, drop: int) -> Words:
    """Return `words`, the bits of values in this format, with their lowest `drop` bits rounded away, drop >= 1."""
    word = words.dtype.type
    codes: Words = words >> word(drop)
    codes &= word(1)
    codes += words
    codes += word((1 << drop - 1) - 1)
    kept = word(2 * form.sign - (1 << drop))
    codes &= kept
    # NaN, infinities and values that may round to infinity have the largest bits: positive ones as signed integers, negative
    # ones as unsigned integers. So two maxima tell whether the slow path is needed.
    infinity, limit = form.exponent_mask, form.exponent_mask - (1 << drop - 1)
    if int(words.view(f"<i{words.itemsize}").max()) >= limit or int(words.max()) >= form.sign | limit:
        magnitudes = words & word(form.sign - 1)
        last = (magnitudes < infinity) & (codes & word(form.sign - 1) == infinity)
        codes[last] = words[last] & kept
        nonfinite = magnitudes >= infinity
        codes[nonfinite] = words[nonfinite]
    return codes
