"""Eight-bit integers with one scale per block of values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError, TooManyExceptionsError

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["Int8Block"]

_PARAMETERS = struct.Struct("<HHI")
"""block_size, variant (0: symmetric), exception_count."""

_SYMMETRIC = 0
_BLOCK_SIZES = (32, 64, 128, 256)
_CODE_MAX = 127
_EXCEPTION = -128
"""The code that marks a value kept raw; -127 to 127 are the others."""

_SCALE_MIN = 2.0**-126
"""float32's smallest normal number: no arithmetic with subnormal scales, which some processors flush to zero."""

_EXCEPTION_SHARE_MAX = 0.01
"""Above it the codes save too little, and what is so irregular is better kept losslessly."""


@dataclass(frozen=True)
class Int8Block(Quantizer):
    """Int8 codes with one bfloat16 scale per `block_size` values.

    s = max(up(max|v| / 127), 2**-126);  q = rint(v / s), ties to even;  decoded: q * s, rounded to the dtype of v.

    `up` rounds away from zero to bfloat16, so that |q| <= 127 without clipping. Code -128 marks an exception, whose value
    is kept raw, in order: NaN, an infinity, or |v| > 2**M, where M is 127, and 15 for float16: q * s might overflow there.
    max|v| leaves exceptions out. All-zero blocks decode to zeros (-0.0 to +0.0). Arithmetic is in float32, for float64 in
    float64.

    Error bound for float32 and float64: |v - q * s| <= s * (1/2 + 2**-16), since v / s <= 127 is rounded once, to at least
    24 bits. float16 and bfloat16 add their own rounding of q * s.

    Parameters, little-endian: block_size uint16; variant uint16, 0; exception_count uint32; scales bfloat16, one per
    started block; exceptions, raw, in the order of their codes.

    Source: ONNX QuantizeLinear, blocked granularity, zero_point 0, without code -128.
    """

    id: ClassVar[str] = "int8_block"
    number: ClassVar[int] = 2
    code_dtype: ClassVar[np.dtype[Any]] = np.dtype("i1")

    block_size: int = 64
    """Values per scale: 32, 64, 128 or 256. Smaller is more exact and larger on disk: 8 + 16 / block_size bits a value."""

    def __post_init__(self) -> None:
        """Refuse any other block size."""
        if type(self.block_size) is not int or self.block_size not in _BLOCK_SIZES:
            raise InvalidPolicyError(
                f"block_size of codec int8_block is {self.block_size!r}, must be one of {_BLOCK_SIZES}"
            )

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of at least 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize >= 2

    def encode(self, values: Values) -> Quantized:
        """Return int8 codes of `values`, shape (n,).

        Raises:
            TooManyExceptionsError: above 1 % of n; names both numbers.
        """
        count = values.size
        work_dtype = _work_dtype(values.dtype)
        # Zeros complete the last block; they change no scale.
        padded = np.zeros(-(-count // self.block_size) * self.block_size, work_dtype)
        padded[:count] = values
        magnitudes = np.abs(padded)
        # NaN fails the comparison, too.
        regular = magnitudes <= work_dtype.type(_magnitude_max(values.dtype))
        exception_count = padded.size - int(np.count_nonzero(regular))
        if exception_count > _EXCEPTION_SHARE_MAX * count:
            raise TooManyExceptionsError(
                f"{exception_count} of {count} values are exceptions (NaN, infinite or too large) to int8_block, "
                f"the limit is {_EXCEPTION_SHARE_MAX:.0%}"
            )
        if exception_count:
            padded[~regular] = 0
            magnitudes[~regular] = 0
        blocks = padded.reshape(-1, self.block_size)
        scale_bits = _scale_bits(magnitudes.reshape(blocks.shape).max(axis=1))
        codes = np.rint(blocks / _scales(scale_bits, work_dtype)[:, np.newaxis]).astype(np.int8).reshape(-1)
        codes[~regular] = _EXCEPTION
        header = _PARAMETERS.pack(self.block_size, _SYMMETRIC, exception_count)
        exceptions = values[~regular[:count]].tobytes() if exception_count else b""
        return Quantized(codes[:count], b"".join((header, scale_bits.tobytes(), exceptions)))

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any]) -> Values:
        """Return the values, dtype `component`."""
        block_size, scale_bits, exceptions = _parse_parameters(codes, parameters, component)
        work_dtype = _work_dtype(component)
        scales = np.repeat(_scales(scale_bits, work_dtype), block_size)[: codes.size]
        values: Values = np.multiply(codes, scales, dtype=work_dtype).astype(component, copy=False)
        if exceptions.size:
            values[codes == _EXCEPTION] = exceptions
        return values


def _parse_parameters(
    codes: Values, parameters: bytes, component: np.dtype[Any]
) -> tuple[int, np.ndarray[Any, Any], Values]:
    """Return block size, scale bits and exceptions, checked against the codes."""
    if len(parameters) < _PARAMETERS.size:
        raise CorruptChunkError(f"int8_block has {len(parameters)} bytes of parameters, at least {_PARAMETERS.size}")
    block_size, variant, exception_count = _PARAMETERS.unpack_from(parameters)
    if block_size not in _BLOCK_SIZES:
        raise CorruptChunkError(f"block_size of int8_block is {block_size}, must be one of {_BLOCK_SIZES}")
    if variant != _SYMMETRIC:
        raise CorruptChunkError(f"variant of int8_block is {variant}, must be {_SYMMETRIC}")
    block_count = -(-codes.size // block_size)
    expected_bytes = _PARAMETERS.size + 2 * block_count + exception_count * component.itemsize
    if len(parameters) != expected_bytes:
        raise CorruptChunkError(f"int8_block has {len(parameters)} bytes of parameters, must be {expected_bytes}")
    marked = int(np.count_nonzero(codes == _EXCEPTION))
    if marked != exception_count:
        raise CorruptChunkError(f"int8_block has {exception_count} exceptions for {marked} codes that mark one")
    scale_bits = np.frombuffer(parameters, "<u2", block_count, _PARAMETERS.size)
    # The smallest normal bfloat16 is 0x0080, infinity is 0x7f80.
    if block_count and not (int(scale_bits.min()) >= 0x0080 and int(scale_bits.max()) < 0x7F80):
        raise CorruptChunkError("a scale of int8_block is not a positive normal bfloat16")
    exceptions = np.frombuffer(parameters, component, exception_count, _PARAMETERS.size + 2 * block_count)
    return block_size, scale_bits, exceptions


def _work_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64) if dtype.itemsize == 8 else np.dtype(np.float32)


def _magnitude_max(dtype: np.dtype[Any]) -> float:
    """Return the largest magnitude whose decoded value cannot overflow: a scale is up to 2**-7 too large."""
    return 2.0**15 if dtype == np.float16 else 2.0**127


def _scale_bits(block_maxima: Values) -> np.ndarray[Any, Any]:
    """Return max|v| / 127, rounded away from zero to bfloat16, as its 16 bits."""
    quotients = (block_maxima / block_maxima.dtype.type(_CODE_MAX)).astype(np.float64)
    as_float32 = quotients.astype(np.float32)
    # Where float64 was rounded down to float32, the next float32 is not below it.
    low = as_float32 < quotients
    as_float32[low] = np.nextafter(as_float32[low], np.float32(np.inf))
    bits: np.ndarray[Any, Any] = np.maximum(as_float32, np.float32(_SCALE_MIN)).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")


def _scales(scale_bits: np.ndarray[Any, Any], work_dtype: np.dtype[Any]) -> Values:
    scales: Values = (scale_bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return scales.astype(work_dtype, copy=False)
