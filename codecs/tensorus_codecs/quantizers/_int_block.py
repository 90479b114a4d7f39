"""Integer codes with one scale per block of values: base of `int8_block` and `int16_block`, which differ only in width."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError
from tensorus_codecs.quantizers._blocks import (
    magnitude_max,
    require_few_exceptions,
    require_normal_scales,
    scale_bits,
    scales,
    work_dtype,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["IntBlock"]

_PARAMETERS = struct.Struct("<HHI")
"""block_size, variant, exception_count."""

_SYMMETRIC = 0
_AFFINE = 1
_VARIANTS = ("auto", "symmetric", "affine")
_BLOCK_SIZES = (32, 64, 128, 256)
_AFFINE_BELOW = 1.2
"""`auto` takes the affine variant if the sum of the blocks' ranges is less than this factor times the sum of their largest
magnitudes, and no value is zero: only the symmetric variant is sure to keep zeros.

A symmetric block covers twice its largest magnitude. An affine one covers its range, and costs a midpoint of 4 bytes. Values
around zero have a range of about 1.9 times the largest magnitude; values away from zero have a range of at most 1 times."""


@dataclass(frozen=True)
class IntBlock(Quantizer):
    """Integer codes with one bfloat16 scale, and in the affine variant one midpoint, per `block_size` values.

    symmetric  s = max(up(max|v| / (c u)), 2**-126);      q = u rint(v / (u s));        decoded: q * s
    affine     s = max(up(max|v - m| / (c u)), 2**-126);  q = u rint((v - m) / (u s));  decoded: q * s + m
               m = max v / 2 + min v / 2, never -0.0

    c is `code_max`; u is 1, except in `int16_block`, where it is the largest power of two with c u <= 32767. Ties go to even.
    `up` rounds away from zero to bfloat16, so |q| <= c u without clipping. Decoded values are rounded to the dtype of v.

    Exceptions are NaN, infinities and |v| > 2**M, where M is 127 (15 for float16), because q * s might overflow there. The
    smallest integer of the codes' width marks an exception; the values are stored raw, in order. max and min ignore exceptions.

    All-zero blocks decode to zeros (-0.0 becomes +0.0). In the affine variant, blocks of equal values are exact unless half of
    the value is subnormal. Every operation is rounded to float32 (float64 for float64).

    Error bound for float32 and float64: |v - decoded| <= u s (1/2 + c * 2**-23), since v / (u s) <= c is rounded once, to at
    least 24 bits. In the affine variant it is u s (1/2 + c * 2**-22) + 2**-24 * |m| (for float64, 2**-53 * |m|), since
    difference, quotient and sum are rounded. For float16 and bfloat16, add the rounding to that dtype.

    Parameters, little-endian: block_size uint16; variant uint16, 0 symmetric, 1 affine; exception_count uint32; scales
    bfloat16, one per block; in the affine variant, midpoints float32 (float64 for float64), one per block; exceptions, raw, in
    the order of their codes. The last block may be shorter.

    Source: ONNX QuantizeLinear, blocked granularity, without the smallest code; the zero point is m.
    """

    code: ClassVar[np.dtype[Any]]
    """Dtype of the codes: a signed integer."""
    spreads: ClassVar[bool] = False
    """Whether u may exceed 1, so that the upper byte of a code holds everything that a compressor can use."""

    block_size: int = 64
    """Values per scale: 32, 64, 128 or 256. Smaller blocks are more exact and larger on disk: they cost 16 / block_size bits
    per value (affine: 48 / block_size; affine float64: 80 / block_size)."""
    code_max: int = 0
    """Largest code; 0: the largest integer. Fewer codes are coarser, and smaller if a compressor follows."""
    variant: str = "auto"
    """"symmetric", "affine" (for values away from zero), or "auto" (chosen per chunk)."""

    def __post_init__(self) -> None:
        """Refuse any other block size, code or variant."""
        if type(self.block_size) is not int or self.block_size not in _BLOCK_SIZES:
            raise InvalidPolicyError(
                f"block_size of codec {self.id} is {self.block_size!r}, must be one of {_BLOCK_SIZES}"
            )
        self._require_integer("code_max", 0, self.largest_code())
        if self.variant not in _VARIANTS:
            raise InvalidPolicyError(f"variant of codec {self.id} is {self.variant!r}, must be one of {_VARIANTS}")

    @classmethod
    def largest_code(cls) -> int:
        """Return the largest integer of the codes' width."""
        return int(np.iinfo(cls.code).max)

    @classmethod
    def exception_code(cls) -> int:
        """Return the code that marks an exception."""
        return int(np.iinfo(cls.code).min)

    @classmethod
    def applies_to(cls, dtype: DType) -> bool:
        """Floats and complex floats of at least 16 bits per number."""
        return dtype.is_real and dtype.component.itemsize >= 2

    @classmethod
    def code_dtype(cls, component: np.dtype[Any]) -> np.dtype[Any]:  # noqa: ARG003 - the same for all
        """Return the signed integer dtype of the codes."""
        return cls.code

    def encode(self, values: Values) -> Quantized:
        """Return the codes of `values`, shape (n,).

        Raises:
            TooManyExceptionsError: more than 1 % of n; names both numbers.
        """
        blocks = _blocks(values, self.block_size)
        highest, lowest = blocks.max(axis=1), blocks.min(axis=1)
        limit = magnitude_max(values.dtype)
        regular = None
        # max and min propagate NaN, and comparisons with NaN are false, so exceptions of any kind end up here.
        if not (bool((highest <= limit).all()) and bool((lowest >= -limit).all())):
            regular = np.abs(blocks) <= blocks.dtype.type(limit)
            highest = np.maximum.reduce(blocks, axis=1, where=regular, initial=-limit)
            lowest = np.minimum.reduce(blocks, axis=1, where=regular, initial=limit)
            all_exceptions = ~regular.any(axis=1)
            highest[all_exceptions] = lowest[all_exceptions] = 0
        affine = self._is_affine(blocks, highest, lowest)
        if regular is not None:
            # Any value that fits a code will do: the codes of exceptions are overwritten below.
            blocks = np.where(regular, blocks, lowest[:, np.newaxis])
        code_max = self.code_max or self.largest_code()
        spread = 1 << (self.largest_code() // code_max).bit_length() - 1 if self.spreads else 1
        # Whether max(0.0, -0.0) is -0.0 depends on the processor. Adding 0.0 always yields +0.0.
        midpoints = highest / 2 + lowest / 2 + blocks.dtype.type(0) if affine else np.empty(0, blocks.dtype)
        # Half the range would not do: the midpoint is rounded, so one end may be farther from it than the other.
        reach = np.maximum(highest - midpoints, midpoints - lowest) if affine else np.maximum(highest, -lowest)
        bits = scale_bits(reach, code_max * spread)
        steps = scales(bits, blocks.dtype)[:, np.newaxis] * blocks.dtype.type(spread)
        quotients = (blocks - midpoints[:, np.newaxis]) / steps if affine else blocks / steps
        codes = np.rint(quotients, out=quotients).astype(self.code).reshape(-1)[: values.size]
        if spread > 1:
            codes *= self.code.type(spread)
        exceptions = values[:0]
        if regular is not None:
            is_exception = ~regular.reshape(-1)[: values.size]
            exceptions = values[is_exception]
            require_few_exceptions(self.id, exceptions.size, values.size)
            codes[is_exception] = self.exception_code()
        header = _PARAMETERS.pack(self.block_size, _AFFINE if affine else _SYMMETRIC, exceptions.size)
        return Quantized(codes, b"".join((header, bits.tobytes(), midpoints.tobytes(), exceptions.tobytes())))

    def _is_affine(self, blocks: Values, highest: Values, lowest: Values) -> bool:
        if self.variant != "auto":
            return self.variant == "affine"
        # Halves cannot overflow when added or subtracted.
        ranges = (highest / 2 - lowest / 2).sum(dtype=np.float64)
        magnitudes = (np.maximum(highest, -lowest) / 2).sum(dtype=np.float64)
        # Zeros must stay zeros: they often mean missing values, or come from a ReLU.
        return bool(ranges < _AFFINE_BELOW * magnitudes) and not bool((blocks == 0).any())

    @classmethod
    def decode(cls, codes: Values, parameters: bytes, component: np.dtype[Any], count: int) -> Values:
        """Return the values, dtype `component`."""
        values = np.empty(count, component)
        cls.decode_into(codes, parameters, values)
        return values

    @classmethod
    def decode_into(cls, codes: Values, parameters: bytes, values: Values) -> None:
        """See `Quantizer`."""
        block_size, bits, midpoints, exceptions = _parse_parameters(cls, codes, parameters, values.dtype)
        factors = scales(bits, work_dtype(values.dtype))
        # Decode straight into the target if it already has the working precision.
        work = values if values.dtype == factors.dtype else np.empty(values.size, factors.dtype)
        count = values.size
        whole = count - count % block_size
        # Whole blocks form a matrix with one scale per row. The shorter last block needs a pass of its own.
        for part, blocks in (
            (slice(0, whole), slice(0, whole // block_size)),
            (slice(whole, count), slice(whole // block_size, None)),
        ):
            if part.start < part.stop:
                width = min(block_size, part.stop - part.start)
                decoded = work[part].reshape(-1, width)
                np.multiply(
                    codes[part].reshape(-1, width), factors[blocks, np.newaxis], out=decoded, dtype=factors.dtype
                )
                if midpoints.size:
                    decoded += midpoints[blocks, np.newaxis]
        if work is not values:
            values[:] = work
        if exceptions.size:
            values[codes == cls.exception_code()] = exceptions


def _blocks(values: Values, block_size: int) -> Values:
    """Return `values` in the working precision, shape (blocks, block_size); a view if possible.

    The last block is padded with the last value, which changes neither its extremes nor its exceptions.
    """
    working = values.astype(work_dtype(values.dtype), copy=False)
    missing = -values.size % block_size
    if missing:
        working = np.concatenate([working, np.repeat(working[-1:], missing)])
    return working.reshape(-1, block_size)


def _parse_parameters(
    codec: type[IntBlock], codes: Values, parameters: bytes, component: np.dtype[Any]
) -> tuple[int, npt.NDArray[np.uint16], Values, Values]:
    """Return block size, scale bits, midpoints and exceptions, checked against the codes."""
    if len(parameters) < _PARAMETERS.size:
        raise CorruptChunkError(f"{codec.id} has {len(parameters)} bytes of parameters, at least {_PARAMETERS.size}")
    block_size, variant, exception_count = _PARAMETERS.unpack_from(parameters)
    if block_size not in _BLOCK_SIZES:
        raise CorruptChunkError(f"block_size of {codec.id} is {block_size}, must be one of {_BLOCK_SIZES}")
    if variant not in {_SYMMETRIC, _AFFINE}:
        raise CorruptChunkError(f"variant of {codec.id} is {variant}, must be {_SYMMETRIC} or {_AFFINE}")
    block_count = -(-codes.size // block_size)
    work = work_dtype(component)
    midpoint_count = block_count if variant == _AFFINE else 0
    midpoints_at = _PARAMETERS.size + 2 * block_count
    exceptions_at = midpoints_at + midpoint_count * work.itemsize
    expected_bytes = exceptions_at + exception_count * component.itemsize
    if len(parameters) != expected_bytes:
        raise CorruptChunkError(f"{codec.id} has {len(parameters)} bytes of parameters, must be {expected_bytes}")
    exception = codec.exception_code()
    # The exception code is the smallest one, so `min` detects exceptions without a temporary array.
    marked = int(np.count_nonzero(codes == exception)) if int(codes.min()) == exception else 0
    if marked != exception_count:
        raise CorruptChunkError(f"{codec.id} has {exception_count} exceptions, but {marked} codes mark one")
    bits = np.frombuffer(parameters, "<u2", block_count, _PARAMETERS.size)
    require_normal_scales(codec.id, bits)
    midpoints = np.frombuffer(parameters, work.newbyteorder("<"), midpoint_count, midpoints_at)
    if not bool(np.isfinite(midpoints).all()):
        raise CorruptChunkError(f"a midpoint of {codec.id} is not finite")
    exceptions = np.frombuffer(parameters, component, exception_count, exceptions_at)
    return block_size, bits, midpoints, exceptions
