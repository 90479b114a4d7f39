"""Summarizes a tensor's values: extremes, moments, and counts of zeros, NaN and infinities.

Each chunk yields a partial summary; their sum becomes the tensor's summary. Sums are accurate to about six digits: this runs
over every stored value, so it must be cheap.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ml_dtypes  # noqa: F401 - registers its dtypes with NumPy
import numpy as np

from tensorus_codecs.dtypes import Kind
from tensorus_codecs.exact_float32 import exact_float32
from tensorus_codecs.plain_dataclass import plain_dataclass

if TYPE_CHECKING:
    from tensorus_codecs.abc import Values
    from tensorus_codecs.dtypes import DType

__all__ = ["PartialSummary", "ValueSummary", "summarize", "summarize_rows"]

_ROW_VALUES = 1024
"""Values that are added in their own precision; the row sums are added in float64. Small enough to keep BLAS on one thread."""

_ONES = {dtype: np.ones((_ROW_VALUES, 1), dtype) for dtype in (np.dtype(np.float32), np.dtype(np.float64))}

_SQUARES_FIT = (1e-12, 1e12)
"""Range of magnitudes whose squares, and the squares of values a million times smaller, float32 can represent."""

_CANCELLATION_MAX = 30
"""Limit of the mean of squares divided by the variance. Above it, float32 sums leave too few digits for the deviation."""


@plain_dataclass
class ValueSummary:
    """The summary in `Tensor.values` of the wire contract. The first five fields cover finite values."""

    minimum: float | None
    """None if no value is finite."""
    maximum: float | None
    """None if no value is finite."""
    mean: float | None
    """None if no value is finite."""
    standard_deviation: float | None
    """Population standard deviation; None if no value is finite or float64 overflows."""
    l2_norm: float | None
    """None if no value is finite or float64 overflows."""
    zero_count: int
    """Values equal to zero, -0.0 included."""
    nan_count: int
    """NaN values."""
    infinity_count: int
    """Infinite values of either sign."""


@plain_dataclass
class PartialSummary:
    """Sums over some of a tensor's values; `a + b` covers both sets of values."""

    finite_count: int = 0
    minimum: float = math.inf
    maximum: float = -math.inf
    total: float = 0.0
    total_of_squares: float = 0.0
    zero_count: int = 0
    nan_count: int = 0
    infinity_count: int = 0

    def __add__(self, other: PartialSummary) -> PartialSummary:
        """Return the sums over both sets of values."""
        return PartialSummary(
            finite_count=self.finite_count + other.finite_count,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            total=self.total + other.total,
            total_of_squares=self.total_of_squares + other.total_of_squares,
            zero_count=self.zero_count + other.zero_count,
            nan_count=self.nan_count + other.nan_count,
            infinity_count=self.infinity_count + other.infinity_count,
        )

    def finish(self) -> ValueSummary:
        """Return the summary of all values added so far."""
        if self.finite_count == 0:
            return ValueSummary(None, None, None, None, None, self.zero_count, self.nan_count, self.infinity_count)
        mean = self.total / self.finite_count
        mean_of_squares = self.total_of_squares / self.finite_count
        moments_fit = math.isfinite(mean_of_squares) and math.isfinite(mean * mean)
        return ValueSummary(
            minimum=self.minimum,
            maximum=self.maximum,
            mean=mean if math.isfinite(mean) else None,
            # Rounding may make the variance of a constant tensor slightly negative.
            standard_deviation=math.sqrt(max(mean_of_squares - mean * mean, 0.0)) if moments_fit else None,
            l2_norm=math.sqrt(self.total_of_squares) if math.isfinite(self.total_of_squares) else None,
            zero_count=self.zero_count,
            nan_count=self.nan_count,
            infinity_count=self.infinity_count,
        )


def summarize(values: Values, dtype: DType) -> PartialSummary | None:
    """Return the partial summary of one chunk's components, or None for bool, complex and opaque dtypes.

    Args:
        values: shape (n,), n >= 1, of `dtype.component`.
    """
    if dtype.kind not in {Kind.INTEGER, Kind.FLOAT}:
        return None
    narrow = _is_narrow(dtype)
    numbers = exact_float32(values) if narrow else values.astype(np.float64, copy=False)
    minimum, maximum = float(np.minimum.reduce(numbers)), float(np.maximum.reduce(numbers))
    nan_count = infinity_count = 0
    if not (math.isfinite(minimum) and math.isfinite(maximum)):
        nan_count = int(np.count_nonzero(np.isnan(numbers)))
        infinity_count = int(np.count_nonzero(np.isinf(numbers)))
        numbers = numbers[np.isfinite(numbers)]
        if numbers.size == 0:
            return PartialSummary(nan_count=nan_count, infinity_count=infinity_count)
        minimum, maximum = float(numbers.min()), float(numbers.max())
    # Sum in float32 first, and repeat in float64 only if that lost too many digits.
    largest = max(abs(minimum), abs(maximum))
    total, total_of_squares = _sums(numbers)
    if narrow and not _sums_fit(numbers.size, largest, total, total_of_squares):
        total, total_of_squares = _sums(numbers.astype(np.float64))
    return PartialSummary(
        finite_count=numbers.size,
        minimum=minimum,
        maximum=maximum,
        total=total,
        total_of_squares=total_of_squares,
        # Counting the comparison's result takes a quarter of the time of counting the numbers.
        zero_count=numbers.size - int(np.count_nonzero(numbers != 0)),
        nan_count=nan_count,
        infinity_count=infinity_count,
    )


def summarize_rows(rows: Values, dtype: DType) -> list[PartialSummary | None]:
    """Return `summarize` of each row, bit for bit; much faster for many short rows.

    Args:
        rows: shape (m, n), n >= 1, of `dtype.component`.
    """
    if dtype.kind not in {Kind.INTEGER, Kind.FLOAT} or rows.shape[1] > _ROW_VALUES:
        return [summarize(row, dtype) for row in rows]
    narrow = _is_narrow(dtype)
    # `Any`: NumPy's stubs have no sum over a union of dtypes.
    numbers: Any = rows.astype(np.float32 if narrow else np.float64, copy=False)
    summaries: list[PartialSummary | None] = []
    for row, minimum, maximum, total, total_of_squares, nonzero_count in zip(
        rows,
        np.minimum.reduce(numbers, axis=1).tolist(),
        np.maximum.reduce(numbers, axis=1).tolist(),
        np.add.reduce(numbers, axis=1).tolist(),
        np.einsum("ij,ij->i", numbers, numbers).tolist(),
        np.add.reduce((numbers != 0).view(np.uint8), axis=1, dtype=np.int32).tolist(),
        strict=True,
    ):
        largest = max(abs(minimum), abs(maximum))
        # Rows with NaN, infinities or inaccurate sums are rare: summarize them one by one.
        if not math.isfinite(largest) or (narrow and not _sums_fit(row.size, largest, total, total_of_squares)):
            summaries.append(summarize(row, dtype))
            continue
        zero_count = row.size - nonzero_count
        # Adding 0.0 turns -0.0 into 0.0, as in `_sums`.
        summaries.append(PartialSummary(row.size, minimum, maximum, 0.0 + total, total_of_squares, zero_count))
    return summaries


def _is_narrow(dtype: DType) -> bool:
    """Whether float32, twice as fast as float64, is exact: for integers of up to 16 bits and floats of up to 32."""
    return dtype.element_bytes <= 2 or dtype.name == "float32"


def _sums_fit(count: int, largest: float, total: float, total_of_squares: float) -> bool:
    """Whether float32 sums over values of magnitude up to `largest` are accurate enough."""
    if not largest:
        return True
    return _SQUARES_FIT[0] < largest < _SQUARES_FIT[1] and _keeps_deviation(count, total, total_of_squares)


def _keeps_deviation(count: int, total: float, total_of_squares: float) -> bool:
    """Whether the variance, computed as a difference of these sums, still has about six digits."""
    mean_of_squares = total_of_squares / count
    variance = mean_of_squares - (total / count) ** 2
    return mean_of_squares <= _CANCELLATION_MAX * variance


def _sums(numbers: Values) -> tuple[float, float]:
    """Return the sum and the sum of squares: per row in the values' own precision, over all rows in float64.

    Each is a matrix product of a row and a column, which BLAS computes in less than half the time of `sum` and `einsum`.
    """
    if numbers.size <= _ROW_VALUES:
        # For a single row, setting up the matrix product takes longer than the product.
        return 0.0 + float(np.add.reduce(numbers)), float(np.einsum("i,i->", numbers, numbers))
    whole_rows = numbers.size - numbers.size % _ROW_VALUES
    total = total_of_squares = 0.0
    for part in (numbers[:whole_rows].reshape(-1, 1, _ROW_VALUES), numbers[whole_rows:].reshape(1, 1, -1)):
        if part.size:
            total += float(np.matmul(part, _ONES[part.dtype][: part.shape[2]]).sum(dtype=np.float64))
            total_of_squares += float(np.matmul(part, part.swapaxes(1, 2)).sum(dtype=np.float64))
    return total, total_of_squares
