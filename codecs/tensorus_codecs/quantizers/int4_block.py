"""Four-bit integers with one scale per block of values."""

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

__all__ = ["Int4Block"]

_CODE_MAX = 7
_EXCEPTION = 8
"""The nibble that marks an exception: -8 in two's complement. The other codes are -7 to 7."""

_LEVELS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, -7, -6, -5, -4, -3, -2, -1], np.float32)
"""The value of each nibble, in two's complement. Decoding overwrites the value of an exception."""

_TABLES = {np.dtype(work): _nibbles.pair_table(_LEVELS.astype(work)) for work in (np.float32, np.float64)}


@dataclass(frozen=True)
class Int4Block(_nibbles.NibbleBlock):
    """Four-bit codes, two per byte, with one bfloat16 scale per `block_size` values.

    s = max(up(max|v| / 7), 2**-126);  q = rint(v / s), ties to even;  decoded: q * s, rounded to the dtype of v.

    `up` rounds away from zero to bfloat16, so |q| <= 7 without clipping. Exceptions are NaN, infinities and |v| > 2**M, where
    M is 127 (15 for float16), because q * s might overflow there. Code -8 marks an exception; the values are stored raw, in
    order. max|v| ignores exceptions. All-zero blocks decode to zeros (-0.0 becomes +0.0). Arithmetic is in float32 (float64
    for float64).

    Error bound for float32 and float64: |v - q * s| <= s * (1/2 + 2**-22), since v / s <= 7 is rounded once, to at least 24
    bits. For float16 and bfloat16, add the rounding of q * s to that dtype.

    Codes: q of values 2k and 2k + 1 are the low and the high nibble of byte k, in two's complement; the high nibble of the
    last byte is 0 if the count is odd.

    Parameters, little-endian: block_size uint16; reserved uint16, 0; exception_count uint32; scales bfloat16, one per block;
    exceptions, raw, in the order of their codes. The last block may be shorter.

    Source: ONNX QuantizeLinear to INT4, blocked granularity, zero_point 0, without code -8.
    """

    id: ClassVar[str] = "int4_block"
    number: ClassVar[int] = 4

    def encode(self, values: Values) -> Quantized:
        """Return the codes of `values`, shape (n,), two per byte.

        Raises:
            TooManyExceptionsError: more than 1 % of n; names both numbers.
        """
        blocks = split_blocks(self.id, values, self.block_size)
        bits = scale_bits(blocks.maxima, _CODE_MAX)
        quotients = blocks.values / scales(bits, blocks.values.dtype)[:, np.newaxis]
        codes = np.rint(quotients, out=quotients).astype(np.int8).view(np.uint8).reshape(-1)
        codes[blocks.exceptions] = _EXCEPTION
        exceptions = values[blocks.exceptions]
        parameters = _nibbles.pack_parameters(self.block_size, bits, exceptions.size, exceptions.tobytes())
        return Quantized(_nibbles.pack(codes, values.size), parameters)

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, dtype `component`."""
        parsed = _nibbles.parse(cls.id, codes, parameters, count, component.itemsize)
        # The padding nibble after an odd count is 0 (`parse` checks it), so it never counts as an exception.
        low, high = codes & np.uint8(0x0F) == _EXCEPTION, codes >> np.uint8(4) == _EXCEPTION
        marked = int(np.count_nonzero(low)) + int(np.count_nonzero(high))
        if marked != parsed.exception_count:
            raise CorruptChunkError(f"int4_block has {parsed.exception_count} exceptions, but {marked} codes mark one")
        values = _nibbles.unpack(codes, count, _TABLES[work_dtype(component)], parsed).astype(component, copy=False)
        if marked:
            values[np.stack([low, high], axis=1).reshape(-1)[:count]] = np.frombuffer(parsed.rest, component)
        return values
