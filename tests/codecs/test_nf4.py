"""The nf4 quantizer: the contract, the levels, the bound, the exceptions and the layout that its docstring promises."""

from __future__ import annotations

import struct
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_quantizer_contract import QuantizerContract, component_dtype, dequantize, quantize, weights
from contract.codec_scales import (
    SCALE_MIN,
    block_parameters,
    magnitude_limit,
    own_rounding,
    scale_per_value,
    smallest_bfloat16_not_below,
    unpacked,
)
from contract.codec_values import any_values, finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.quantizers import nf4
from tensorus_codecs.quantizers.nf4 import Nf4

BLOCK_SIZES = [32, 64, 128]
COMPONENTS = ("float16", "bfloat16", "float32", "float64")
_HEADER = struct.Struct("<HHI")

LEVELS = """
    -1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
    -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
    0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""
"""As Appendix E of arXiv 2305.14314 prints them."""
LEVELS_FLOAT32 = np.array(LEVELS.split(), np.float32)
BORDERS = [np.float32((float(low) + float(high)) / 2) for low, high in pairwise(LEVELS_FLOAT32)]


def encode(values: np.ndarray, block_size: int = 64) -> Quantized:
    return quantize(Nf4(block_size=block_size), values)


def decode(quantized: Quantized, values: np.ndarray) -> np.ndarray:
    return dequantize(Nf4, quantized, values.dtype, values.size)


def round_trip(values: np.ndarray, block_size: int = 64) -> np.ndarray:
    return decode(encode(values, block_size), values)


def bound(values: np.ndarray, quantized: Quantized) -> np.ndarray:
    """Return s * (h + 2**-22), h half the distance of the levels around v / s, found in float64."""
    scales = scale_per_value(quantized, values.size)
    levels = LEVELS_FLOAT32.astype(np.float64)
    with np.errstate(all="ignore"):
        quotients = np.clip(values.astype(np.float64) / scales, -1, 1)
    upper = np.clip(np.searchsorted(levels, quotients, side="left"), 1, 15)
    return scales * ((levels[upper] - levels[upper - 1]) / 2 + 2.0**-22)


def exceptions_of(quantized: Quantized, values: np.ndarray) -> tuple[list[int], bytes]:
    """Return positions and raw values."""
    parameters = block_parameters(quantized, values.size)
    positions = struct.unpack_from(f"<{parameters.exception_count}I", parameters.rest)
    return list(positions), parameters.rest[4 * len(positions) :]


def slow_encode(values: np.ndarray, block_size: int) -> tuple[list[int], list[float], list[int]]:
    """Return codes, scales and the exceptions' positions, one value after the other, from the docstring's formula."""
    work = np.float64 if values.dtype == np.float64 else np.float32
    limit = magnitude_limit(values.dtype.name)
    codes, scales = [], []
    for start in range(0, values.size, block_size):
        block = values[start : start + block_size]
        largest = max((abs(float(value)) for value in block if abs(float(value)) <= limit), default=0.0)
        scale = max(smallest_bfloat16_not_below(largest), SCALE_MIN)
        scales.append(scale)
        for value in block:
            regular = abs(float(value)) <= limit
            codes.append(sum(float(border) < float(work(value) / work(scale)) for border in BORDERS) if regular else 7)
    return codes, scales, [at for at, value in enumerate(values) if not abs(float(value)) <= limit]


def with_exceptions(component: str, exceptions: np.ndarray, count: int = 1000) -> np.ndarray:
    """Return weights with `exceptions` spread among them, on even and on odd positions."""
    values = weights(component, count).copy()
    step = count // exceptions.size | 1
    values[::step][: exceptions.size] = exceptions
    return values


class TestNf4(QuantizerContract, SettingsContract):
    codec_type = Nf4
    id = "nf4"
    number = 5
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    configurations = (
        {},
        *({"block_size": size} for size in BLOCK_SIZES),
    )

    refusals = tuple(
        Refusal("block_size", value, "one of (32, 64, 128)")
        for value in (0, 1, 16, 65, 256, -64, True, "64", None, 64.0)
    )

    def error_bound(self, codec, values, quantized):
        return bound(values, quantized) + own_rounding(values.dtype.name, decode(quantized, values))


def test_the_default_block_size_is_64() -> None:
    assert Nf4() == Nf4(block_size=64)


class TestLevels:
    """The 16 numbers that everything rests on."""

    def test_they_are_the_published_ones(self) -> None:
        assert nf4._LEVELS.tobytes() == LEVELS_FLOAT32.tobytes()
        assert [float(level) for level in LEVELS_FLOAT32] == [float(text) for text in LEVELS.split()]

    def test_borders_are_their_means_as_float32(self) -> None:
        assert nf4._BORDERS.tolist() == [float(border) for border in BORDERS]
        for border, (low, high) in zip(nf4._BORDERS, pairwise(LEVELS_FLOAT32), strict=True):
            mean = (Fraction(float(low)) + Fraction(float(high))) / 2
            for neighbour in (np.nextafter(border, np.float32(-2)), np.nextafter(border, np.float32(2))):
                assert abs(Fraction(float(border)) - mean) <= abs(Fraction(float(neighbour)) - mean)

    def test_half_their_widest_distance_is_what_the_docstring_says(self) -> None:
        assert 0.1519035 < float(np.diff(LEVELS_FLOAT32.astype(np.float64)).max()) / 2 <= 0.1519036

    @pytest.mark.parametrize("component", ["float32", "float64"])
    def test_each_is_exact(self, component: str) -> None:
        values = LEVELS_FLOAT32.astype(component)
        quantized = encode(values)
        assert unpacked(quantized.codes, 16) == list(range(16))
        assert decode(quantized, values).tolist() == values.tolist()

    @each("component", ["float32", "float64"])
    @each("code", range(15))
    def test_a_value_on_a_border_takes_the_lower_level_and_the_next_one_the_upper(
        self, component: str, code: int
    ) -> None:
        border = component_dtype(component).type(BORDERS[code])
        values = np.array([1.0, border, np.nextafter(border, 2, dtype=component)], component)
        assert unpacked(encode(values).codes, 3) == [15, code, code + 1]


class TestBound:
    """|v - decoded| <= s * (h + 2**-22)."""

    @given(
        values=finite_values("float32", 2.0**127) | finite_values("float64", 2.0**127),
        block_size=st.sampled_from(BLOCK_SIZES),
    )
    def test_no_value_breaks_it(self, values: np.ndarray, block_size: int) -> None:
        quantized = encode(values, block_size)
        errors = np.abs(values.astype(np.float64) - decode(quantized, values))
        assert (errors <= bound(values, quantized)).all()

    @pytest.mark.parametrize("component", ["float16", "bfloat16"])
    @given(seed=st.integers(0, 2**32 - 1), block_size=st.sampled_from(BLOCK_SIZES))
    def test_narrow_floats_add_their_own_rounding(self, component: str, seed: int, block_size: int) -> None:
        random = np.random.default_rng(seed)
        values = np.frombuffer(random.bytes(2 * random.integers(1, 300)), component_dtype(component)).copy()
        with np.errstate(invalid="ignore"):
            values[~(np.abs(values.astype(np.float64)) <= magnitude_limit(component))] = 1
        quantized = encode(values, block_size)
        decoded = decode(quantized, values)
        errors = np.abs(values.astype(np.float64) - decoded.astype(np.float64))
        assert (errors <= bound(values, quantized) + own_rounding(component, decoded)).all()

    @given(values=any_values("float32"))
    def test_values_of_any_bits_keep_it_or_are_kept_or_refused(self, values: np.ndarray) -> None:
        regular = np.abs(values) <= np.float32(2.0**127)
        if np.count_nonzero(~regular) > 0.01 * values.size:
            with pytest.raises(TooManyExceptionsError):
                encode(values)
            return
        quantized = encode(values)
        decoded = decode(quantized, values)
        assert decoded[~regular].tobytes() == values[~regular].tobytes()
        errors = np.abs(values[regular].astype(np.float64) - decoded[regular])
        assert (errors <= bound(np.where(regular, values, 0), quantized)[regular]).all()

    @each("component", COMPONENTS)
    @each("block_size", BLOCK_SIZES)
    def test_a_slow_encoder_that_follows_the_formula_agrees(self, component: str, block_size: int) -> None:
        random = np.random.default_rng(block_size)
        for scale in (1e-45, 1e-38, 0.02, 300.0):
            values = (random.standard_normal(301) * scale).astype(component_dtype(component))
            values[100:250:71] = [np.nan, np.inf, -np.inf]
            quantized = encode(values, block_size)
            codes, scales, positions = slow_encode(values, block_size)
            assert unpacked(quantized.codes, values.size) == codes
            assert block_parameters(quantized, values.size).scales.tolist() == scales
            assert exceptions_of(quantized, values) == (positions, values[positions].tobytes())

    @each("component", COMPONENTS)
    @each("block_size", BLOCK_SIZES)
    def test_a_slow_decoder_that_follows_the_formula_agrees(self, component: str, block_size: int) -> None:
        work = np.float64 if component == "float64" else np.float32
        values = weights(component, 301)
        quantized = encode(values, block_size)
        scales = scale_per_value(quantized, values.size)
        products = [
            work(LEVELS_FLOAT32[code]) * work(scale)
            for code, scale in zip(unpacked(quantized.codes, values.size), scales, strict=True)
        ]
        assert decode(quantized, values).tobytes() == np.array(products, work).astype(values.dtype).tobytes()

    @each("component", COMPONENTS)
    def test_zeros_beside_values_are_exact(self, component: str) -> None:
        values = weights(component, 300).copy()
        values[::3] = 0
        assert not round_trip(values)[::3].any()

    @each("value", [1.0, -1.0, 2.0**127, 0.5, 1.0078125])
    def test_constant_blocks_of_a_bfloat16_are_exact(self, value: float) -> None:
        values = np.full(64, value, np.float32)
        assert round_trip(values).tolist() == values.tolist()


class TestLayout:
    """Codes and parameters, byte by byte."""

    def test_these_values_are_these_bytes(self) -> None:
        values = np.array([1.0, -1.0, 0.0, 0.5, -0.2], np.float32)
        quantized = encode(values)
        assert unpacked(quantized.codes, 5) == [15, 0, 7, 12, 5]
        assert quantized.codes.tobytes().hex() == "0fc705"
        assert quantized.parameters.hex() == "4000000000000000803f"

    @each(
        ("largest", "component", "scale"),
        [
            (1.0, "float32", 1.0),
            (1 + 2**-23, "float32", 1 + 2**-7),
            (1 + 2**-40, "float64", 1 + 2**-7),
            (-1.9999, "float64", 2.0),
        ],
    )
    def test_scales_are_rounded_away_from_zero(self, largest: float, component: str, scale: float) -> None:
        assert block_parameters(encode(np.array([0.5, largest], component)), 2).scales == [scale]

    def test_positions_and_exceptions_follow_the_scales(self) -> None:
        values = np.zeros(300, np.float32)
        values[[3, 70, 271]] = [np.inf, -np.inf, 3e38]
        quantized = encode(values)
        scales, positions = "8000" * 5, "03000000460000000f010000"
        exceptions = "0000807f000080ff" + np.float32(3e38).tobytes().hex()
        assert quantized.parameters.hex() == "4000000003000000" + scales + positions + exceptions
        assert quantized.codes.tobytes() == b"\x77" * 150

    @each("block_size", BLOCK_SIZES)
    @each("extra", [-1, 0, 1])
    def test_every_started_block_has_a_scale(self, block_size: int, extra: int) -> None:
        count = 3 * block_size + extra
        quantized = encode(weights("float32", count), block_size)
        assert quantized.codes.size == (count + 1) // 2
        assert len(quantized.parameters) == _HEADER.size + 2 * (3 if extra <= 0 else 4)

    @pytest.mark.parametrize("block_size", BLOCK_SIZES)
    def test_blocks_do_not_know_of_each_other(self, block_size: int) -> None:
        values = weights("float32", 3 * block_size + 5) * np.float32(10)
        whole = unpacked(encode(values, block_size).codes, values.size)
        for start in range(0, values.size, block_size):
            block = values[start : start + block_size]
            assert whole[start : start + block_size] == unpacked(encode(block, block_size).codes, block.size)

    def test_a_block_of_zeros_has_the_smallest_scale_and_loses_the_sign(self) -> None:
        values = np.full(65, -0.0, np.float32)
        assert block_parameters(encode(values), 65).scales.tolist() == [SCALE_MIN] * 2
        assert round_trip(values).tobytes() == bytes(260)


class TestExceptions:
    """Values that are kept raw."""

    @pytest.mark.parametrize("component", ["float16", "float32", "float64"])
    def test_nans_keep_sign_and_payload(self, component: str) -> None:
        exceptions = nan_bits(component, [1, 2, 17, -1, -513])
        values = with_exceptions(component, exceptions)
        decoded = round_trip(values)
        assert decoded[np.isnan(values)].tobytes() == exceptions.tobytes()
        assert not np.isnan(decoded[~np.isnan(values)]).any()

    @each("component", COMPONENTS)
    def test_infinities_and_values_too_large_stay_bit_for_bit(self, component: str) -> None:
        limit = magnitude_limit(component)
        exceptions = np.array([np.inf, -np.inf, limit * 1.5, -limit * 1.5], component_dtype(component))
        values = with_exceptions(component, exceptions)
        quantized = encode(values)
        assert exceptions_of(quantized, values) == ([0, 251, 502, 753], exceptions.tobytes())
        assert decode(quantized, values)[[0, 251, 502, 753]].tobytes() == exceptions.tobytes()

    @each("component", COMPONENTS)
    def test_the_largest_regular_value_is_none_and_stays_finite(self, component: str) -> None:
        values = np.full(64, magnitude_limit(component), component_dtype(component))
        values[1::2] *= -1
        assert block_parameters(encode(values), 64).exception_count == 0
        assert np.isfinite(round_trip(values).astype(np.float64)).all()

    def test_they_leave_their_blocks_scale_alone(self) -> None:
        values = weights("float32", 256).copy()
        values[11] = 0
        expected = round_trip(values)
        values[11] = np.inf
        assert np.delete(round_trip(values), 11).tobytes() == np.delete(expected, 11).tobytes()

    @each(("count", "allowed"), [(100, 1), (199, 1), (200, 2), (1000, 10)])
    def test_one_percent_is_allowed_and_no_more(self, count: int, allowed: int) -> None:
        values = weights("float32", count).copy()
        values[:allowed] = np.nan
        assert block_parameters(encode(values), count).exception_count == allowed
        values[allowed] = np.inf
        message = rf"^{allowed + 1} of {count} values are exceptions .* to nf4, the limit is 1%$"
        with pytest.raises(TooManyExceptionsError, match=message):
            encode(values)


class TestHostileParameters:
    """What no encoder writes, one rule after the other."""

    CODES = np.array([0x7F, 0x00], np.uint8)
    """1.0, an exception's, -1.0."""
    FLOAT32 = np.dtype("<f4")

    def parameters(self, block_size=64, reserved=0, exception_count=1, scale=0x3F80, rest=None):
        rest = b"\1\0\0\0\0\0\xc0\x7f" if rest is None else rest
        return _HEADER.pack(block_size, reserved, exception_count) + struct.pack("<H", scale) + rest

    def test_the_parameters_below_are_right_but_for_what_they_change(self) -> None:
        decoded = Nf4.decode(self.CODES, self.parameters(), self.FLOAT32, 3)
        assert decoded[[0, 2]].tolist() == [1.0, -1.0]
        assert np.isnan(decoded[1])

    @each(
        ("changes", "message"),
        [
            ({"block_size": 16}, r"^block_size of nf4 is 16, must be one of \(32, 64, 128\)$"),
            ({"reserved": 258}, r"^reserved field of nf4 is 258, must be 0$"),
            ({"exception_count": 0}, r"^nf4 has 18 bytes of parameters, must be 10$"),
            ({"exception_count": 2}, r"^nf4 has 18 bytes of parameters, must be 26$"),
            ({"exception_count": 2**32 - 1}, r"^nf4 has 18 bytes of parameters, must be 34359738370$"),
            ({"rest": bytes(7)}, r"^nf4 has 17 bytes of parameters, must be 18$"),
            ({"scale": 0x007F}, r"^a scale of nf4 is not a positive normal bfloat16$"),
            ({"scale": 0x7F80}, r"^a scale of nf4 is not a positive normal bfloat16$"),
            ({"rest": b"\0\0\0\0\0\0\xc0\x7f"}, r"^the code of one of nf4's exceptions is not that of zero$"),
            ({"rest": b"\3\0\0\0\0\0\xc0\x7f"}, r"^positions of nf4's exceptions do not ascend to at most 2$"),
            ({"rest": b"\xff" * 4 + b"\0\0\xc0\x7f"}, r"^positions of nf4's exceptions do not ascend to at most 2$"),
            (
                {"exception_count": 2, "rest": b"\1\0\0\0" * 2 + bytes(8)},
                r"^positions of nf4's exceptions do not ascend to at most 2$",
            ),
        ],
    )
    def test_a_broken_rule_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CorruptChunkError, match=message):
            Nf4.decode(self.CODES, self.parameters(**changes), self.FLOAT32, 3)

    def test_anything_behind_an_odd_last_nibble_is_damage(self) -> None:
        message = r"^the last nibble of nf4 is 7, must be 0 after an odd count$"
        with pytest.raises(CorruptChunkError, match=message):
            Nf4.decode(np.array([0x7F, 0x70], np.uint8), self.parameters(), self.FLOAT32, 3)
