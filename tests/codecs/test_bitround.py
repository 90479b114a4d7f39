"""The bitround quantizer: the contract, the bound and the special values that its docstring promises."""

from __future__ import annotations

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_quantizer_contract import QuantizerContract, component_dtype, dequantize, quantize, weights
from contract.codec_values import finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers.bitround import BitRound

COMPONENTS = ("float16", "bfloat16", "float32", "float64")
FRACTION_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
EXPONENT_MIN = {"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}
KEEP_BITS = [0, 1, 3, 6, 7, 9, 10, 22, 23, 51, 52]


def encode(values: np.ndarray, keep_bits: int) -> Quantized:
    return quantize(BitRound(keep_bits=keep_bits), values)


def round_trip(values: np.ndarray, keep_bits: int) -> np.ndarray:
    return dequantize(BitRound, encode(values, keep_bits), values.dtype)


def words_of(values: np.ndarray) -> np.ndarray:
    return values.view(f"<u{values.dtype.itemsize}")


def bound(values: np.ndarray, keep_bits: int) -> np.ndarray:
    """Return 2**-(keep_bits + 1) * 2**x, where x is found by Python's own `frexp`; twice that in the last step."""
    name = values.dtype.name
    if keep_bits >= FRACTION_BITS[name]:
        return np.zeros(values.size)
    exponents = np.array([max(math.frexp(float(value))[1] - 1, EXPONENT_MIN[name]) for value in values])
    bounds = np.ldexp(1.0, exponents - keep_bits - 1)
    last = np.abs(values.astype(np.float64)) >= largest_kept(name, keep_bits)
    return np.where(last, 2 * bounds, bounds)


def largest_kept(name: str, keep_bits: int) -> float:
    """Return the largest finite number that has no more bits of fraction."""
    exponent = int(ml_dtypes.finfo(component_dtype(name)).maxexp) - 1
    return float(Fraction(2) ** exponent * (2 - Fraction(1, 2**keep_bits)))


def slow_round(word: int, name: str, keep_bits: int) -> int:
    """Return the code of one number from its bits."""
    drop = max(FRACTION_BITS[name] - keep_bits, 0)
    sign = 1 << (8 * component_dtype(name).itemsize - 1)
    infinity = sign - 2 ** FRACTION_BITS[name]
    if word % sign >= infinity:
        return word
    # Python rounds a fraction to the nearest integer, ties to even.
    rounded = round(Fraction(word, 2**drop)) * 2**drop
    return rounded if rounded % sign < infinity else word - word % 2**drop


def is_finite(values: np.ndarray) -> np.ndarray:
    # Signalling NaNs of bfloat16 warn.
    with np.errstate(invalid="ignore"):
        return np.isfinite(values)


class TestBitRound(QuantizerContract, SettingsContract):
    codec_type = BitRound
    id = "bitround"
    number = 8
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    configurations = (
        {},
        *({"keep_bits": bits} for bits in (0, 7, 23, 52)),
    )

    refusals = tuple(
        Refusal("keep_bits", value, "an integer from 0 to 52") for value in (-1, 53, 99, True, 7.0, "7", None)
    )

    def error_bound(self, codec, values, quantized):
        return bound(values, codec.keep_bits)


def test_7_bits_are_kept_unless_told_otherwise() -> None:
    assert BitRound() == BitRound(keep_bits=7)


@each("component", COMPONENTS)
def test_codes_are_unsigned_words_as_wide_as_the_component(component: str) -> None:
    values = weights(component, 10)
    assert encode(values, 3).codes.dtype == np.dtype(f"<u{values.dtype.itemsize}")


class TestBound:
    """How far a decoded value may be."""

    @given(
        values=st.one_of(finite_values(name, float(np.finfo(name).max)) for name in ("float16", "float32", "float64")),
        keep_bits=st.integers(0, 52),
    )
    def test_no_finite_value_breaks_it(self, values: np.ndarray, keep_bits: int) -> None:
        decoded = round_trip(values, keep_bits)
        assert np.isfinite(decoded).all()
        # Halves: the largest error of float64 is beyond float64's range in a sum.
        errors = np.abs(decoded.astype(np.float64) / 2 - values.astype(np.float64) / 2)
        assert (errors <= bound(values, keep_bits) / 2).all()

    @each("component", COMPONENTS)
    @each("keep_bits", KEEP_BITS)
    def test_values_of_any_bits_keep_it_or_every_bit(self, component: str, keep_bits: int) -> None:
        dtype = component_dtype(component)
        values = np.frombuffer(np.random.default_rng(keep_bits).bytes(2000 * dtype.itemsize), dtype)
        decoded = round_trip(values, keep_bits)
        finite = is_finite(values)
        assert words_of(decoded)[~finite].tolist() == words_of(values)[~finite].tolist()
        assert np.isfinite(decoded[finite]).all()
        errors = np.abs(decoded[finite].astype(np.float64) / 2 - values[finite].astype(np.float64) / 2)
        assert (errors <= bound(values[finite], keep_bits) / 2).all()

    @each("component", ["float16", "bfloat16"])
    @each("keep_bits", range(11))
    def test_every_number_of_16_bits_is_the_nearest_of_the_kept_ones(self, component: str, keep_bits: int) -> None:
        dtype = component_dtype(component)
        values = np.arange(2**16, dtype="<u2").view(dtype)
        decoded = round_trip(values, keep_bits)
        drop = max(FRACTION_BITS[component] - keep_bits, 0)
        kept = np.arange(0, 2**16, 2**drop).astype("<u2").view(dtype)
        kept = np.unique(kept[is_finite(kept)].astype(np.float64))
        finite = is_finite(values)
        numbers = values[finite].astype(np.float64)
        after = np.clip(np.searchsorted(kept, numbers), 1, kept.size - 1)
        nearest = np.minimum(np.abs(kept[after] - numbers), np.abs(kept[after - 1] - numbers))
        assert (np.abs(decoded[finite].astype(np.float64) - numbers) == nearest).all()
        assert words_of(decoded)[~finite].tolist() == words_of(values)[~finite].tolist()

    @each("component", COMPONENTS)
    @each("keep_bits", KEEP_BITS)
    def test_low_bits_are_zero(self, component: str, keep_bits: int) -> None:
        drop = max(FRACTION_BITS[component] - keep_bits, 0)
        assert not (encode(weights(component, 1000), keep_bits).codes & ((1 << drop) - 1)).any()

    @each("component", COMPONENTS)
    def test_all_bits_or_more_are_the_identity(self, component: str) -> None:
        values = np.frombuffer(np.random.default_rng(0).bytes(800), component_dtype(component))
        for keep_bits in range(FRACTION_BITS[component], 53):
            assert round_trip(values, keep_bits).tobytes() == values.tobytes()

    @each("component", COMPONENTS)
    def test_rounding_again_changes_nothing(self, component: str) -> None:
        once = round_trip(weights(component, 1000), 3)
        assert round_trip(once, 3).tobytes() == once.tobytes()

    @each("component", COMPONENTS)
    @each("keep_bits", KEEP_BITS)
    def test_a_slow_encoder_that_follows_the_formula_agrees(self, component: str, keep_bits: int) -> None:
        dtype = component_dtype(component)
        bits = np.random.default_rng(keep_bits).bytes(200 * dtype.itemsize)
        words = words_of(np.frombuffer(bits, dtype)).copy()
        words[::3] &= words.dtype.type(2 ** (FRACTION_BITS[component] // 2) - 1)
        expected = [slow_round(word, component, keep_bits) for word in words.tolist()]
        assert encode(words.view(dtype), keep_bits).codes.tolist() == expected


class TestRounding:
    """Bit by bit."""

    @each(
        ("value", "keep_bits", "expected"),
        [
            (1.25, 1, 1.0),
            (1.75, 1, 2.0),
            (1.25 + 2**-20, 1, 1.5),
            (-1.25, 1, -1.0),
            (1.99, 3, 2.0),
            # The lowest bit that is kept is the exponent's: 127 + 0 is odd.
            (1.5, 0, 2.0),
            (3.0, 0, 2.0),
            (6.0, 0, 8.0),
            (2.0**-149, 22, 0.0),
            (3 * 2.0**-149, 22, 2.0**-147),
            (2.0**-126 - 2.0**-149, 22, 2.0**-126),
        ],
    )
    def test_ties_go_to_the_even_integer(self, value: float, keep_bits: int, expected: float) -> None:
        assert round_trip(np.array([value], np.float32), keep_bits).tolist() == [expected]

    @each("component", COMPONENTS)
    def test_zeros_keep_their_sign(self, component: str) -> None:
        values = np.array([0.0, -0.0, 1.0], component_dtype(component))
        for keep_bits in KEEP_BITS:
            assert round_trip(values, keep_bits).tobytes() == values.tobytes()

    @each("component", COMPONENTS)
    @each("sign", [1, -1])
    def test_what_would_become_infinite_is_cut_off(self, component: str, sign: int) -> None:
        dtype = component_dtype(component)
        largest = ml_dtypes.finfo(dtype).max
        for keep_bits in range(FRACTION_BITS[component]):
            values = np.array([sign * float(largest), 1.0], dtype)
            decoded = round_trip(values, keep_bits)
            assert decoded.astype(np.float64).tolist() == [sign * largest_kept(component, keep_bits), 1.0]

    @pytest.mark.parametrize("component", ["float32", "float64"])
    def test_the_largest_that_is_rounded_down_is_rounded_down(self, component: str) -> None:
        kept = np.array([largest_kept(component, 3)], component)
        # The step between kept numbers is 2**drop: the number is even, so half of it is rounded down.
        half = 2 ** (FRACTION_BITS[component] - 4)
        above = words_of(kept) + np.array([0, 1, half // 2, half - 1], words_of(kept).dtype)
        assert (round_trip(above.view(component), 3) == kept).all()

    @each("component", ["float16", "float32", "float64"])
    @each("keep_bits", KEEP_BITS)
    def test_nans_keep_every_bit(self, component: str, keep_bits: int) -> None:
        top = 2 ** FRACTION_BITS[component] - 1
        values = np.append(nan_bits(component, [1, top, -1, -top, -(top - 1)]), np.array([1.0], component))
        assert round_trip(values, keep_bits).tobytes() == values.tobytes()

    @each("component", COMPONENTS)
    @each("keep_bits", KEEP_BITS)
    def test_infinities_stay(self, component: str, keep_bits: int) -> None:
        values = np.array([np.inf, -np.inf, 2.0], component_dtype(component))
        assert round_trip(values, keep_bits).tobytes() == values.tobytes()


def test_7_bits_of_float32_are_a_bfloat16() -> None:
    values = np.frombuffer(np.random.default_rng(0).bytes(40_000), np.float32)
    values = values[np.abs(values) <= 2.0**127]
    expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert round_trip(values, 7).tobytes() == expected.tobytes()


def test_parameters_are_damage() -> None:
    with pytest.raises(CorruptChunkError, match=r"^bitround has 2 bytes of parameters, must be 0$"):
        BitRound.decode(np.zeros(3, "<u4"), bytes(2), np.dtype("<f4"), 3)
