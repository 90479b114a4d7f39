"""Summaries against float64 and exact sums: every dtype, any magnitude, NaN and infinity, in parts and in one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contract.codec_quantizer_contract import component_dtype
from support.arrays import DTYPE_NAMES, random_bits
from support.cases import each
from tensorus_codecs.dtypes import DTYPES, DType, Kind, dtype_by_name, opaque_dtype
from tensorus_codecs.summary import PartialSummary, ValueSummary, summarize, summarize_rows

NUMERIC = [dtype.name for dtype in DTYPES if dtype.kind in {Kind.INTEGER, Kind.FLOAT}]
_SIX_DIGITS = 1e-5
"""The promise is "about six": float32 has 7.2, and sums of 4096 lose some of the last."""
_DEVIATION = 3e-5
"""A deviation is what two such sums leave."""


def partial(values: np.ndarray) -> PartialSummary:
    # As the pipeline does, with NumPy's warnings off.
    with np.errstate(all="ignore"):
        found = summarize(values, dtype_by_name(values.dtype.name))
    assert found is not None
    return found


def summary(values: np.ndarray) -> ValueSummary:
    return partial(values).finish()


def expected(values: np.ndarray) -> tuple[ValueSummary, float]:
    """Return the summary in float64 with exact sums, and the mean magnitude, which errors are relative to."""
    with np.errstate(all="ignore"):
        wide = values.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    counts = (int((wide == 0).sum()), int(np.isnan(wide).sum()), int(np.isinf(wide).sum()))
    if not finite.size:
        return ValueSummary(None, None, None, None, None, *counts), 0.0
    largest = max(float(np.abs(finite).max()), math.ulp(0.0))
    # Powers of two keep squares in range without rounding anything.
    scale = math.ldexp(1.0, min(max(math.frexp(largest)[1], -1000), 1000))
    scaled = finite / scale
    mean = math.fsum(scaled) / scaled.size
    found = ValueSummary(
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        mean=mean * scale,
        standard_deviation=math.sqrt(math.fsum((scaled - mean) ** 2) / scaled.size) * scale,
        l2_norm=math.sqrt(math.fsum(scaled**2)) * scale,
        zero_count=counts[0],
        nan_count=counts[1],
        infinity_count=counts[2],
    )
    return found, math.fsum(np.abs(scaled)) / scaled.size * scale


def assert_agrees(found: ValueSummary, values: np.ndarray, *, deviation_error: float = _DEVIATION) -> None:
    exact, magnitude = expected(values)
    assert (found.minimum, found.maximum) == (exact.minimum, exact.maximum)
    assert (found.zero_count, found.nan_count, found.infinity_count) == (
        exact.zero_count,
        exact.nan_count,
        exact.infinity_count,
    )
    if exact.mean is None:
        assert (found.mean, found.standard_deviation, found.l2_norm) == (None, None, None)
        return
    assert found.mean == pytest.approx(exact.mean, rel=0, abs=_SIX_DIGITS * magnitude)
    assert found.l2_norm == pytest.approx(exact.l2_norm, rel=_SIX_DIGITS, abs=0)
    assert found.standard_deviation == pytest.approx(exact.standard_deviation, rel=deviation_error, abs=0)


def normal(name: str, count: int, seed: int = 0) -> np.ndarray:
    """Return values around zero that the dtype holds, integers included."""
    values = np.random.default_rng(seed).standard_normal(count)
    dtype = component_dtype(name)
    if dtype.kind in "iu":
        values = np.abs(values) * 20
    return values.astype(dtype)


@each("name", NUMERIC)
class TestEveryNumericDType:
    """Against float64."""

    @each("count", [1, 2, 4095, 4096, 4097, 20_000])
    def test_ordinary_values(self, name: str, count: int) -> None:
        assert_agrees(summary(normal(name, count, seed=count)), normal(name, count, seed=count))

    def test_zeros(self, name: str) -> None:
        found = summary(np.zeros(5000, component_dtype(name)))
        assert found == ValueSummary(0.0, 0.0, 0.0, 0.0, 0.0, 5000, 0, 0)

    def test_a_constant_has_no_deviation(self, name: str) -> None:
        values = np.full(5000, 3, component_dtype(name))
        found = summary(values)
        assert (found.minimum, found.maximum, found.mean, found.standard_deviation) == (3.0, 3.0, 3.0, 0.0)
        assert found.l2_norm == pytest.approx(3 * math.sqrt(5000))

    def test_the_extremes_of_the_dtype(self, name: str) -> None:
        dtype = component_dtype(name)
        limits = [0, 2 ** (8 * dtype.itemsize) - 1] if dtype.kind == "u" else None
        limits = [-(2 ** (8 * dtype.itemsize - 1)), 2 ** (8 * dtype.itemsize - 1) - 1] if dtype.kind == "i" else limits
        values = random_bits(name, (5000,)) if limits is None else np.array(limits * 2500, dtype)
        with np.errstate(all="ignore"):
            wide = values.astype(np.float64)
            finite = wide[np.isfinite(wide)]
        found = summary(values)
        assert (found.minimum, found.maximum) == (float(finite.min()), float(finite.max()))
        if name != "float64":
            # Squares of float64 overflow, which has a test of its own.
            assert_agrees(found, values)

    def test_parts_add_up_to_the_whole(self, name: str) -> None:
        values = normal(name, 10_000)
        total = PartialSummary()
        for part in np.split(values, [1, 100, 5000, 5001]):
            total += partial(part)
        assert_agrees(total.finish(), values)


FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e5m2"]


@each("name", FLOATS)
class TestNanAndInfinity:
    """They are counted, and leave the rest alone."""

    def test_they_are_counted(self, name: str) -> None:
        values = normal(name, 9000)
        values[[0, 7, 4096, 8999]] = np.nan
        values[[1, 4097]] = np.inf
        values[2] = -np.inf
        values[[3, 4]] = [0.0, -0.0]
        found = summary(values)
        assert (found.nan_count, found.infinity_count) == (4, 3)
        assert_agrees(found, values)

    @each("special", [math.nan, math.inf, -math.inf])
    def test_one_alone_is_noticed(self, name: str, special: float) -> None:
        values = normal(name, 5000)
        values[4999] = special
        assert_agrees(summary(values), values)

    def test_nothing_else_leaves_no_statistics(self, name: str) -> None:
        values = np.array([np.nan, np.inf, -np.inf, np.nan, np.nan], component_dtype(name))
        assert summary(values) == ValueSummary(None, None, None, None, None, 0, 3, 2)

    def test_a_part_without_finite_values_adds_only_counts(self, name: str) -> None:
        values = normal(name, 100)
        total = partial(np.full(3, np.nan, values.dtype)) + partial(values) + partial(np.full(2, np.inf, values.dtype))
        assert_agrees(total.finish(), np.concatenate([values, np.array([np.nan] * 3 + [np.inf] * 2, values.dtype)]))


def test_the_nan_of_a_dtype_without_infinity_is_counted() -> None:
    values = np.frombuffer(bytes([0x7F, 0xFF, 0x38, 0x00]), component_dtype("float8_e4m3fn"))
    assert summary(values) == ValueSummary(0.0, 1.0, 0.5, 0.5, 1.0, 1, 2, 0)


class TestMagnitudes:
    """Values whose squares leave float32, and values that lie close together far from zero."""

    @each("scale", [1e-38, 1e-25, 1e-12, 1e-6, 1e6, 1e12, 1e18, 1e30, 1e37])
    def test_float32_of_any_magnitude(self, scale: float) -> None:
        values = (np.random.default_rng(0).standard_normal(9000) * scale).astype(np.float32)
        assert_agrees(summary(values), values)

    @each("scale", [1e-150, 1e-38, 1e38, 1e150])
    def test_float64_of_any_magnitude_whose_squares_it_holds(self, scale: float) -> None:
        values = np.random.default_rng(0).standard_normal(9000) * scale
        assert_agrees(summary(values), values)

    def test_small_values_beside_a_large_one(self) -> None:
        values = np.full(9000, 1e-4, np.float32)
        values[0] = 1e3
        assert_agrees(summary(values), values, deviation_error=1e-3)

    @each("name", ["float32", "float64", "int32", "int64", "uint16"])
    @each("offset", [100, 10_000])
    def test_values_far_from_zero_keep_their_deviation(self, name: str, offset: int) -> None:
        values = (offset + 3 * np.random.default_rng(0).standard_normal(9000)).astype(name)
        assert_agrees(summary(values), values, deviation_error=1e-4)

    @pytest.mark.parametrize("name", ["float32", "bfloat16", "int16"])
    def test_negative_values_far_from_zero_do_so_too(self, name: str) -> None:
        values = (-1000 + 8 * np.random.default_rng(0).standard_normal(9000)).astype(component_dtype(name))
        assert_agrees(summary(values), values, deviation_error=1e-4)

    @pytest.mark.slow
    @each("name", ["float32", "bfloat16", "float16", "uint16"])
    def test_the_largest_chunk_loses_no_more_digits_than_a_small_one(self, name: str) -> None:
        # All of one sign, so that a single sum in float32 would grow until it swallows what is added to it.
        dtype = component_dtype(name)
        values = (np.random.default_rng(0).random(2**21 // dtype.itemsize) * 100).astype(dtype)
        assert_agrees(summary(values), values)

    @pytest.mark.parametrize("offset", [0.1, 3.3333, 1000.3])
    def test_one_zero_among_equal_values_does_not_spoil_the_deviation(self, offset: float) -> None:
        values = np.full(2**19, offset, np.float32)
        values[5] = 0
        assert_agrees(summary(values), values, deviation_error=0.01)

    def test_moments_that_float64_cannot_hold_are_missing(self) -> None:
        found = summary(np.array([1e300, -1e300, 2e300]))
        assert (found.minimum, found.maximum) == (-1e300, 2e300)
        assert found.mean == pytest.approx(2e300 / 3)
        assert (found.standard_deviation, found.l2_norm) == (None, None)

    def test_a_sum_that_float64_cannot_hold_is_missing(self) -> None:
        found = summary(np.full(100, 1.7e308))
        assert (found.minimum, found.maximum) == (1.7e308, 1.7e308)
        assert (found.mean, found.standard_deviation, found.l2_norm) == (None, None, None)


@pytest.mark.parametrize("name", [name for name in DTYPE_NAMES if name not in NUMERIC])
def test_other_dtypes_have_no_summary(name: str) -> None:
    dtype = dtype_by_name(name)
    assert summarize(np.zeros(5, dtype.component), dtype) is None


def test_opaque_dtypes_have_no_summary() -> None:
    dtype = opaque_dtype(99, 32)
    assert summarize(np.zeros(5, dtype.component), dtype) is None


class TestRows:
    """Many short chunks at a time: each has the summary that it has alone, to the bit."""

    @staticmethod
    def assert_as_alone(rows: np.ndarray, dtype: DType) -> None:
        with np.errstate(all="ignore"):
            # By their text: NaN is not equal to itself, and -0.0 is to 0.0.
            assert list(map(repr, summarize_rows(rows, dtype))) == [repr(summarize(row, dtype)) for row in rows]

    @each("name", DTYPE_NAMES)
    @each("length", [1, 2, 7, 333, 1024, 1025])
    def test_of_random_bits(self, name: str, length: int) -> None:
        dtype = dtype_by_name(name)
        bits = random_bits("uint8", (9 * length * dtype.component.itemsize,))
        self.assert_as_alone(bits.view(dtype.component).reshape(9, length), dtype)

    @each("name", NUMERIC)
    def test_of_every_magnitude(self, name: str) -> None:
        dtype = dtype_by_name(name)
        values = np.random.default_rng(0).standard_normal((40, 100)) * 10.0 ** np.arange(-20, 20)[:, None]
        with np.errstate(all="ignore"):
            self.assert_as_alone(values.astype(dtype.component), dtype)

    def test_of_what_sums_hide(self) -> None:
        rows = np.array(
            [[0.0, -0.0], [-0.0, -0.0], [np.nan, 1.0], [np.inf, 1.0], [-np.inf, np.inf], [1e4, 1e4 + 1]], np.float32
        )
        self.assert_as_alone(rows, dtype_by_name("float32"))

    def test_of_no_rows(self) -> None:
        assert summarize_rows(np.zeros((0, 5), np.float32), dtype_by_name("float32")) == []


class TestPartial:
    """Sums over some values."""

    def test_nothing_adds_nothing(self) -> None:
        values = partial(normal("float32", 100))
        assert PartialSummary() + values == values
        assert values + PartialSummary() == values
        assert PartialSummary().finish() == ValueSummary(None, None, None, None, None, 0, 0, 0)

    def test_its_fields_are_sums_and_extremes(self) -> None:
        found = partial(np.array([1.0, -2.0, 0.0, np.nan, np.inf, -np.inf, -0.0], np.float32))
        assert found == PartialSummary(4, -2.0, 1.0, -1.0, 5.0, 2, 1, 2)

    def test_adding_is_by_field(self) -> None:
        first, second = (
            PartialSummary(1, -1.0, 2.0, 3.0, 4.0, 5, 6, 7),
            PartialSummary(10, -5.0, 1.0, 30.0, 40.0, 50, 60, 70),
        )
        assert first + second == PartialSummary(11, -5.0, 2.0, 33.0, 44.0, 55, 66, 77)

    def test_finishing_divides_by_the_finite_values(self) -> None:
        found = PartialSummary(4, -1.0, 3.0, 4.0, 20.0, 1, 2, 3).finish()
        assert found == ValueSummary(-1.0, 3.0, 1.0, 2.0, math.sqrt(20.0), 1, 2, 3)

    def test_a_variance_that_rounding_made_negative_is_zero(self) -> None:
        assert PartialSummary(2, 1.0, 1.0, 2.0, 2.0 - 1e-9).finish().standard_deviation == 0.0
