"""Floats of 8 and 16 bits scaled by one power of two per chunk: conversion in both directions for `fp16` and `fp8`.

A chunk's exponent e is that of its largest finite magnitude, 2**(e - 1) <= max|v| < 2**e. Values are multiplied by a power of
two that moves the largest just below 2**exponent_max, and then rounded once to the small format, ties to even. Multiplying by
a power of two is exact, so nothing overflows and only the rounding loses precision. The small formats are chosen such that
rounding up to 2**exponent_max cannot overflow, either.

Both directions work on the bits of whole arrays, several times faster than NumPy and ml_dtypes, which convert one number at a
time. Tests require bit-identical results.
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
"""The chunk's exponent e, in a quantizer's parameters."""

_PIECE_VALUES = 65536
"""Chunks are rounded in pieces that fit in the cache, in buffers that are allocated once. The alternative, a dozen temporary
arrays as large as a float64 chunk, is six times slower: the allocator returns each to the system and faults its pages back in
(measured)."""


@dataclass(frozen=True)
class SmallFloat(FloatFormat):
    """A format of 8 or 16 bits, with its range and special values."""

    exponent_max: int
    """Scaled values stay below 2**exponent_max, which the format can represent."""
    nan: int
    """Bits of the one NaN that replaces all others, because processors convert payloads differently."""
    infinity: int
    """Bits of infinity; equal to `nan` if the format has no infinity."""


@dataclass(frozen=True)
class ScaledFloat(Quantizer):
    """A quantizer whose codes are small floats and whose parameters hold e."""

    code: ClassVar[np.dtype[Any]]
    """Dtype of the codes."""
    small: ClassVar[SmallFloat]
    """Format of `code`."""

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats whose numbers are wider than a code."""
        return dtype.is_real and dtype.component.itemsize > cls.code.itemsize

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG003 - the same for all
        """Return the dtype of the small float."""
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

    If 2**e is beyond the dtype, decoding 2**exponent_max would overflow. Codes that would round to it become the next lower
    code, within the same error bound. Every NaN becomes `small.nan`; infinities become `small.infinity` with their sign. A
    chunk without a finite value other than zero has e = exponent_max. -0.0 is kept.
    """
    numbers = values.astype(work_dtype(values.dtype), copy=False)
    maximum = max(float(numbers.max()), -float(numbers.min()))
    nonfinite = None
    if not math.isfinite(maximum):
        # NaN or infinity hides the largest finite value: search again. This is rare, so it may be slow.
        nonfinite = ~np.isfinite(numbers)
        maximum = float(np.abs(numbers[~nonfinite]).max(initial=0.0))
    exponent = math.frexp(maximum)[1] if maximum > 0 else small.exponent_max
    codes = _round(numbers, small.exponent_max - exponent, small)
    if exponent == float_format(values.dtype).exponent_limit:
        beyond = (small.bias + small.exponent_max) << small.fraction_bits
        codes[codes & ~small.word.type(small.sign) == beyond] -= small.word.type(1)
    if nonfinite is not None:
        signs = np.signbit(numbers[nonfinite]).astype(small.word) * small.word.type(small.sign)
        codes[nonfinite] = np.where(np.isnan(numbers[nonfinite]), small.nan, small.infinity | signs)
    return codes, exponent


def widen(codes: Words, small: SmallFloat, exponent: int, target: Values) -> None:
    """Write code * 2**(exponent - exponent_max), rounded once to float32 (float64 for float64), then to `target`'s dtype.

    In a format with infinities, every NaN code becomes the quiet NaN. Otherwise the caller must handle NaN codes.

    Args:
        codes: of `small.word`, shape (n,).
        exponent: already checked by `parse_exponent`.
        target: shape (n,).
    """
    work = work_dtype(target.dtype)
    wide = float_format(work)
    values = target if target.dtype == work else np.empty(codes.size, work)
    bits = values.view(f"i{work.itemsize}")
    # Shift exponent and fraction to their places in the wide format. The signed shift also copies the sign into the bits
    # between sign and exponent: mask these copies.
    shift = wide.fraction_bits - small.fraction_bits
    np.left_shift(codes.view(f"<i{small.word.itemsize}"), shift, out=bits, dtype=bits.dtype)
    bits &= bits.dtype.type((small.sign - 1 << shift) - wide.sign)
    # Each number is now its code times 2**(small.bias - wide.bias), and subnormal if the code is. One multiplication by a power
    # of two completes it, or two if that power is beyond the wide format.
    unbias, rest = wide.bias - small.bias, exponent - small.exponent_max
    if unbias + rest <= wide.bias:
        values *= work.type(2.0 ** (unbias + rest))
    else:
        values *= work.type(2.0**unbias)
        scale(values, rest, out=values)
    if small.infinity != small.nan and _has_nonfinite(codes, small):
        magnitudes = codes & small.word.type(small.sign - 1)
        infinite = magnitudes == small.infinity
        values[infinite] = np.where(codes[infinite] & small.word.type(small.sign), -np.inf, np.inf)
        values[magnitudes > small.infinity] = np.nan
    if values is not target:
        target[:] = values


def parse_exponent(codec_id: str, parameters: bytes, component: np.dtype[Any]) -> int:
    """Return the exponent at the start of the parameters.

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
        # 2**exponent itself is not a normal number. `ldexp` is slow, but only chunks of extreme values need it.
        np.ldexp(values, exponent, out=out)


def _round(numbers: Values, exponent: int, small: SmallFloat) -> Words:
    """Return numbers * 2**exponent, which must be below 2**exponent_max, rounded to `small`; undefined for NaN and infinity.

    Let 2**x <= |v| < 2**(x + 1), but x at least the exponent of the smallest normal small float. With shift = the difference in
    fraction bits, the wide format's unit in the last place at 2**(x + shift) equals the small format's at 2**x. So adding
    2**(x + shift) rounds |v| to k such units, ties to even, and leaves k in the low bits. The code is k, plus x with its bias
    above the fraction.
    """
    wide, word = float_format(numbers.dtype), float_format(numbers.dtype).word.type
    shift = wide.fraction_bits - small.fraction_bits
    smallest = (wide.bias + 1 - small.bias) << wide.fraction_bits
    codes = np.empty(numbers.size, small.word)
    rows = np.empty((4, min(numbers.size, _PIECE_VALUES)), numbers.dtype)
    # An array, because `np.maximum` with a scalar is three times slower (NumPy 2.4).
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
    # Rebias the exponent, modulo the code's width: subtract that of the smallest normal small float and the shift added above.
    codes -= small.word.type((smallest >> shift) + (shift << small.fraction_bits) & 2 * small.sign - 1)
    return codes


def _has_nonfinite(codes: Words, small: SmallFloat) -> bool:
    """Whether the codes contain NaN or infinity.

    Positive ones are the largest codes as signed integers, negative ones the largest as unsigned integers.
    """
    signed_max = int(codes.view(f"<i{small.word.itemsize}").max())
    return signed_max >= small.infinity or int(codes.max()) >= small.sign | small.infinity
