"""The bf16 quantizer: the contract, the bound and the special values that its docstring promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_quantizer_contract import QuantizerContract, dequantize, quantize
from contract.codec_values import any_values, finite_values, nan_bits
from support.cases import each
from tensorus_codecs.errors import TooManyExceptionsError
from tensorus_codecs.quantizers.bf16 import Bf16

COMPONENTS = ("float32", "float64")
LARGEST = float(np.finfo(np.float32).max)


def round_trip(values: np.ndarray) -> np.ndarray:
    return dequantize(Bf16, quantize(Bf16(), values), values.dtype)


def bf16_bound(values: np.ndarray) -> np.ndarray:
    """Return the docstring's bound."""
    magnitudes = np.abs(values.astype(np.float64))
    relative = 2.0**-8 if values.dtype == np.float32 else 2.0**-8 + 2.0**-24
    return np.where(magnitudes >= 2.0**-126, relative * magnitudes, 2.0**-134)


class TestBf16(QuantizerContract):
    codec_type = Bf16
    id = "bf16"
    number = 3
    dtypes = ("float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    def error_bound(self, codec, values, quantized):
        return bf16_bound(values)


@each("component", COMPONENTS)
class TestBound:
    """How far a decoded value may be."""

    @given(data=st.data())
    def test_no_finite_value_breaks_it(self, component: str, data: st.DataObject) -> None:
        values = data.draw(finite_values(component, LARGEST))
        errors = np.abs(round_trip(values).astype(np.float64) - values.astype(np.float64))
        assert (errors <= bf16_bound(values)).all()

    def test_the_largest_values_stay_finite(self, component: str) -> None:
        values = np.array([LARGEST, -LARGEST, 3.3961776e38], component)
        errors = np.abs(round_trip(values).astype(np.float64) - values)
        assert (errors <= bf16_bound(values)).all()

    def test_ties_go_to_even(self, component: str) -> None:
        # One unit in the last place of 1.0 is 2**-7 in bfloat16: these lie half way.
        values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8], component)
        assert round_trip(values).tolist() == [1.0, 1 + 2**-6, -1.0]

    def test_values_of_eight_bits_are_exact(self, component: str) -> None:
        values = np.array([math.ldexp(255.0, exponent) for exponent in range(-133, 120)], component)
        assert round_trip(values).tobytes() == values.tobytes()


@given(values=any_values("float32"))
def test_values_beside_nan_and_infinity_keep_the_bound(values: np.ndarray) -> None:
    decoded, finite = round_trip(values), np.isfinite(values)
    assert (np.isnan(decoded) == np.isnan(values)).all()
    assert (decoded[np.isinf(values)] == values[np.isinf(values)]).all()
    errors = np.abs(decoded[finite].astype(np.float64) - values[finite].astype(np.float64))
    assert (errors <= bf16_bound(values[finite])).all()


@pytest.mark.parametrize("value", [1e39, -1e300, 3.5e38])
def test_what_is_beyond_float32_is_refused(value: float) -> None:
    with pytest.raises(TooManyExceptionsError, match="1 of 3 values are beyond bf16's range, limit is 0"):
        quantize(Bf16(), np.array([1.0, value, np.inf]))


def test_codes_are_these_bytes() -> None:
    values = np.array([1.0, -0.5, 1.5, 0.0, -0.0, np.inf, -np.inf], np.float32)
    codes = quantize(Bf16(), values).codes.view("<u2")
    assert codes.tolist() == [0x3F80, 0xBF00, 0x3FC0, 0x0000, 0x8000, 0x7F80, 0xFF80]


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_nan_becomes_the_quiet_one(component: str) -> None:
    values = nan_bits(component, [1, 2**20, -1, -(2**22), 2**22 + 5])
    assert quantize(Bf16(), values).codes.view("<u2").tolist() == [0x7FC0] * 5
    assert np.isnan(round_trip(values)).all()
