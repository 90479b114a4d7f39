"""Byte planes of float32 words, of which the first two are the words rounded to bfloat16.

Most float32 tensors need neither all of their precision nor the bytes that hold it every time they are read. With this filter
the two planes that matter most lie together at the start of a record. A reader that asks for no more reads these alone: about
40 % of the record (`coarse.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["COARSE_STREAMS", "CRC_BYTES", "Bf16Planes"]

COARSE_STREAMS = 2
"""Streams at the start of a record that make up the rounded words."""

CRC_BYTES = 4
"""Length of the parameters, if there are any."""

_WORD_BYTES = 4
_HALF = np.dtype("<u2")
# Shifts, of the dtype that they are applied to: NumPy would widen the words otherwise.
_HALF_BITS = np.uint32(16)
_ONE, _PLANE_BITS, _SIGN_SHIFT = np.uint16(1), np.uint16(8), np.uint16(15)

_EXPONENT_MAX = 255

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = 0x7F800000
_ROUNDS_TO_INFINITY = 0x7F7F8000
"""The smallest magnitude of which rounding makes an infinity."""
_ROUNDS_TO_NAN = 0x7F808000, 0x7FFF8000
"""Magnitudes of NaNs of which rounding makes a NaN; the end is exclusive."""


@dataclass(frozen=True)
class Bf16Planes(Filter):
    """A word w is `low`, its bits 0 to 15, and `high` = (w + 2**15) // 2**16 modulo 2**16: the upper half, rounded.

    Streams 0 and 1 are the rotated planes of the `high` of every word (`planes.py`): the fraction with the sign, then the
    exponent. Streams 2 and 3 are the planes of `low`. To decode: w = high * 2**16 + low as a signed number, modulo 2**32. The
    words may be any; those of float32 have in `high` the nearest bfloat16, ties away from zero:

        |v - high| <= 2**-8 * |v|     where |v| >= 2**-126
        |v - high| <= 2**-134         below

    Zeros keep their signs, and infinities and NaNs stay what they are. Only a few words round to something else: magnitudes
    from 0x7f7f8000 that are finite, and some NaNs (0x7f800001 to 0x7f807fff, 0x7fff8000 to 0x7fffffff). A chunk with such a
    word is stored without parameters. Every other chunk has as parameters the CRC32C of streams 2 and 3 as they are stored,
    which makes it possible to verify the record's start alone.

    Against `rotated_planes`, measured: records have the same size within 0.1 %, or are 4 % smaller if the values have few
    significant bits; filtering takes a fifth less time.
    """

    id: ClassVar[str] = "bf16_planes"
    number: ClassVar[int] = 7

    def encode(self, words: Words) -> Filtered | None:
        """Return four streams; None for words that are not of 4 bytes."""
        if words.itemsize != _WORD_BYTES:
            return None
        low = words.astype(_HALF)
        high = (words >> _HALF_BITS).astype(_HALF)
        high += low >> _SIGN_SHIFT
        rotated = high << _ONE
        rotated |= high >> _SIGN_SHIFT
        exponents = (rotated >> _PLANE_BITS).astype(np.uint8)
        planes = rotated.astype(np.uint8), exponents, low.astype(np.uint8), (low >> _PLANE_BITS).astype(np.uint8)
        # Words that round to an infinity or NaN have the exponent 255 then, those that round to zero have 0: most chunks have
        # neither, and need no closer look.
        is_usual = exponents.max() < _EXPONENT_MAX and exponents.min() > 0
        coarse_streams = COARSE_STREAMS if is_usual or _keeps_kinds(words) else 0
        return Filtered([memoryview(plane) for plane in planes], coarse_streams=coarse_streams)

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return `count` for each of four streams."""
        if word_bytes != _WORD_BYTES:
            raise CorruptChunkError(f"{cls.id} has words of {word_bytes} bytes, must be {_WORD_BYTES}")
        if len(parameters) not in {0, CRC_BYTES}:
            raise CorruptChunkError(f"{cls.id} has {len(parameters)} bytes of parameters, must be 0 or {CRC_BYTES}")
        return [count] * _WORD_BYTES

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:  # noqa: ARG003 - for the record's start
        """Merge the planes and undo the rounding."""
        fraction, exponent, lowest, upper = (np.frombuffer(stream, np.uint8) for stream in streams)
        rotated = np.left_shift(exponent, _PLANE_BITS, dtype=_HALF)
        rotated |= fraction
        low = np.left_shift(upper, _PLANE_BITS, dtype=_HALF)
        low |= lowest
        high = rotated >> _ONE
        high |= rotated << _SIGN_SHIFT
        np.left_shift(high, _HALF_BITS, out=words, dtype=words.dtype)
        signed = words.view("<i4")
        signed += low.view("<i2")


def _keeps_kinds(words: Words) -> bool:
    """Whether rounding leaves every finite value finite, every infinity infinite, and every NaN a NaN."""
    magnitudes = words & _MAGNITUDE
    extreme = magnitudes[magnitudes >= _ROUNDS_TO_INFINITY]
    first, end = _ROUNDS_TO_NAN
    return bool(((extreme == _INFINITY) | ((extreme >= first) & (extreme < end))).all())
