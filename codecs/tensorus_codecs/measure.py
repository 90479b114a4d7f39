"""Measures how far decoded values are from the original ones. The error contract is checked against the result."""

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
"""Errors are summed in float64 over blocks that fit in the cache."""

_SQUARES_FIT = (1e-280, 1e300)
"""Range of sums of squares that float64 adds without underflow or overflow."""

_NARROW_FITS = (1e-12, 1e12)
"""Range of magnitudes whose squares, and the squares of numbers a million times smaller, are normal in float32."""

_ROW_VALUES = 256
"""Number of squares that are added in float32; the row sums are added in float64."""

_ROUNDING = 1 + 264 * 2.0**-24
"""Upper bound of the rounding error of a ratio of two root mean squares computed in float32, for any summation order in BLAS.

With u = 2**-24, the relative error of a difference is u, a square adds another u, and a sum of 256 squares adds 255 u.
A root halves the total, and the ratio has two roots."""


@dataclass(frozen=True)
class MeasuredError:
    """The error of some quantized values; `a + b` is the error of both sets together.

    It holds means instead of sums, because the mean of squares cannot overflow where the values do not.
    """

    count: int = 0
    """Number of finite values."""
    rms_error: float = 0.0
    """Root mean square of v - decoded over finite values."""
    rms_value: float = 0.0
    """Root mean square of v over finite values."""
    max_absolute_error: float = 0.0
    """Largest |v - decoded|; infinite if a finite value became NaN or infinite, or the reverse."""

    def __add__(self, other: MeasuredError) -> MeasuredError:
        """Return the error of both sets of values together."""
        # Weight each mean square by its share of the values; `hypot` adds the squares without overflow.
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
        """L2 norm of the error divided by the L2 norm of the values; infinite if only the latter is zero."""
        if self.rms_error == 0:
            return 0.0
        return self.rms_error / self.rms_value if self.rms_value > 0 else math.inf


def measure(values: Values, decoded: Values) -> MeasuredError:
    """Return the error of `decoded` relative to `values`, both of shape (n,) and the same real dtype.

    Dtypes of up to 32 bits are measured in float32 if their magnitudes allow it, which is four times as fast. The root
    mean square is then increased by 1.6e-5 of itself, so that no reported error is smaller than the true one.
    """
    # float32 represents every dtype of up to 32 bits exactly.
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
    """Measure in float32; None if the numbers are not finite, or too large or too small for that."""
    errors = decoded - values
    largest_error = max(float(errors.max()), -float(errors.min()))
    largest_value = max(float(values.max()), -float(values.min()))
    for largest in (largest_error, largest_value):
        # A comparison with NaN is false, so NaN leaves the fast path here, too.
        if not (largest == 0 or _NARROW_FITS[0] < largest < _NARROW_FITS[1]):
            return None
    return MeasuredError(
        values.size,
        _narrow_root_mean_square(errors) * _ROUNDING,
        _narrow_root_mean_square(values),
        _exact_largest(values, decoded, errors, largest_error),
    )


def _exact_largest(values: Values, decoded: Values, errors: Values, largest_error: float) -> float:
    """Return the largest error, exact in float64: recompute the differences whose float32 value is (nearly) `largest_error`."""
    # float32 rounds a difference by at most 2**-24 of itself, so the true maximum is among the candidates.
    nearly = np.float32(largest_error * (1 - 2.0**-22))
    candidates = np.flatnonzero((errors >= nearly) | (errors <= -nearly)) if largest_error else np.arange(1)
    exact = decoded[candidates].astype(np.float64) - values[candidates].astype(np.float64)
    return float(np.abs(exact).max())


def _narrow_root_mean_square(numbers: Values) -> float:
    total_of_squares = 0.0
    whole_rows = numbers.size - numbers.size % _ROW_VALUES
    for part in (numbers[:whole_rows].reshape(-1, 1, _ROW_VALUES), numbers[whole_rows:].reshape(1, 1, -1)):
        if part.size:
            # A row times a column per matrix product: BLAS does this twice as fast as `einsum`.
            total_of_squares += float(np.matmul(part, part.swapaxes(1, 2)).sum(dtype=np.float64))
    return math.sqrt(total_of_squares / numbers.size)


def _measure_block(values: Values, decoded: Values) -> MeasuredError:
    values, decoded = values.astype(np.float64), decoded.astype(np.float64)
    errors = decoded - values
    largest = float(np.abs(errors).max())
    if not math.isfinite(largest):
        # NaN and infinities are fine as long as they decode to themselves; then only finite values count.
        nonfinite = ~np.isfinite(values)
        kept = np.isnan(values) == np.isnan(decoded)
        kept &= ~np.isinf(values) | (values == decoded)
        if not kept[nonfinite].all() or not np.isfinite(decoded[~nonfinite]).all():
            return MeasuredError(values.size, math.inf, 1.0, math.inf)
        values, errors = values[~nonfinite], errors[~nonfinite]
        largest = float(np.abs(errors).max(initial=0.0))
    return MeasuredError(values.size, _root_mean_square(errors), _root_mean_square(values), largest)


def _root_mean_square(numbers: npt.NDArray[np.float64]) -> float:
    if numbers.size == 0:
        return 0.0
    total_of_squares = float(np.einsum("i,i->", numbers, numbers))
    # A NaN or infinite sum fails this comparison, too.
    if _SQUARES_FIT[0] < total_of_squares < _SQUARES_FIT[1]:
        return math.sqrt(total_of_squares / numbers.size)
    largest = float(np.abs(numbers).max())
    if largest == 0:
        return 0.0
    # The squares underflow or overflow: scale first. Slower, so only where needed.
    scaled = numbers / largest
    return largest * math.sqrt(float(np.einsum("i,i->", scaled, scaled)) / numbers.size)
