"""The error contract: what a quantizer did is measured, and a chunk that breaks the contract stays lossless and says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from contract.codec_chunks import encode, encoding_of, stored_values
from contract.codec_quantizer_contract import component_dtype
from support.arrays import normal
from support.cases import each
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.measure import MeasuredError, _measure_block, measure
from tensorus_codecs.pipeline import EncodedChunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.presets import PRESETS
from tensorus_codecs.quantizers.fp16 import Fp16

INT8 = encoding_of("int8_block")
FP16 = encoding_of("fp16")
LOSSY = {
    "balanced": StoragePolicy(preset="balanced"),
    "maximum": StoragePolicy(preset="maximum"),
    "fp16_only": StoragePolicy(preset="fp16_only"),
    "int8_only": StoragePolicy(preset="int8_only"),
    "int8 in blocks of 256, gzip": StoragePolicy(
        encoding=encoding_of({"id": "int8_block", "configuration": {"block_size": 256}}, "gzip")
    ),
}
_BLOCK_VALUES = 32768
"""What is measured at a time in float64."""
NARROW = 3.2e-5
"""How much larger an error that is measured in float32 may be reported: twice what it is rounded up by."""


def components(values: np.ndarray) -> np.ndarray:
    """Return the real numbers of `values` as float64."""
    return values.view(dtype_by_name(values.dtype.name).component).astype(np.float64)


def measured_by_hand(values: np.ndarray, stored: np.ndarray) -> tuple[float, float, float]:
    """Return root mean squares of the errors and the values, and the largest error; of finite values, summed exactly."""
    sent, found = components(values), components(stored)
    finite = np.isfinite(sent)
    errors = found[finite] - sent[finite]
    count = errors.size
    rms_error, rms_value = math.sqrt(math.fsum(errors**2) / count), math.sqrt(math.fsum(sent[finite] ** 2) / count)
    return rms_error, rms_value, float(np.abs(errors).max())


def error_of(chunk: EncodedChunk) -> MeasuredError:
    assert chunk.error is not None
    return chunk.error


def tolerance_of(name: str) -> float:
    return NARROW if dtype_by_name(name).component.itemsize <= 4 else 1e-12


class TestMeasurement:
    """The errors that come with a chunk are those that a reader will find."""

    @each("policy", LOSSY.values(), ids=LOSSY)
    @each("name", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
    @each("count", [1000, _BLOCK_VALUES, 100_001])
    def test_they_are_those_computed_by_hand(self, policy: StoragePolicy, name: str, count: int) -> None:
        values = normal((count,), name)
        chunk = encode(values, policy)
        if plan(policy, dtype_by_name(name)).lossy is None:
            assert chunk.error is None
            return
        rms_error, rms_value, largest = measured_by_hand(values, stored_values(chunk, values))
        found, tolerance = error_of(chunk), tolerance_of(name)
        assert found.rms_value == pytest.approx(rms_value, rel=tolerance)
        assert found.rms_error == pytest.approx(rms_error, rel=tolerance)
        assert found.max_absolute_error == largest
        relative_error = rms_error / rms_value
        assert relative_error * (1 - 1e-12) <= found.relative_error <= relative_error * (1 + tolerance)

    @each("preset", ["fp16_only", "int8_only"])
    @each("name", ["float32", "float64", "complex64"])
    def test_values_that_are_not_finite_count_for_nothing(self, preset: str, name: str) -> None:
        values = normal((50_000,), name)
        expected = error_of(encode(np.where(np.arange(50_000) % 500 == 0, 0, values).astype(name), preset))
        values[::500] = np.array([np.nan, np.inf, -np.inf, np.nan] * 25, name)
        found = error_of(encode(values, preset))
        assert found.relative_error == pytest.approx(expected.relative_error, rel=tolerance_of(name))
        assert found.max_absolute_error == expected.max_absolute_error

    def test_nothing_but_infinities_has_no_error(self) -> None:
        values = np.full(1000, np.inf, np.float32)
        assert error_of(encode(values, FP16)) == MeasuredError()

    def test_the_largest_error_is_found_in_the_last_block(self) -> None:
        values = np.zeros(_BLOCK_VALUES + 64, np.float32)
        values[-2:] = [100, 1.7]
        chunk = encode(values, "int8_only")
        errors = np.abs(stored_values(chunk, values)[-2:].astype(float) - values[-2:])
        assert error_of(chunk).max_absolute_error == errors.max() > 0

    def test_an_exact_chunk_has_no_error(self) -> None:
        assert error_of(encode(np.ones(1000, np.float32), FP16)) == MeasuredError(1000, 0.0, 1.0, 0.0)
        assert error_of(encode(np.ones(1000, np.float32), FP16)).relative_error == 0

    @each("preset", ["balanced", "maximum", "int8_only"])
    @each("scale", [1e-300, 1e-200, 1e-170, 1e160, 1e200, 1e300])
    def test_an_error_is_not_lost_where_its_square_leaves_float64(self, preset: str, scale: float) -> None:
        values = np.random.default_rng(0).standard_normal(5000) * scale
        chunk = encode(values, preset)
        errors = (stored_values(chunk, values) - values) / scale
        relative_error = math.sqrt(math.fsum(errors**2) / math.fsum((values / scale) ** 2))
        measured = 0.0 if chunk.error is None else chunk.error.relative_error
        assert measured == pytest.approx(relative_error, rel=1e-6)


class TestMeans:
    """`MeasuredError`: over some values, and over all."""

    def test_adding_weighs_by_count_and_keeps_the_largest(self) -> None:
        both = MeasuredError(1, 1.0, 2.0, 3.0) + MeasuredError(3, 5.0, 4.0, 0.5)
        expected = (math.sqrt((1 + 3 * 25) / 4), math.sqrt((4 + 3 * 16) / 4))
        assert (both.rms_error, both.rms_value) == pytest.approx(expected, rel=1e-15)
        assert (both.count, both.max_absolute_error) == (4, 3.0)

    def test_nothing_adds_nothing(self) -> None:
        some = MeasuredError(10, 1.0, 2.0, 3.0)
        assert MeasuredError() + some == some == some + MeasuredError()
        assert MeasuredError() + MeasuredError() == MeasuredError()

    @each(
        ("measured", "expected"),
        [
            (MeasuredError(1, 0.0, 0.0, 0.0), 0.0),
            (MeasuredError(1, 0.0, 5.0, 0.0), 0.0),
            (MeasuredError(1, 2.0, 4.0, 1.0), 0.5),
            (MeasuredError(1, 1.0, 0.0, 1.0), math.inf),
            (MeasuredError(1, math.inf, 1.0, math.inf), math.inf),
        ],
    )
    def test_the_relative_error_is_that_of_the_norms(self, measured: MeasuredError, expected: float) -> None:
        assert measured.relative_error == expected


@each("encoding", [INT8, FP16], ids=["int8_block", "fp16"])
@each(("bound", "measure"), [("max_relative_error", "relative_error"), ("max_absolute_error", "max_absolute_error")])
class TestContract:
    """A chunk keeps the contract, in the coarsest encoding that does."""

    def test_an_error_of_exactly_the_bound_is_allowed(self, encoding: Encoding, bound: str, measure: str) -> None:
        values = normal((5000,))
        measured = getattr(error_of(encode(values, encoding)), measure)
        assert measured > 0
        chunk = encode(values, encoding, **{bound: measured})
        assert chunk.encoding == encoding
        assert chunk.fallback_reason == ""

    def test_an_error_just_above_it_is_not(self, encoding: Encoding, bound: str, measure: str) -> None:
        values = normal((5000,))
        measured = getattr(error_of(encode(values, encoding)), measure)
        chunk = encode(values, encoding, **{bound: math.nextafter(measured, 0)})
        assert chunk.encoding.quantizer != encoding.quantizer
        assert chunk.error is None or getattr(chunk.error, measure) < measured

    def test_a_bound_of_zero_takes_only_what_is_exact(self, encoding: Encoding, bound: str, measure: str) -> None:
        exact, inexact = np.full(1000, 127, np.float32), normal((1000,))
        assert encode(exact, encoding, **{bound: 0.0}).encoding == encoding
        assert encode(inexact, encoding, **{bound: 0.0}).encoding.quantizer is None


class TestFallback:
    """Why a chunk is lossless although it should not be."""

    def test_the_reason_names_the_error_the_quantizer_and_the_bound(self) -> None:
        values = normal((5000,))
        chunk = encode(values, INT8, max_relative_error=1e-6)
        measured = error_of(encode(values, INT8)).relative_error
        assert chunk.fallback_reason == (
            f"relative error of int8_block would be {measured:.3g}, the policy allows 1e-06"
        )
        assert (chunk.error, chunk.decoded) == (None, None)

    def test_maximum_promises_one_percent(self) -> None:
        # One large value in each block of 128 makes the scale too coarse for all others.
        values = normal((5120,), scale=0.03)
        values[::128] = 1.0
        tried_first = encoding_of({"id": "int8_block", "configuration": {"block_size": 128, "code_max": 96}})
        assert error_of(encode(values, tried_first)).relative_error > 0.01
        chunk = encode(values, "maximum")
        assert 0 < error_of(chunk).relative_error <= 0.01
        assert chunk.fallback_reason == ""

    @each("encoding", [INT8, FP16], ids=["int8_block", "fp16"])
    @each("scale", [1e-300, 1e-200, 1e-170, 1e-100, 1e100, 1e170, 1e200, 1e300])
    def test_a_bound_holds_for_any_magnitude(self, encoding: Encoding, scale: float) -> None:
        values = np.random.default_rng(0).standard_normal(5000) * scale
        for bound in (1e-2, 1e-5):
            stored = stored_values(encode(values, encoding, max_relative_error=bound), values)
            errors = (stored - values) / scale
            assert math.sqrt(math.fsum(errors**2) / math.fsum((values / scale) ** 2)) <= bound

    @pytest.mark.parametrize("preset", ["maximum", "int8_only"])
    def test_too_many_exceptions_are_a_reason(self, preset: str) -> None:
        values = normal((1000,))
        values[:11] = np.nan
        chunk = encode(values, preset)
        assert chunk.encoding.quantizer is None
        assert chunk.fallback_reason == (
            "11 of 1000 values are exceptions (NaN, infinite or too large) to int8_block, the limit is 1%"
        )
        assert stored_values(chunk, values).tobytes() == values.tobytes()

    @each("preset", [name for name, preset in PRESETS.items() if preset.lossy and not preset.targets_contract])
    def test_the_chunk_is_then_stored_as_the_plan_says(self, preset: str) -> None:
        values = normal((20_000,))
        chunk = encode(values, preset, max_absolute_error=0.0)
        candidates = plan(StoragePolicy(preset=preset), dtype_by_name("float32")).lossless
        assert chunk.encoding in [candidate.encoding for candidate in candidates]
        assert chunk.fallback_reason.startswith("absolute error of ")

    def test_one_chunk_that_breaks_it_leaves_the_next_alone(self) -> None:
        good, bad = normal((1000,)), normal((1000,), scale=2.0)
        assert encode(bad, INT8, max_absolute_error=1e-3).encoding.quantizer is None
        assert encode(good, INT8, max_absolute_error=1e-3).encoding.quantizer is not None

    def test_a_contract_on_lossless_data_asks_nothing(self) -> None:
        chunk = encode(normal((1000,)), "lossless", max_relative_error=0.0, max_absolute_error=0.0)
        assert (chunk.fallback_reason, chunk.error) == ("", None)

    @pytest.mark.parametrize("name", ["float16", "bfloat16", "complex128"])
    def test_other_dtypes_keep_it_too(self, name: str) -> None:
        values = normal((1000,), name)
        chunk = encode(values, "maximum", max_absolute_error=1e-9)
        assert np.abs(stored_values(chunk, values) - values).max() <= 1e-9
        assert (chunk.encoding.quantizer is None) == (name != "complex128")

    def test_the_absolute_error_of_a_complex_element_is_that_of_its_parts(self) -> None:
        values = (normal((5000,), seed=1) + 1j * normal((5000,), seed=2)).astype(np.complex64)
        chunk = encode(values, INT8)
        errors = np.abs(stored_values(chunk, values).view(np.float32).astype(float) - values.view(np.float32))
        assert error_of(chunk).max_absolute_error == errors.max()


class LosesNan(Fp16):
    """A quantizer with a mistake: NaN becomes zero."""

    @classmethod
    def decode(cls, codes, parameters, component, count):
        return np.nan_to_num(
            super().decode(codes, parameters, component, count), nan=0.0, posinf=np.inf, neginf=-np.inf
        )


class FlipsInfinity(Fp16):
    """A quantizer with a mistake: infinities change their sign."""

    @classmethod
    def decode(cls, codes, parameters, component, count):
        decoded = super().decode(codes, parameters, component, count)
        return np.where(np.isinf(decoded), -decoded, decoded)


class Overflows(Fp16):
    """A quantizer with a mistake: large values become infinite."""

    @classmethod
    def decode(cls, codes, parameters, component, count):
        decoded = super().decode(codes, parameters, component, count)
        return np.where(decoded > 1, np.inf, decoded).astype(component)


class InventsNan(Fp16):
    """A quantizer with a mistake: zeros become NaN."""

    @classmethod
    def decode(cls, codes, parameters, component, count):
        decoded = super().decode(codes, parameters, component, count)
        return np.where(decoded == 0, np.nan, decoded).astype(component)


MISTAKES = {
    "NaN becomes zero": (LosesNan(), [0.5, math.nan, 0.25]),
    "infinity changes its sign": (FlipsInfinity(), [0.5, math.inf, 0.25]),
    "a value becomes infinite": (Overflows(), [0.5, 2.0, 0.25]),
    "a value becomes infinite beside infinity": (Overflows(), [0.5, 2.0, math.inf]),
    "a value becomes NaN": (InventsNan(), [0.5, 0.0, 0.25]),
    "a value becomes NaN beside NaN": (InventsNan(), [0.5, 0.0, math.nan]),
}


@each(("quantizer", "values"), MISTAKES.values(), ids=MISTAKES)
def test_what_is_no_number_must_stay_what_it_is_under_any_contract(quantizer: Fp16, values: list[float]) -> None:
    sent = np.array(values * 100, np.float32)
    for bound in ("max_relative_error", "max_absolute_error"):
        chunk = encode(sent, Encoding(quantizer, None, None), **{bound: 1e300})
        assert chunk.encoding.quantizer is None
        assert "error of fp16 would be inf, the policy allows 1e+300" in chunk.fallback_reason


@each("policy", [StoragePolicy(encoding=FP16), StoragePolicy(preset="balanced")], ids=["explicit", "preset"])
@each("name", ["float32", "float64"])
def test_the_largest_values_of_a_dtype_stay_finite(policy: StoragePolicy, name: str) -> None:
    values = np.full(1000, np.finfo(name).max)
    chunk = encode(values, policy)
    assert np.isfinite(stored_values(chunk, values)).all()


def test_measuring_in_blocks_equals_measuring_at_once() -> None:
    values, decoded = normal((100_001,), "float64"), normal((100_001,), "float64", seed=1)
    at_once = _measure_block(values, decoded)
    in_blocks = measure(values, decoded)
    assert in_blocks.max_absolute_error == at_once.max_absolute_error
    assert in_blocks.rms_error == pytest.approx(at_once.rms_error, rel=1e-12)
    assert in_blocks.rms_value == pytest.approx(at_once.rms_value, rel=1e-12)


@given(
    values=arrays(np.float32, st.integers(1, 600), elements=st.floats(width=32)),
    other=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1e-30, 1e-7, 1e-3, 1.0, 1e3]),
)
def test_the_fast_way_equals_the_exact_one_and_is_never_smaller(values: np.ndarray, other: int, scale: float) -> None:
    noise = np.random.default_rng(other).standard_normal(values.size)
    with np.errstate(all="ignore"):
        decoded = (values * (1 + scale * noise)).astype(np.float32)
        fast, exact = measure(values, decoded), _measure_block(values, decoded)
    assert (fast.count, fast.max_absolute_error) == (exact.count, exact.max_absolute_error)
    assert exact.relative_error * (1 - 1e-12) <= fast.relative_error <= exact.relative_error * (1 + NARROW)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_narrow_floats_are_measured_in_float64(name: str) -> None:
    # Squares of these would overflow float16, and the sum would lose most of them in bfloat16.
    values = np.full(10_000, 300.5, component_dtype(name))
    found = error_of(encode(values, INT8))
    assert found.rms_value == pytest.approx(float(values[0]))
