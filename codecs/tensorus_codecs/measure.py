"""How far decoded values are from what they were: what the error contract is about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.exact_float32 import exact_float32

if TYPE_CHECKING:
    import numpy.typing as npt

    from tensorus_codecs.abc import Values

__all__ = ["MeasuredError", "measure"]

_BLOCK_VALUES = 32768
"""Errors are summed in float64 over blocks that stay in the cache."""

_SQUARES_FIT = (1e-280, 1e300)
"""Sums of squares to which nothing was lost below float64's normal numbers, nor above its largest."""

_NARROW_FITS = (1e-12, 1e12)
"""Magnitudes whose squares, and those of numbers a million times smaller, are normal in float32."""

_ROW_VALUES = 256
"""Squares that are added up in float32 before float64 takes over."""

_ROUNDING = 1 + 264 * 2.0**-24
"""What a ratio of two roots of means of squares may lack when it is computed in float32, whatever order BLAS adds in.

With u = 2**-24: a difference is off by u of itself, a square by one more, a sum of 256 squares by 255; a root halves all that,
and there are two of them."""


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
    """Return what became of `values`, shape (n,), as `decoded`, both of the same real dtype.

    Dtypes of up to 32 bits are measured in float32, four times as fast, where magnitudes allow it; the root of the
    mean of squares is then rounded up by 1.6e-5 of itself, so that no error is reported smaller than it is.
    """
    if values.dtype.itemsize <= 4:
        narrow = _measure_narrow(exact_float32(values), exact_float32(decoded))
        if narrow is not None:
            return narrow
    measured = MeasuredError()
    for start in range(0, values.size, _BLOCK_VALUES):
        block = slice(start, start + _BLOCK_VALUES)
        measured += _measure_block(values[block], decoded[block])
    return measured


def _measure_narrow(values: Values, decoded: Values) -> MeasuredError | None:
    """Measure in float32; None where the numbers are not finite, or too large or too small for that."""
    errors = decoded - values
    largest_error = max(float(errors.max()), -float(errors.min()))
    largest_value = max(float(values.max()), -float(values.min()))
    for largest in (largest_error, largest_value):
        # NaN fits nowhere.
        if not (largest == 0 or _NARROW_FITS[0] < largest < _NARROW_FITS[1]):
            return None
    return MeasuredError(
        values.size,
        _narrow_root_mean_square(errors) * _ROUNDING,
        _narrow_root_mean_square(values),
        _exact_largest(values, decoded, errors, largest_error),
    )


def _exact_largest(values: Values, decoded: Values, errors: Values, largest_error: float) -> float:
    """Return the largest error as float64 has it: that of a difference that float32 rounded to `largest_error`, or nearly."""
    nearly = np.float32(largest_error * (1 - 2.0**-22))
    candidates = np.flatnonzero((errors >= nearly) | (errors <= -nearly)) if largest_error else np.arange(1)
    exact = decoded[candidates].astype(np.float64) - values[candidates].astype(np.float64)
    return float(np.abs(exact).max())


def _narrow_root_mean_square(numbers: Values) -> float:
    total_of_squares = 0.0
    whole_rows = numbers.size - numbers.size % _ROW_VALUES
    for part in (numbers[:whole_rows].reshape(-1, 1, _ROW_VALUES), numbers[whole_rows:].reshape(1, 1, -1)):
        if part.size:
            # As a product of matrices of one row and one column, which BLAS does twice as fast as `einsum`.
            total_of_squares += float(np.matmul(part, part.swapaxes(1, 2)).sum(dtype=np.float64))
    return math.sqrt(total_of_squares / numbers.size)


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
