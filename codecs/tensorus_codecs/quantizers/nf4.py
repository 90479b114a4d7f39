"""Four-bit codes for normally distributed values: 16 levels, and one scale per block of values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers import _nibbles
from tensorus_codecs.quantizers._blocks import scale_bits, scales, split_blocks, work_dtype

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values

__all__ = ["Nf4"]

_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)
"""The level of each code, exact in float32. Source: Dettmers et al., QLoRA, arXiv 2305.14314, Appendix E."""


_BORDERS = ((_LEVELS[:-1].astype(np.float64) + _LEVELS[1:]) / 2).astype(np.float32)
"""Borders between level i and level i + 1. A value on the border belongs to level i."""

_TABLES = {np.dtype(work): _nibbles.pair_table(_LEVELS.astype(work)) for work in (np.float32, np.float64)}
_POSITION = np.dtype("<u4")


@dataclass(frozen=True)
class Nf4(_nibbles.NibbleBlock):
    """NormalFloat4 codes, two per byte, with one bfloat16 scale per `block_size` values.

    s = max(up(max|v|), 2**-126);  code = number of borders below v / s;  decoded: L[code] * s, rounded to the dtype of v

    `up` rounds away from zero to bfloat16, so nothing is clipped. The 16 levels L, as float32, are

        -1.0                  -0.6961928009986877   -0.5250730514526367   -0.39491748809814453
        -0.28444138169288635  -0.18477343022823334  -0.09105003625154495   0.0
         0.07958029955625534   0.16093020141124725   0.24611230194568634   0.33791524171829224
         0.44070982933044434   0.5626170039176941    0.7229568362236023    1.0

    and the 15 borders are (L[i] + L[i + 1]) / 2 rounded to float32, ties to even. So a value gets the nearest level, or the
    lower one on a border. Zeros are exact (-0.0 becomes +0.0).

    Exceptions are NaN, infinities and |v| > 2**M, where M is 127 (15 for float16), because L * s might overflow there. All 16
    codes are in use, so exceptions are stored raw together with their positions; their code is 7, the code of zero. max|v|
    ignores exceptions. Arithmetic is in float32 (float64 for float64).

    Error bound for float32 and float64, with h half the distance between the two levels around v / s, at most 0.1519036:
    |v - decoded| <= s * (h + 2**-22), since v / s, the borders and L * s are each rounded to at least 24 bits. For float16 and
    bfloat16, add the rounding of L * s to that dtype.

    Codes: those of values 2k and 2k + 1 are the low and the high nibble of byte k; the high nibble of the last byte is 0 if
    the count is odd.

    Parameters, little-endian: block_size uint16; reserved uint16, 0; exception_count uint32; scales bfloat16, one per block;
    positions of the exceptions uint32, ascending; exceptions, raw, in the same order. The last block may be shorter.

    Source: Dettmers et al., QLoRA: Efficient Finetuning of Quantized LLMs, arXiv 2305.14314, Appendix E. The levels are in the
    order of bitsandbytes, which does not round its scales.
    """

    id: ClassVar[str] = "nf4"
    number: ClassVar[int] = 5

    block_size: int = 64
    """Values per scale: 32, 64 or 128. Smaller blocks are more exact and larger on disk: 4 + 16 / block_size bits per value."""

    def encode(self, values: Values) -> Quantized:
        """Return the codes of `values`, shape (n,), two per byte.

        Raises:
            TooManyExceptionsError: more than 1 % of n; names both numbers.
        """
        blocks = split_blocks(self.id, values, self.block_size)
        bits = scale_bits(blocks.maxima, 1)
        quotients = (blocks.values / scales(bits, blocks.values.dtype)[:, np.newaxis]).reshape(-1)
        codes = np.zeros(quotients.size, np.uint8)
        above = np.empty(quotients.size, np.bool_)
        # Count the borders below each value, one vectorized comparison per border. Exceptions are 0 here, so NaN cannot occur.
        for border in _BORDERS.astype(quotients.dtype):
            codes += np.greater(quotients, border, out=above).view(np.uint8)
        exceptions = blocks.exceptions.astype(_POSITION).tobytes() + values[blocks.exceptions].tobytes()
        parameters = _nibbles.pack_parameters(self.block_size, bits, blocks.exceptions.size, exceptions)
        return Quantized(_nibbles.pack(codes, values.size), parameters)

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, dtype `component`."""
        parsed = _nibbles.parse(cls.id, codes, parameters, count, _POSITION.itemsize + component.itemsize)
        values = _nibbles.unpack(codes, count, _TABLES[work_dtype(component)], parsed).astype(component, copy=False)
        if parsed.exception_count:
            positions = np.frombuffer(parsed.rest, _POSITION, parsed.exception_count).astype(np.int64)
            # With `count` appended, one test covers both the order and the upper limit.
            if not bool((np.diff(positions, append=count) > 0).all()):
                raise CorruptChunkError(f"positions of nf4's exceptions do not ascend to at most {count - 1}")
            if values[positions].any():
                raise CorruptChunkError("the code of one of nf4's exceptions is not that of zero")
            values[positions] = np.frombuffer(parsed.rest, component, offset=positions.size * _POSITION.itemsize)
        return values
