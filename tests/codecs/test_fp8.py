"""The fp8 quantizers: the contract, the bounds, the special values and the layout that their docstrings promise."""

from __future__ import annotations

import math
import struct
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_quantizer_contract import QuantizerContract, component_dtype, dequantize, quantize, weights
from contract.codec_values import any_values, finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized, Quantizer
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.quantizers.fp8 import Fp8E4M3Fn, Fp8E5M2

COMPONENTS = ("float16", "bfloat16", "float32", "float64")
NAN = np.dtype("<f4").type(np.nan).tobytes()

BOUNDS: dict[type[Quantizer], tuple[int, int, int, int]] = {Fp8E4M3Fn: (8, 4, 14, 18), Fp8E5M2: (15, 3, 29, 32)}
"""exponent_max; the relative bound is 2**-second where |v| >= 2**(e - third), the absolute one below 2**(e - fourth)."""

codecs = each("codec", BOUNDS)


def encode(codec: type[Quantizer], values: np.ndarray) -> Quantized:
    return quantize(codec(), values)


def round_trip(codec: type[Quantizer], values: np.ndarray) -> np.ndarray:
    return dequantize(codec, encode(codec, values), values.dtype)


def finite_of(values: np.ndarray) -> np.ndarray:
    # Signalling NaNs of bfloat16 warn.
    with np.errstate(invalid="ignore"):
        return np.isfinite(values)


def bound(codec: type[Quantizer], values: np.ndarray) -> np.ndarray:
    """Return the docstring's bound for finite values, with an exponent found by Python's own `frexp`."""
    exponent_max, relative, normal, absolute = BOUNDS[codec]
    magnitudes = np.abs(values.astype(np.float64))
    exponent = math.frexp(max(magnitudes))[1] if magnitudes.any() else exponent_max
    below = math.ldexp(1.0, exponent - absolute)
    return np.where(magnitudes >= math.ldexp(1.0, exponent - normal), 2.0**-relative * magnitudes, below)


def errors_of(codec: type[Quantizer], values: np.ndarray) -> np.ndarray:
    return np.abs(round_trip(codec, values).astype(np.float64) - values.astype(np.float64))


class Fp8Contract(QuantizerContract):
    """Both, but for their names."""

    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    def error_bound(self, codec, values, quantized):
        return bound(self.codec_type, values)


class TestFp8E4M3Fn(Fp8Contract):
    codec_type = Fp8E4M3Fn
    id = "fp8_e4m3fn"
    number = 6


class TestFp8E5M2(Fp8Contract):
    codec_type = Fp8E5M2
    id = "fp8_e5m2"
    number = 7


@codecs
class TestBound:
    """How far a decoded value may be."""

    @given(
        values=st.one_of(finite_values(name, float(np.finfo(name).max)) for name in ("float16", "float32", "float64"))
    )
    def test_no_finite_value_breaks_it(self, codec: type[Quantizer], values: np.ndarray) -> None:
        assert np.isfinite(round_trip(codec, values)).all()
        assert (errors_of(codec, values) <= bound(codec, values)).all()

    @given(seed=st.integers(0, 2**32 - 1))
    def test_no_bfloat16_breaks_it(self, codec: type[Quantizer], seed: int) -> None:
        random = np.random.default_rng(seed)
        values = np.frombuffer(random.bytes(2 * random.integers(1, 300)), ml_dtypes.bfloat16)
        values = values[finite_of(values)]
        if values.size:
            assert finite_of(round_trip(codec, values)).all()
            assert (errors_of(codec, values) <= bound(codec, values)).all()

    @each("component", COMPONENTS)
    def test_the_largest_finite_values_stay_finite(self, codec: type[Quantizer], component: str) -> None:
        dtype = component_dtype(component)
        largest = ml_dtypes.finfo(dtype).max
        values = np.array([largest, -largest, np.nextafter(largest, dtype.type(0))], dtype)
        # Halves: float64 has no room for the bound.
        errors = np.abs(round_trip(codec, values).astype(np.float64) / 2 - values.astype(np.float64) / 2)
        assert (errors <= 2.0 ** -BOUNDS[codec][1] * np.abs(values.astype(np.float64) / 2)).all()

    @each("component", COMPONENTS)
    def test_every_power_of_two_is_exact(self, codec: type[Quantizer], component: str) -> None:
        dtype = component_dtype(component)
        limits = ml_dtypes.finfo(dtype)
        for exponent in range(limits.minexp - limits.nmant, limits.maxexp):
            values = np.array([math.ldexp(1.0, exponent), -math.ldexp(1.0, exponent)], dtype)
            assert round_trip(codec, values).tobytes() == values.tobytes()

    @each("scale", [1e-30, 1e-10, 1e10, 1e30])
    def test_the_magnitude_of_a_chunk_costs_no_precision(self, codec: type[Quantizer], scale: float) -> None:
        values = (np.random.default_rng(0).uniform(0.02, 1, 5000) * scale).astype(np.float32)
        errors = np.abs(round_trip(codec, values).astype(np.float64) / values - 1)
        assert 2.0 ** -(BOUNDS[codec][1] + 1) < errors.max() <= 2.0 ** -BOUNDS[codec][1]

    @each("component", COMPONENTS)
    def test_decoded_values_are_codes_times_a_power_of_two_exactly(
        self, codec: type[Quantizer], component: str
    ) -> None:
        random = np.random.default_rng(0)
        for scale in (1e-44, 1e-7, 1.0, 1e4):
            values = (random.standard_normal(1000) * scale).astype(component_dtype(component))
            quantized = encode(codec, values)
            (exponent,) = struct.unpack("<h", quantized.parameters)
            exact = np.ldexp(quantized.codes.astype(np.float64), exponent - BOUNDS[codec][0])
            assert (dequantize(codec, quantized, values.dtype).astype(np.float64) == exact).all()


@codecs
class TestExponent:
    """One per chunk."""

    @each(
        ("values", "exponent"),
        [
            ([1.0], 1),
            ([0.999], 0),
            ([0.1, -7.0, 3.0], 3),
            ([2.0**-149], -148),
            ([-(2.0**127)], 128),
        ],
    )
    def test_it_is_that_of_the_largest_value(self, codec: type[Quantizer], values: list[float], exponent: int) -> None:
        assert encode(codec, np.array(values, np.float32)).parameters == struct.pack("<h", exponent)

    def test_a_chunk_of_zeros_has_the_formats_own(self, codec: type[Quantizer]) -> None:
        values = np.array([0.0, -0.0], np.float32)
        assert encode(codec, values).parameters == struct.pack("<h", BOUNDS[codec][0])
        assert round_trip(codec, values).tobytes() == values.tobytes()

    @each(
        ("component", "exponent"),
        [("<f2", -24), ("<f2", 17), ("<f4", -149), ("<f4", 129), ("<f4", -32768), ("<f8", -1074), ("<f8", 1025)],
    )
    def test_one_beyond_the_dtype_is_damage(self, codec: type[Quantizer], component: str, exponent: int) -> None:
        codes = np.zeros(3, codec.code_dtype(np.dtype(component)))
        name = np.dtype(component).name
        message = rf"^exponent of {codec.id} is {exponent}, beyond what {name} holds$"
        with pytest.raises(CorruptChunkError, match=message):
            codec.decode(codes, struct.pack("<h", exponent), np.dtype(component), 3)

    @each(
        ("component", "exponent"),
        [("<f2", -23), ("<f2", 16), ("<f4", -148), ("<f4", 128), ("<f8", -1073), ("<f8", 1024)],
    )
    def test_one_within_the_dtype_is_not(self, codec: type[Quantizer], component: str, exponent: int) -> None:
        exponent_max = BOUNDS[codec][0]
        codes = np.array([2.0 ** (exponent_max - 1)], codec.code_dtype(np.dtype(component)))
        decoded = dequantize(codec, Quantized(codes, struct.pack("<h", exponent)), np.dtype(component))
        assert decoded[0] == math.ldexp(1.0, exponent - 1)


class TestLayout:
    """Codes and parameters, byte by byte."""

    VALUES = np.array([1.0, -0.5, 1.75, 0.0, -0.0, 2.0**-17], np.float32)

    def test_codes_of_e4m3fn_are_these_bytes(self) -> None:
        quantized = encode(Fp8E4M3Fn, self.VALUES)
        # e is 1, so codes are values * 2**7: 128.0, -64.0, 224.0; the last, 2**-10, is a tie between 0 and 2**-9.
        assert quantized.codes.view("u1").tolist() == [0x70, 0xE8, 0x76, 0x00, 0x80, 0x00]
        assert quantized.parameters == b"\x01\x00"

    def test_codes_of_e5m2_are_these_bytes(self) -> None:
        quantized = encode(Fp8E5M2, self.VALUES)
        # e is 1, so codes are values * 2**14: 16384.0, -8192.0, 28672.0, 2**-3.
        assert quantized.codes.view("u1").tolist() == [0x74, 0xF0, 0x77, 0x00, 0x80, 0x30]
        assert quantized.parameters == b"\x01\x00"

    def test_exceptions_of_e4m3fn_follow_the_exponent_in_order(self) -> None:
        values = np.ones(300, np.float32)
        values[[7, 100, 101]] = [np.inf, np.nan, -np.inf]
        quantized = encode(Fp8E4M3Fn, values)
        assert quantized.parameters == struct.pack("<h", 1) + values[[7, 100, 101]].tobytes()
        assert np.flatnonzero(quantized.codes.view("u1") == 0x7F).tolist() == [7, 100, 101]


class TestSpecialValuesOfE5M2:
    """What is not an ordinary number has a code."""

    @each("component", ["float16", "float32", "float64"])
    def test_every_nan_becomes_the_quiet_one(self, component: str) -> None:
        values = nan_bits(component, [1, 2**9, -1, -(2**9), 2**9 + 5])
        assert encode(Fp8E5M2, values).codes.view("u1").tolist() == [0x7E] * 5
        assert round_trip(Fp8E5M2, values).tobytes() == np.full(5, np.nan, component).tobytes()

    @each("component", COMPONENTS)
    def test_infinities_stay(self, component: str) -> None:
        values = np.array([np.inf, 0.25, -np.inf], component_dtype(component))
        assert encode(Fp8E5M2, values).codes.view("u1")[[0, 2]].tolist() == [0x7C, 0xFC]
        assert round_trip(Fp8E5M2, values).tobytes() == values.tobytes()

    @given(values=any_values("float32") | any_values("float64"))
    def test_values_beside_nan_and_infinity_keep_the_bound(self, values: np.ndarray) -> None:
        decoded, finite = round_trip(Fp8E5M2, values), np.isfinite(values)
        assert (np.isnan(decoded) == np.isnan(values)).all()
        assert (decoded[np.isinf(values)] == values[np.isinf(values)]).all()
        errors = np.abs(decoded[finite].astype(np.float64) - values[finite].astype(np.float64))
        assert (errors <= bound(Fp8E5M2, values[finite] if finite.any() else np.zeros(0))).all()

    @each("parameters", [b"", b"\0", bytes(3), bytes(6)])
    def test_parameters_of_another_length_are_named(self, parameters: bytes) -> None:
        message = rf"^fp8_e5m2 has {len(parameters)} bytes of parameters, must be 2$"
        with pytest.raises(CorruptChunkError, match=message):
            Fp8E5M2.decode(np.zeros(3, ml_dtypes.float8_e5m2), parameters, np.dtype("<f4"), 3)


class TestSpecialValuesOfE4M3Fn:
    """What is not an ordinary number is an exception."""

    @each("component", ["float16", "float32", "float64"])
    def test_nans_and_infinities_keep_every_bit(self, component: str) -> None:
        exceptions = np.append(nan_bits(component, [1, 17, -1, -513]), np.array([np.inf, -np.inf], component))
        values = weights(component, 1000).copy()
        values[::167] = exceptions
        decoded = round_trip(Fp8E4M3Fn, values)
        assert decoded[::167].tobytes() == exceptions.tobytes()
        finite = np.isfinite(values)
        errors = np.abs(decoded[finite].astype(np.float64) - values[finite].astype(np.float64))
        assert (errors <= bound(Fp8E4M3Fn, values[finite])).all()

    @each(("count", "allowed"), [(1, 0), (100, 1), (199, 1), (1000, 10)])
    def test_one_percent_is_allowed_and_no_more(self, count: int, allowed: int) -> None:
        values = weights("float32", count).copy()
        values[:allowed] = np.nan
        assert len(encode(Fp8E4M3Fn, values).parameters) == 2 + 4 * allowed
        values[allowed] = np.inf
        message = rf"^{allowed + 1} of {count} values are exceptions .* to fp8_e4m3fn, the limit is 1%$"
        with pytest.raises(TooManyExceptionsError, match=message):
            encode(Fp8E4M3Fn, values)

    CODES = np.array([0x38, 0x7F, 0xB8], np.uint8)

    def test_the_parameters_below_are_right_but_for_what_they_change(self) -> None:
        decoded = Fp8E4M3Fn.decode(self.CODES, struct.pack("<h", 8) + NAN, np.dtype("<f4"), 3)
        assert decoded[[0, 2]].tolist() == [1.0, -1.0]
        assert np.isnan(decoded[1])

    @each("exceptions", [b"", bytes(3), bytes(5), bytes(8)])
    def test_as_many_exceptions_as_marks_or_it_is_damage(self, exceptions: bytes) -> None:
        message = rf"^fp8_e4m3fn has {2 + len(exceptions)} bytes of parameters, must be 6$"
        with pytest.raises(CorruptChunkError, match=message):
            Fp8E4M3Fn.decode(self.CODES, struct.pack("<h", 8) + exceptions, np.dtype("<f4"), 3)

    def test_the_code_that_is_not_used_is_damage(self) -> None:
        codes: np.ndarray[Any, Any] = np.array([0x38, 0xFF], np.uint8)
        with pytest.raises(CorruptChunkError, match=r"^a code of fp8_e4m3fn is 0xff, which no value has$"):
            Fp8E4M3Fn.decode(codes, struct.pack("<h", 8), np.dtype("<f4"), 2)
