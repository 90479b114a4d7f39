"""What quantizers with one scale per block of values share: bfloat16 scales, exceptions, and the precision they work in.

Every chunk is cut into blocks of `block_size` values, of which the last may be shorter. A block's scale is a bfloat16 that is
rounded away from zero, so that no code has to be clipped; NaN, infinities and values so large that decoding them might
overflow are exceptions, which no scale takes into account and whose bits are kept.

This module knows no codec's layout. Its functions are pure.
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
    "cut",
    "magnitude_max",
    "require_few_exceptions",
    "require_normal_scales",
    "scale_bits",
    "scales",
    "work_dtype",
]

SCALE_MIN = 2.0**-126
"""float32's smallest normal number: no arithmetic with subnormal scales, which some processors flush to zero."""

EXCEPTION_SHARE_MAX = 0.01
"""Above it the codes save too little, and what is so irregular is better kept losslessly."""


def work_dtype(component: np.dtype[Any]) -> np.dtype[Any]:
    """Return what values of dtype `component` are scaled in: float32, for float64 float64."""
    return np.dtype(np.float64) if component.itemsize == 8 else np.dtype(np.float32)


def magnitude_max(component: np.dtype[Any]) -> float:
    """Return the largest magnitude whose decoded value cannot overflow: a scale is up to 2**-7 too large."""
    return 2.0**15 if component == np.float16 else 2.0**127


def require_few_exceptions(codec_id: str, exception_count: int, count: int) -> None:
    """Refuse a chunk of `count` values of which too many are exceptions.

    Raises:
        TooManyExceptionsError: above 1 % of `count`; names both numbers.
    """
    if exception_count > EXCEPTION_SHARE_MAX * count:
        raise TooManyExceptionsError(
            f"{exception_count} of {count} values are exceptions (NaN, infinite or too large) to {codec_id}, "
            f"the limit is {EXCEPTION_SHARE_MAX:.0%}"
        )


def scale_bits(block_maxima: Values, code_max: int) -> npt.NDArray[np.uint16]:
    """Return max(up(block_maxima / code_max), 2**-126) as the 16 bits of bfloat16; `up` rounds away from zero.

    Args:
        block_maxima: float32 or float64, shape (blocks,), >= 0 and at most 2**127: the largest magnitudes.
        code_max: the code that a block's largest magnitude becomes.
    """
    quotients = (block_maxima / block_maxima.dtype.type(code_max)).astype(np.float64)
    as_float32 = quotients.astype(np.float32)
    # Where float64 was rounded down to float32, the next float32 is not below it.
    low = as_float32 < quotients
    as_float32[low] = np.nextafter(as_float32[low], np.float32(np.inf))
    bits: npt.NDArray[np.uint32] = np.maximum(as_float32, np.float32(SCALE_MIN)).view(np.uint32)
    return ((bits + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")


def require_normal_scales(codec_id: str, bits: npt.NDArray[np.uint16]) -> None:
    """Refuse scales that no encoder writes.

    Raises:
        CorruptChunkError: one of them is zero, subnormal, negative, infinite or NaN.
    """
    # The smallest normal bfloat16 is 0x0080, infinity is 0x7f80.
    if bits.size and not (int(bits.min()) >= 0x0080 and int(bits.max()) < 0x7F80):
        raise CorruptChunkError(f"a scale of {codec_id} is not a positive normal bfloat16")


def scales(bits: npt.NDArray[np.uint16], work: np.dtype[Any]) -> Values:
    """Return the scales of which these are the bits, dtype `work`: float32 or float64."""
    widened: Values = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return widened.astype(work, copy=False)


@dataclass(frozen=True)
class Blocks:
    """A chunk cut into blocks, ready to be divided by scales."""

    values: Values
    """Shape (blocks, block_size), of `work_dtype`: exceptions are 0, zeros complete the last block. Not to be written to."""
    maxima: Values
    """Largest magnitude per block, shape (blocks,), of `work_dtype`."""
    exceptions: npt.NDArray[np.intp]
    """Positions of the exceptions in the chunk, ascending."""


def cut(codec_id: str, values: Values, block_size: int) -> Blocks:
    """Return `values`, shape (n,), n >= 1, in blocks.

    Raises:
        TooManyExceptionsError: above 1 % of n; names both numbers.
    """
    work = work_dtype(values.dtype)
    numbers = values.astype(work, copy=False)
    missing = -values.size % block_size
    if missing:
        numbers = np.concatenate([numbers, np.zeros(missing, work)])
    magnitudes = np.abs(numbers)
    limit = work.type(magnitude_max(values.dtype))
    # Magnitudes are in the order of their bits as integers, infinity and then NaN at the end; and integers are faster.
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
