"""Helpers for quantizers with one scale per block of values: bfloat16 scales, exceptions, and the working precision.

A chunk is split into blocks of `block_size` values; the last block may be shorter. A block's scale is a bfloat16 rounded away
from zero, so that no code has to be clipped. Exceptions are NaN, infinities, and values so large that decoding them might
overflow. Scales ignore exceptions, whose bits are stored raw.

This module does not know the layout of any codec. Its functions are pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tensorus_codecs.abc import Values

__all__ = [
    "EXCEPTION_SHARE_MAX",
    "SCALE_MIN",
    "Blocks",
    "magnitude_max",
    "require_few_exceptions",
    "require_normal_scales",
    "scale_bits",
    "scales",
    "split_blocks",
    "work_dtype",
]

SCALE_MIN = 2.0**-126
"""float32's smallest normal number. Subnormal scales are avoided because some processors flush them to zero."""

EXCEPTION_SHARE_MAX = 0.01
"""Above this share, quantizing saves too little and the chunk is better stored losslessly."""


def work_dtype(component: np.dtype[Any]) -> np.dtype[Any]:
    """Return the working precision for values of dtype `component`: float64 for float64, otherwise float32."""
    return np.dtype(np.float64) if component.itemsize == 8 else np.dtype(np.float32)


def magnitude_max(component: np.dtype[Any]) -> float:
    """Return the largest magnitude whose decoded value cannot overflow, given that a scale may be too large by 2**-7."""
    return 2.0**15 if component == np.float16 else 2.0**127


def require_few_exceptions(codec_id: str, exception_count: int, count: int) -> None:
    """Refuse a chunk of `count` values with too many exceptions.

    Raises:
        TooManyExceptionsError: more than 1 % of `count`; names both numbers.
    """
    if exception_count > EXCEPTION_SHARE_MAX * count:
        raise TooManyExceptionsError(
            f"{exception_count} of {count} values are exceptions (NaN, infinite or too large) to {codec_id}, "
            f"the limit is {EXCEPTION_SHARE_MAX:.0%}"
        )


def scale_bits(block_maxima: Values, code_max: int) -> npt.NDArray[np.uint16]:
    """Return max(up(block_maxima / code_max), 2**-126) as the 16 bits of bfloat16; `up` rounds away from zero.

    Args:
        block_maxima: the largest magnitude per block, float32 or float64, shape (blocks,), from 0 to 2**127.
        code_max: the code for a block's largest magnitude.
    """
    quotients = (block_maxima / block_maxima.dtype.type(code_max)).astype(np.float64)
    as_float32 = quotients.astype(np.float32)
    # Where the conversion to float32 rounded down, take the next float32 up.
    low = as_float32 < quotients
    as_float32[low] = np.nextafter(as_float32[low], np.float32(np.inf))
    bits: npt.NDArray[np.uint32] = np.maximum(as_float32, np.float32(SCALE_MIN)).view(np.uint32)
    # bfloat16 is the upper half of float32: adding 0xffff before the shift rounds up.
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")


def require_normal_scales(codec_id: str, bits: npt.NDArray[np.uint16]) -> None:
    """Refuse scales that no encoder writes.

    Raises:
        CorruptChunkError: a scale is zero, subnormal, negative, infinite or NaN.
    """
    # The smallest normal bfloat16 is 0x0080, infinity is 0x7f80.
    if bits.size and not (int(bits.min()) >= 0x0080 and int(bits.max()) < 0x7F80):
        raise CorruptChunkError(f"a scale of {codec_id} is not a positive normal bfloat16")


def scales(bits: npt.NDArray[np.uint16], work: np.dtype[Any]) -> Values:
    """Return the scales with these bits as dtype `work`, float32 or float64."""
    widened: Values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened.astype(work, copy=False)


@dataclass(frozen=True)
class Blocks:
    """A chunk split into blocks, ready to be divided by scales."""

    values: Values
    """Shape (blocks, block_size), of `work_dtype`; exceptions are 0 and the last block is padded with zeros. Read-only: it
    may be a view of the caller's array."""
    maxima: Values
    """Largest magnitude per block, shape (blocks,), of `work_dtype`."""
    exceptions: npt.NDArray[np.intp]
    """Positions of the exceptions in the chunk, ascending."""


def split_blocks(codec_id: str, values: Values, block_size: int) -> Blocks:
    """Return `values`, shape (n,), n >= 1, in blocks.

    Raises:
        TooManyExceptionsError: more than 1 % of n; names both numbers.
    """
    work = work_dtype(values.dtype)
    numbers = values.astype(work, copy=False)
    missing = -values.size % block_size
    if missing:
        numbers = np.concatenate([numbers, np.zeros(missing, work)])
    magnitudes = np.abs(numbers)
    limit = work.type(magnitude_max(values.dtype))
    # Magnitudes sort like their bits as integers, with infinity and then NaN last, and integer maxima are faster.
    maxima = magnitudes.view(f"u{work.itemsize}").reshape(-1, block_size).max(axis=1).view(work)
    exceptions = np.empty(0, np.intp)
    if not bool((maxima <= limit).all()):
        exceptions = np.flatnonzero(~(magnitudes <= limit))
        require_few_exceptions(codec_id, exceptions.size, values.size)
        numbers = numbers.copy()
        numbers[exceptions] = 0
        magnitudes[exceptions] = 0
        maxima = magnitudes.reshape(-1, block_size).max(axis=1)
    return Blocks(numbers.reshape(-1, block_size), maxima, exceptions)
