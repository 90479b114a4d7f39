"""Four-bit codes, two per byte, and their parameters: shared by `int4_block` and `nf4`.

The first code of a pair is the low nibble. The chunk is split into blocks of `block_size` codes with one scale each; see
`_blocks.py` for scales and exceptions.

    parameters, little-endian, no padding
    at size  field            rule
     0    2  block_size       32, 64 or 128
     2    2  reserved         0
     4    4  exception_count
     8  2*b  scales           bfloat16, positive and normal; b = ceil(n / block_size)
             positions        uint32 each, ascending; `nf4` only
             exceptions       raw, in order
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.abc import Quantizer
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError
from tensorus_codecs.quantizers._blocks import require_normal_scales, scales

if TYPE_CHECKING:
    import numpy.typing as npt

    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["NibbleBlock", "Parameters", "pack", "pack_parameters", "pair_table", "parse", "unpack"]

_BLOCK_SIZES = (32, 64, 128)

_HEADER = struct.Struct("<HHI")
"""block_size, reserved, exception_count."""


@dataclass(frozen=True)
class NibbleBlock(Quantizer):
    """Base of the four-bit quantizers."""

    block_size: int = 32
    """Values per scale: 32, 64 or 128. Smaller blocks are more exact and larger on disk: 4 + 16 / block_size bits per value."""

    def __post_init__(self) -> None:
        """Refuse any other block size."""
        if type(self.block_size) is not int or self.block_size not in _BLOCK_SIZES:
            raise InvalidPolicyError(
                f"block_size of codec {self.id} is {self.block_size!r}, must be one of {_BLOCK_SIZES}"
            )

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of at least 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize >= 2

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG003 - the same for all
        """Return uint8: one byte holds two codes."""
        return np.dtype(np.uint8)

    @classmethod
    def code_count(cls, count: int) -> int:
        """Return the number of bytes: one per two values, rounded up."""
        return (count + 1) // 2


@dataclass(frozen=True)
class Parameters:
    """The parsed parameters of one chunk."""

    block_size: int
    """Codes per scale."""
    scale_bits: npt.NDArray[np.uint16]
    """Bits of the bfloat16 scales, one per block; the last block may be shorter."""
    exception_count: int
    """Number of values stored raw."""
    rest: memoryview
    """`exception_count` entries of the size passed to `parse`."""


def pack(nibbles: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
    """Return the first `count` nibbles as bytes, shape (ceil(count / 2),); if `count` is odd, the last high nibble is 0.

    Args:
        nibbles: one per byte, whose upper four bits are ignored; shape (n,), n even and >= `count`.
    """
    # Two bytes at a time as one 16-bit word: the low byte keeps its place, the high byte moves down by a nibble.
    pairs = nibbles.view("<u2")
    packed = pairs & np.uint16(0x0F)
    packed |= pairs >> np.uint16(4) & np.uint16(0xF0)
    codes = packed[: NibbleBlock.code_count(count)].astype(np.uint8)
    if count % 2:
        codes[-1] &= 0x0F
    return codes


def pair_table(levels: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.complexfloating[Any, Any]]:
    """Return the two values for every byte, shape (256,): real part for the low nibble, imaginary part for the high one."""
    table = np.empty(256, np.result_type(levels.dtype, np.complex64))
    table.real, table.imag = np.tile(levels, 16), np.repeat(levels, 16)
    return table


def unpack(
    codes: Values, count: int, table: npt.NDArray[np.complexfloating[Any, Any]], parameters: Parameters
) -> Values:
    """Return level * scale for `count` codes, in the precision of `table`, which `pair_table` made."""
    # One complex number per byte is a pair of values: a single lookup decodes two codes.
    pairs = table.take(codes)
    values: Values = pairs.view(pairs.real.dtype)[:count]
    values *= np.repeat(scales(parameters.scale_bits, values.dtype), parameters.block_size)[:count]
    return values


def pack_parameters(block_size: int, bits: npt.NDArray[np.uint16], exception_count: int, rest: bytes) -> bytes:
    """Return the parameters in the layout that `parse` reads."""
    return b"".join((_HEADER.pack(block_size, 0, exception_count), bits.tobytes(), rest))


def parse(codec_id: str, codes: Values, parameters: bytes, count: int, exception_bytes: int) -> Parameters:
    """Parse the parameters and check them against the codes of `count` values.

    Args:
        exception_bytes: size of the entry of one exception.

    Raises:
        CorruptChunkError: a rule of the table above is broken, or `count` is odd and the last high nibble is not 0.
    """
    if len(parameters) < _HEADER.size:
        raise CorruptChunkError(f"{codec_id} has {len(parameters)} bytes of parameters, at least {_HEADER.size}")
    block_size, reserved, exception_count = _HEADER.unpack_from(parameters)
    if block_size not in _BLOCK_SIZES:
        raise CorruptChunkError(f"block_size of {codec_id} is {block_size}, must be one of {_BLOCK_SIZES}")
    if reserved:
        raise CorruptChunkError(f"reserved field of {codec_id} is {reserved}, must be 0")
    block_count = -(-count // block_size)
    rest_offset = _HEADER.size + 2 * block_count
    expected_bytes = rest_offset + exception_count * exception_bytes
    if len(parameters) != expected_bytes:
        raise CorruptChunkError(f"{codec_id} has {len(parameters)} bytes of parameters, must be {expected_bytes}")
    # An encoder always writes 0 here, so anything else is damage.
    if count % 2 and int(codes[-1]) >> 4:
        raise CorruptChunkError(f"the last nibble of {codec_id} is {int(codes[-1]) >> 4}, must be 0 after an odd count")
    bits = np.frombuffer(parameters, "<u2", block_count, _HEADER.size)
    require_normal_scales(codec_id, bits)
    return Parameters(block_size, bits, exception_count, memoryview(parameters)[rest_offset:])
