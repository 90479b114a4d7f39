"""The fp16 quantizer: the contract, the bound and the special values that its docstring promises."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_quantizer_contract import QuantizerContract, dequantize, quantize
from contract.codec_values import any_values, finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers.fp16 import Fp16

COMPONENTS = ("float32", "float64")
_LARGEST = {"float32": float(np.finfo("float32").max), "float64": float(np.finfo("float64").max)}


def encode(values) -> Quantized:
    return quantize(Fp16(), values)


def round_trip(values) -> np.ndarray:
    return dequantize(Fp16, encode(values), values.dtype)


def exponent_of(values) -> int:
    (exponent,) = struct.unpack("<h", encode(values).parameters)
    return exponent


def fp16_bound(values) -> np.ndarray:
    """Return the docstring's bound, with an exponent found by Python's own `frexp`."""
    # A signalling NaN is an invalid value to every operation.
    with np.errstate(invalid="ignore"):
        magnitudes = np.abs(values.astype(np.float64))
        finite = [float(magnitude) for magnitude in magnitudes if math.isfinite(magnitude)]
        exponent = math.frexp(max(finite))[1] if any(finite) else 15
        below = math.ldexp(1.0, exponent - 40)
        return np.where(magnitudes >= math.ldexp(1.0, exponent - 29), 2.0**-11 * magnitudes, below)


class TestFp16(QuantizerContract):
    codec_type = Fp16
    id = "fp16"
    number = 1
    dtypes = ("float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    def error_bound(self, codec, values, quantized):
        return fp16_bound(values)


@each("component", COMPONENTS)
class TestBound:
    """How far a decoded value may be."""

    @given(data=st.data())
    def test_no_finite_value_breaks_it(self, component: str, data: st.DataObject) -> None:
        values = data.draw(finite_values(component, _LARGEST[component]))
        errors = np.abs(round_trip(values).astype(np.float64) - values.astype(np.float64))
        assert (errors <= fp16_bound(values)).all()

    @given(data=st.data())
    def test_values_beside_nan_and_infinity_keep_it(self, component: str, data: st.DataObject) -> None:
        values = data.draw(any_values(component))
        decoded, finite = round_trip(values), np.isfinite(values)
        assert (np.isnan(decoded) == np.isnan(values)).all()
        assert (decoded[np.isinf(values)] == values[np.isinf(values)]).all()
        errors = np.abs(decoded[finite].astype(np.float64) - values[finite].astype(np.float64))
        assert (errors <= fp16_bound(values)[finite]).all()

    def test_the_largest_finite_value_does_not_become_infinite(self, component: str) -> None:
        largest = np.finfo(component).max
        values = np.array([largest, -largest, np.nextafter(largest, 0, dtype=component)])
        errors = np.abs(round_trip(values) / 2 - values / 2)
        assert (errors <= 2.0**-11 * np.abs(values / 2)).all()

    def test_every_power_of_two_is_exact(self, component: str) -> None:
        limits = np.finfo(component)
        for exponent in range(limits.minexp - limits.nmant, limits.maxexp):
            values = np.array([math.ldexp(1.0, exponent), -math.ldexp(1.0, exponent)], component)
            assert round_trip(values).tobytes() == values.tobytes()

    def test_values_of_eleven_bits_are_exact_across_forty_powers_of_two(self, component: str) -> None:
        # The largest is 2047 * 2**0; below 2047 * 2**-25 the codes are subnormal and lose bits.
        values = np.array([math.ldexp(2047.0, -shift) for shift in range(26)], component)
        assert round_trip(values).tobytes() == values.tobytes()

    @each("scale", [1e-30, 1e-10, 1e10, 1e30])
    def test_the_magnitude_of_a_chunk_costs_no_precision(self, component: str, scale: float) -> None:
        values = (np.random.default_rng(0).uniform(0.01, 1, 5000) * scale).astype(component)
        errors = np.abs(round_trip(values).astype(np.float64) / values - 1)
        assert errors.max() <= 2.0**-11
        assert errors.max() > 2.0**-12


def test_the_range_of_float64_is_kept() -> None:
    for scale in (1e-300, 1e-200, 1e200, 1e300):
        values = np.random.default_rng(0).uniform(0.01, 1, 100) * scale
        assert np.abs(round_trip(values) / values - 1).max() <= 2.0**-11


def test_subnormal_float32_values_are_exact_to_eleven_bits() -> None:
    values = np.array([1, 2, 3, 2047, 2048, 0x7FFFFF], "<u4").view("<f4")
    decoded = round_trip(values)
    assert decoded[:5].tobytes() == values[:5].tobytes()
    assert decoded[5] == 2.0**-126


def test_ties_go_to_even() -> None:
    # One unit in the last place of 1.0 is 2**-10 in float16: these lie half way.
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11], np.float32)
    assert round_trip(values).tolist() == [1.0, 1 + 2**-9, -1.0]


def test_float64_is_rounded_once() -> None:
    # By way of float32 this would first become a tie, and then 1.0.
    values = np.array([1 + 2**-11 + 2**-40])
    assert round_trip(values).tolist() == [1 + 2**-10]


EXPONENTS = {
    "one": ([1.0], 1),
    "below one": ([0.999], 0),
    "a half": ([0.5], 0),
    "the largest magnitude counts": ([0.1, -7.0, 3.0], 3),
    "zeros alone": ([0.0, -0.0], 15),
    "NaN alone": ([math.nan], 15),
    "infinities alone": ([math.inf, -math.inf], 15),
    "zeros and infinity": ([0.0, math.inf], 15),
    "NaN beside a value": ([math.nan, 2.0, 0.0], 2),
    "infinities beside a value": ([math.inf, -math.inf, 0.25], -1),
    "smallest subnormal": ([2.0**-149], -148),
    "largest exponent": ([-(2.0**127)], 128),
}


@each(("values", "exponent"), EXPONENTS.values(), ids=EXPONENTS)
def test_the_exponent_is_that_of_the_largest_finite_value(values: list[float], exponent: int) -> None:
    assert exponent_of(np.array(values, np.float32)) == exponent


@pytest.mark.parametrize(("value", "exponent"), [(5e-324, -1073), (2.0**1023, 1024)])
def test_the_exponent_covers_float64(value: float, exponent: int) -> None:
    assert exponent_of(np.array([value])) == exponent


def test_codes_and_parameters_are_these_bytes() -> None:
    values = np.array([1.0, -0.5, 1.5, 0.0, -0.0], np.float32)
    quantized = encode(values)
    # e is 1, so codes are values * 2**14: 16384.0, -8192.0, 24576.0.
    assert quantized.codes.view("<u2").tolist() == [0x7400, 0xF000, 0x7600, 0x0000, 0x8000]
    assert quantized.parameters == b"\x01\x00"


def test_a_negative_exponent_is_stored_in_twos_complement() -> None:
    assert encode(np.array([2.0**-149], np.float32)).parameters == (-148).to_bytes(2, "little", signed=True)


@each("component", COMPONENTS)
class TestSpecialValues:
    """What is not an ordinary number."""

    def test_negative_zero_stays(self, component: str) -> None:
        values = np.array([-0.0, 0.0, 1.0], component)
        assert round_trip(values).tobytes() == values.tobytes()
        assert round_trip(values[:2]).tobytes() == values[:2].tobytes()

    def test_infinities_stay(self, component: str) -> None:
        values = np.array([np.inf, 1e-20, -np.inf], component)
        decoded = round_trip(values)
        assert decoded[[0, 2]].tolist() == [math.inf, -math.inf]
        assert abs(decoded[1] / values[1] - 1) <= 2.0**-11

    def test_every_nan_becomes_the_quiet_one(self, component: str) -> None:
        values = nan_bits(component, [1, 2**20, -1, -(2**22), 2**22 + 5])
        assert np.isnan(values).all()
        assert encode(values).codes.view("<u2").tolist() == [0x7E00] * 5
        assert round_trip(values).tobytes() == np.full(5, np.nan, component).tobytes()

    def test_nan_does_not_disturb_its_neighbours(self, component: str) -> None:
        values = np.array([3.0, np.nan, -1.0], component)
        assert round_trip(values)[[0, 2]].tolist() == [3.0, -1.0]


class TestHostileParameters:
    """What no encoder writes."""

    CODES = np.array([0x3C00, 0x7C00, 0x7E00, 0xFFFF], "<u2").view("<f2")

    @each(
        ("component", "exponent"),
        [("<f4", -149), ("<f4", 129), ("<f4", 32767), ("<f4", -32768), ("<f8", -1074), ("<f8", 1025)],
    )
    def test_an_exponent_beyond_the_dtype_is_damage(self, component: str, exponent: int) -> None:
        name = np.dtype(component).name
        with pytest.raises(CorruptChunkError, match=rf"^exponent of fp16 is {exponent}, beyond what {name} holds$"):
            Fp16.decode(self.CODES, struct.pack("<h", exponent), np.dtype(component), self.CODES.size)

    @each(("component", "exponent"), [("<f4", -148), ("<f4", 128), ("<f8", -1073), ("<f8", 1024), ("<f4", 15)])
    def test_an_exponent_within_the_dtype_is_not(self, component: str, exponent: int) -> None:
        decoded = dequantize(Fp16, Quantized(self.CODES, struct.pack("<h", exponent)), np.dtype(component))
        assert decoded[0] == math.ldexp(1.0, exponent - 15)

    @each("parameters", [b"", b"\0", bytes(3), bytes(1000)])
    def test_other_lengths_are_named(self, parameters: bytes) -> None:
        with pytest.raises(CorruptChunkError, match=rf"^fp16 has {len(parameters)} bytes of parameters, must be 2$"):
            Fp16.decode(self.CODES, parameters, np.dtype("<f4"), self.CODES.size)
