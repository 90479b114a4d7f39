"""How far decoded values are from what they were: what the error contract is about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from tensorus_codecs.abc import Values

__all__ = ["MeasuredError", "measure"]

_BLOCK_VALUES = 32768
"""Errors are summed in float64 over blocks that stay in the cache."""

_SQUARES_FIT = (1e-280, 1e300)
"""Sums of squares to which nothing was lost below float64's normal numbers, nor above its largest."""


@dataclass(frozen=True)
class MeasuredError:
    """What a quantizer did to some values; `a + b` is over both.

    Means instead of sums: their squares stay in float64's range wherever the values do.
    """

    count: int = 0
    """Finite values."""
    rms_error: float = 0.0
    """Root of the mean of (v - decoded)**2 over finite values."""
    rms_value: float = 0.0
    """Root of the mean of v**2 over finite values."""
    max_absolute_error: float = 0.0
    """Largest |v - decoded|; infinite where a value became NaN or infinite, or one of these a number."""

    def __add__(self, other: MeasuredError) -> MeasuredError:
        """Return what was done to the values of both."""
        count = self.count + other.count
        mine, theirs = (math.sqrt(part.count / count) if count else 0.0 for part in (self, other))
        return MeasuredError(
            count,
            math.hypot(self.rms_error * mine, other.rms_error * theirs),
            math.hypot(self.rms_value * mine, other.rms_value * theirs),
            max(self.max_absolute_error, other.max_absolute_error),
        )

    @property
    def relative_error(self) -> float:
        """L2 norm of the error over L2 norm of the values; infinite where only the latter is zero."""
        if self.rms_error == 0:
            return 0.0
        return self.rms_error / self.rms_value if self.rms_value > 0 else math.inf


def measure(values: Values, decoded: Values) -> MeasuredError:
    """Return what became of `values`, shape (n,), as `decoded`, both of the same real dtype."""
    measured = MeasuredError()
    for start in range(0, values.size, _BLOCK_VALUES):
        block = slice(start, start + _BLOCK_VALUES)
        measured += _measure_block(values[block], decoded[block])
    return measured


def _measure_block(values: Values, decoded: Values) -> MeasuredError:
    values, decoded = values.astype(np.float64), decoded.astype(np.float64)
    errors = decoded - values
    largest = float(np.abs(errors).max())
    if not math.isfinite(largest):
        irregular = ~np.isfinite(values)
        kept = np.isnan(values) == np.isnan(decoded)
        kept &= ~np.isinf(values) | (values == decoded)
        if not kept[irregular].all() or not np.isfinite(decoded[~irregular]).all():
            return MeasuredError(values.size, math.inf, 1.0, math.inf)
        values, errors = values[~irregular], errors[~irregular]
        largest = float(np.abs(errors).max(initial=0.0))
    return MeasuredError(values.size, _root_mean_square(errors), _root_mean_square(values), largest)


def _root_mean_square(numbers: npt.NDArray[np.float64]) -> float:
    if numbers.size == 0:
        return 0.0
    total_of_squares = float(np.einsum("i,i->", numbers, numbers))
    if _SQUARES_FIT[0] < total_of_squares < _SQUARES_FIT[1]:
        return math.sqrt(total_of_squares / numbers.size)
    largest = float(np.abs(numbers).max())
    if largest == 0:
        return 0.0
    scaled = numbers / largest
    return largest * math.sqrt(float(np.einsum("i,i->", scaled, scaled)) / numbers.size)
