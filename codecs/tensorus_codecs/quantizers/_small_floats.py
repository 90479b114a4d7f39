"""Floats of 8 and 16 bits with one power of two per chunk: how `fp16` and `fp8` scale, round and read them.

A chunk's exponent e is that of its largest finite magnitude, 2**(e - 1) <= max|v| < 2**e. Values are multiplied by a power of
two, so that the largest comes to lie just below 2**exponent_max, and rounded once to the small format, ties to even.
Multiplying by a power of two is exact, so nothing overflows and only the rounding loses anything. The small formats here
are chosen so that rounding up to 2**exponent_max cannot overflow either.

Both directions work on the bits of whole arrays: NumPy and ml_dtypes convert one number after the other, which is several
times slower. Tests hold them to the same results, bit for bit.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers._blocks import work_dtype
from tensorus_codecs.quantizers._float_formats import FloatFormat, float_format

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.dtypes import DType

__all__ = ["EXPONENT", "ScaledFloat", "SmallFloat", "narrow", "parse_exponent", "scale", "widen"]

EXPONENT = struct.Struct("<h")
"""e, the exponent of a chunk, in a quantizer's parameters."""

_PIECE_VALUES = 65536
"""Chunks are rounded in pieces that stay in the cache, in memory that is asked for once: each of a dozen arrays as large as a
float64 chunk would be returned to the system, and its pages brought in again (measured: six times slower)."""


@dataclass(frozen=True)
class SmallFloat(FloatFormat):
    """A format of 8 or 16 bits, and how it is used here."""

    exponent_max: int
    """Scaled values stay below 2**exponent_max, which the format holds."""
    nan: int
    """Bits of the NaN that stands for all: conversions of payloads differ between processors."""
    infinity: int
    """Bits of infinity; `nan` where the format has none."""


@dataclass(frozen=True)
class ScaledFloat(Quantizer):
    """A quantizer whose codes are such floats, and whose parameters are e."""

    code: ClassVar[np.dtype[Any]]
    """Dtype of the codes."""
    small: ClassVar[SmallFloat]
    """Its format."""

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of more bits per number than a code has, and of at least 16."""
        return dtype.is_real and dtype.component.itemsize > cls.code.itemsize

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG003 - the same for all
        """Return the small float."""
        return cls.code

    def encode(self, values: Values) -> Quantized:
        """Return the codes of `values`, shape (n,)."""
        codes, exponent = narrow(values, self.small)
        return Quantized(codes.view(self.code), EXPONENT.pack(exponent))

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, dtype `component`."""
        values = np.empty(count, component)
        cls.decode_into(codes, parameters, values)
        return values

    @classmethod
    def decode_into(cls, codes: Values, parameters: bytes, values: Values) -> None:
        """See `Quantizer`."""
        if len(parameters) != EXPONENT.size:
            raise CorruptChunkError(f"{cls.id} has {len(parameters)} bytes of parameters, must be {EXPONENT.size}")
        exponent = parse_exponent(cls.id, parameters, values.dtype)
        widen(codes.view(cls.small.word), cls.small, exponent, values)


def narrow(values: Values, small: SmallFloat) -> tuple[Words, int]:
    """Return codes and exponent of `values`, shape (n,), n >= 1.

    Where 2**e is beyond the dtype, codes that would round to 2**exponent_max become the one below, within the same bound:
    decoding would overflow there. Every NaN becomes `small.nan`, infinities `small.infinity` with their sign. A chunk
    without a finite value other than zero has e = exponent_max. -0.0 stays.
    """
    numbers = values.astype(work_dtype(values.dtype), copy=False)
    maximum = max(float(numbers.max()), -float(numbers.min()))
    irregular = None
    if not math.isfinite(maximum):
        # NaN and infinities hide the rest: look at the finite values only. Rare, so it may be slow.
        irregular = ~np.isfinite(numbers)
        maximum = float(np.abs(numbers[~irregular]).max(initial=0.0))
    exponent = math.frexp(maximum)[1] if maximum > 0 else small.exponent_max
    codes = _round(numbers, small.exponent_max - exponent, small)
    if exponent == float_format(values.dtype).exponent_limit:
        beyond = (small.bias + small.exponent_max) << small.fraction_bits
        codes[codes & ~small.word.type(small.sign) == beyond] -= small.word.type(1)
    if irregular is not None:
        signs = np.signbit(numbers[irregular]).astype(small.word) * small.word.type(small.sign)
        codes[irregular] = np.where(np.isnan(numbers[irregular]), small.nan, small.infinity | signs)
    return codes, exponent


def widen(codes: Words, small: SmallFloat, exponent: int, target: Values) -> None:
    """Write code * 2**(exponent - exponent_max), rounded once to float32 (float64 for float64), then to `target`'s dtype.

    Every NaN among the codes of a format with infinities becomes the quiet one; those of a format without are the caller's.

    Args:
        codes: of `small.word`, shape (n,).
        exponent: as `parse_exponent` checked it.
        target: shape (n,).
    """
    work = work_dtype(target.dtype)
    wide = float_format(work)
    values = target if target.dtype == work else np.empty(codes.size, work)
    bits = values.view(f"i{work.itemsize}")
    # Exponent and fraction go where they belong in the wide format. Spread copies of the sign are in the way: mask them.
    shift = wide.fraction_bits - small.fraction_bits
    np.left_shift(codes.view(f"<i{small.word.itemsize}"), shift, out=bits, dtype=bits.dtype)
    bits &= bits.dtype.type((small.sign - 1 << shift) - wide.sign)
    # Now each is its code times 2**(small.bias - wide.bias): subnormal, where the code is. The rest is one multiplication,
    # where its factor is a number.
    unbias, rest = wide.bias - small.bias, exponent - small.exponent_max
    if unbias + rest <= wide.bias:
        values *= work.type(2.0 ** (unbias + rest))
    else:
        values *= work.type(2.0**unbias)
        scale(values, rest, out=values)
    if small.infinity != small.nan and _has_irregular(codes, small):
        magnitudes = codes & small.word.type(small.sign - 1)
        infinite = magnitudes == small.infinity
        values[infinite] = np.where(codes[infinite] & small.word.type(small.sign), -np.inf, np.inf)
        values[magnitudes > small.infinity] = np.nan
    if values is not target:
        target[:] = values


def parse_exponent(codec_id: str, parameters: bytes, component: np.dtype[Any]) -> int:
    """Return the exponent that the parameters begin with.

    Raises:
        CorruptChunkError: no value of dtype `component` has this exponent.
    """
    (exponent,) = EXPONENT.unpack_from(parameters)
    form = float_format(component)
    if not form.exponent_of_unit < exponent <= form.exponent_limit:
        raise CorruptChunkError(f"exponent of {codec_id} is {exponent}, beyond what {component} holds")
    return int(exponent)


def scale(values: Values, exponent: int, *, out: Values) -> None:
    """Write values * 2**exponent, rounded once, into `out`, which may be `values`."""
    limits = np.finfo(values.dtype)
    if limits.minexp <= exponent < limits.maxexp:
        np.multiply(values, values.dtype.type(2.0**exponent), out=out)
    else:
        # 2**exponent is no normal number itself: slow, and only for chunks of extreme values.
        np.ldexp(values, exponent, out=out)


def _round(numbers: Values, exponent: int, small: SmallFloat) -> Words:
    """Return numbers * 2**exponent, below 2**exponent_max, rounded to `small`, ties to even; garbage for NaN and infinity.

    |v| lies between 2**x and 2**(x + 1), where x is at least that of the smallest normal small float. The wide format's unit
    at 2**(x + shift), shift = the difference of fraction bits, is the small one's unit at 2**x: so adding this power of two
    rounds |v| to k of these units, and leaves k in the low bits. The code is k plus x, biased, above the fraction.
    """
    wide, word = float_format(numbers.dtype), float_format(numbers.dtype).word.type
    shift = wide.fraction_bits - small.fraction_bits
    smallest = (wide.bias + 1 - small.bias) << wide.fraction_bits
    codes = np.empty(numbers.size, small.word)
    rows = np.empty((4, min(numbers.size, _PIECE_VALUES)), numbers.dtype)
    # An array, since `np.maximum` with a scalar is three times slower (NumPy 2.4).
    rows[3].view(wide.word)[:] = smallest
    for start in range(0, numbers.size, _PIECE_VALUES):
        piece = numbers[start : start + _PIECE_VALUES]
        scaled, rounded, powers, least = rows[:, : piece.size]
        scale(piece, exponent, out=scaled)
        bits, power_bits = scaled.view(wide.word), powers.view(wide.word)
        np.bitwise_and(bits, word(wide.exponent_mask), out=power_bits)
        np.maximum(power_bits, least.view(wide.word), out=power_bits)
        power_bits += word(shift << wide.fraction_bits)
        np.abs(scaled, out=rounded)
        rounded += powers
        power_bits >>= word(shift)
        power_bits += rounded.view(wide.word)
        bits >>= word(wide.bits - 1)
        bits <<= word(small.bits - 1)
        power_bits += bits
        codes[start : start + _PIECE_VALUES] = power_bits
    # What x would be, shifted likewise, if it were unbiased: as much of it as a code has bits.
    codes -= small.word.type((smallest >> shift) + (shift << small.fraction_bits) & 2 * small.sign - 1)
    return codes


def _has_irregular(codes: Words, small: SmallFloat) -> bool:
    """Whether NaN or an infinity is among the codes, positive (largest as signed integers) or negative (as unsigned ones)."""
    signed_max = int(codes.view(f"<i{small.word.itemsize}").max())
    return signed_max >= small.infinity or int(codes.max()) >= small.sign | small.infinity
