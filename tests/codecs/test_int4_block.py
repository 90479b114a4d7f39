"""The int4_block quantizer: the contract, the bound, the exceptions and the layout that its docstring promises."""

from __future__ import annotations

import struct
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
from tensorus_codecs.quantizers.int4_block import Int4Block

BLOCK_SIZES = [32, 64, 128]
COMPONENTS = ("float16", "bfloat16", "float32", "float64")
_HEADER = struct.Struct("<HHI")
_BOUND = 0.5 + 2.0**-22


def encode(values: np.ndarray, block_size: int = 32) -> Quantized:
    return quantize(Int4Block(block_size=block_size), values)


def decode(quantized: Quantized, values: np.ndarray) -> np.ndarray:
    return dequantize(Int4Block, quantized, values.dtype, values.size)


def round_trip(values: np.ndarray, block_size: int = 32) -> np.ndarray:
    return decode(encode(values, block_size), values)


def codes_of(quantized: Quantized, count: int) -> list[int]:
    """Return the codes as two's complement reads them: -8 to 7."""
    return [nibble - 16 if nibble > 7 else nibble for nibble in unpacked(quantized.codes, count)]


def slow_encode(values: np.ndarray, block_size: int) -> tuple[list[int], list[float], list[Any]]:
    """Return codes, scales and exceptions, one value after the other, from the docstring's formula."""
    work = np.float64 if values.dtype == np.float64 else np.float32
    limit = magnitude_limit(values.dtype.name)
    codes, scales, exceptions = [], [], []
    for start in range(0, values.size, block_size):
        block = values[start : start + block_size]
        regular = [work(value) for value in block if abs(float(value)) <= limit]
        largest = max((abs(value) for value in regular), default=work(0))
        scale = max(smallest_bfloat16_not_below(float(largest / work(7))), SCALE_MIN)
        scales.append(scale)
        for value in block:
            if abs(float(value)) <= limit:
                codes.append(round(float(work(value) / work(scale))))
            else:
                codes.append(-8)
                exceptions.append(value)
    return codes, scales, exceptions


def with_exceptions(component: str, exceptions: np.ndarray, count: int = 1000) -> np.ndarray:
    """Return weights with `exceptions` spread among them, on even and on odd positions."""
    values = weights(component, count).copy()
    step = count // exceptions.size | 1
    values[::step][: exceptions.size] = exceptions
    return values


class TestInt4Block(QuantizerContract, SettingsContract):
    codec_type = Int4Block
    id = "int4_block"
    number = 4
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    configurations = (
        {},
        *({"block_size": size} for size in BLOCK_SIZES),
    )

    refusals = tuple(
        Refusal("block_size", value, "one of (32, 64, 128)")
        for value in (0, 1, 16, 33, 256, -32, True, "32", None, 32.0)
    )

    def error_bound(self, codec, values, quantized):
        return scale_per_value(quantized, values.size) * _BOUND + own_rounding(
            values.dtype.name, decode(quantized, values)
        )


def test_the_default_block_size_is_32() -> None:
    assert Int4Block() == Int4Block(block_size=32)


class TestBound:
    """|v - q * s| <= s * (1/2 + 2**-22), and the decoded value is q * s."""

    @given(
        values=finite_values("float32", 2.0**127) | finite_values("float64", 2.0**127),
        block_size=st.sampled_from(BLOCK_SIZES),
    )
    def test_no_value_breaks_it(self, values: np.ndarray, block_size: int) -> None:
        quantized = encode(values, block_size)
        scales = scale_per_value(quantized, values.size)
        decoded = decode(quantized, values).astype(np.float64)
        assert (decoded == codes_of(quantized, values.size) * scales).all()
        assert (np.abs(values.astype(np.float64) - decoded) <= scales * _BOUND).all()

    @pytest.mark.parametrize("component", ["float16", "bfloat16"])
    @given(seed=st.integers(0, 2**32 - 1), block_size=st.sampled_from(BLOCK_SIZES))
    def test_narrow_floats_add_their_own_rounding(self, component: str, seed: int, block_size: int) -> None:
        random = np.random.default_rng(seed)
        values = np.frombuffer(random.bytes(2 * random.integers(1, 300)), component_dtype(component)).copy()
        with np.errstate(invalid="ignore"):
            values[~(np.abs(values.astype(np.float64)) <= magnitude_limit(component))] = 1
        quantized = encode(values, block_size)
        exact = codes_of(quantized, values.size) * scale_per_value(quantized, values.size)
        with np.errstate(all="ignore"):
            expected = (exact + 0.0).astype(values.dtype)
        assert (decode(quantized, values) == expected).all()
        assert (np.abs(values.astype(np.float64) - exact) <= scale_per_value(quantized, values.size) * _BOUND).all()

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
        assert (errors <= (scale_per_value(quantized, values.size) * _BOUND)[regular]).all()

    @each("component", COMPONENTS)
    @each("block_size", BLOCK_SIZES)
    def test_a_slow_encoder_that_follows_the_formula_agrees(self, component: str, block_size: int) -> None:
        random = np.random.default_rng(block_size)
        for scale in (1e-45, 1e-38, 1e-6, 0.02, 1.0, 300.0):
            values = (random.standard_normal(601) * scale).astype(component_dtype(component))
            values[100:400:101] = [np.nan, np.inf, -np.inf]
            quantized = encode(values, block_size)
            parameters = block_parameters(quantized, values.size)
            codes, scales, exceptions = slow_encode(values, block_size)
            assert codes_of(quantized, values.size) == codes
            assert parameters.scales.tolist() == scales
            assert parameters.rest == np.array(exceptions, values.dtype).tobytes()

    @given(values=finite_values("float64", 2.0**127))
    def test_the_scale_of_float64_is_rounded_up_from_float64(self, values: np.ndarray) -> None:
        codes, scales, _ = slow_encode(values, 32)
        quantized = encode(values)
        assert block_parameters(quantized, values.size).scales.tolist() == scales
        assert codes_of(quantized, values.size) == codes

    @each("component", COMPONENTS)
    def test_every_block_reaches_code_7_and_none_but_an_exceptions_is_minus_8(self, component: str) -> None:
        for seed in range(50):
            codes = codes_of(encode(weights(component, 32, seed)), 32)
            assert max(abs(code) for code in codes) == 7


class TestLayout:
    """Codes and parameters, byte by byte."""

    def test_a_block_whose_largest_value_is_7_has_scale_1(self) -> None:
        values = np.array([7.0, -7.0, 1.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51], np.float32)
        quantized = encode(values)
        assert codes_of(quantized, 10) == [7, -7, 1, 0, 2, 2, 0, -2, 0, 1]
        assert quantized.codes.tobytes().hex() == "970122e010"
        assert quantized.parameters.hex() == "2000000000000000803f"

    @pytest.mark.parametrize("value", [5.0, -5.0])
    def test_an_odd_last_nibble_is_followed_by_0(self, value: float) -> None:
        values = np.array([7.0, 1.0, value], np.float32)
        assert encode(values).codes.tolist() == [0x17, int(value) & 15]

    @each(
        ("largest", "component", "scale"),
        [
            (7.0, "float32", 1.0),
            (7 * (1 + 2**-7), "float32", 1 + 2**-7),
            (7 + 2**-20, "float32", 1 + 2**-7),
            (7 * (1 + 2**-40), "float64", 1 + 2**-7),
            (-7 * (1 + 2**-7) - 0.001, "float64", 1 + 2**-6),
            (7 * 1.9999, "float32", 2.0),
        ],
    )
    def test_scales_are_rounded_away_from_zero(self, largest: float, component: str, scale: float) -> None:
        assert block_parameters(encode(np.array([0.5, largest], component)), 2).scales == [scale]

    def test_exceptions_follow_the_scales_in_order(self) -> None:
        values = np.zeros(300, np.float32)
        values[[3, 70, 71]] = [np.inf, -np.inf, 3e38]
        quantized = encode(values, 64)
        scales = "8000" * 5
        assert quantized.parameters.hex() == "4000000003000000" + scales + "0000807f000080ff" + (
            np.float32(3e38).tobytes().hex()
        )
        assert [index for index, code in enumerate(codes_of(quantized, 300)) if code == -8] == [3, 70, 71]

    @each("block_size", BLOCK_SIZES)
    @each("extra", [-1, 0, 1])
    def test_every_started_block_has_a_scale(self, block_size: int, extra: int) -> None:
        count = 3 * block_size + extra
        quantized = encode(weights("float32", count), block_size)
        assert quantized.codes.size == (count + 1) // 2
        assert len(quantized.parameters) == _HEADER.size + 2 * (3 if extra <= 0 else 4)

    @pytest.mark.parametrize("block_size", BLOCK_SIZES)
    def test_blocks_do_not_know_of_each_other(self, block_size: int) -> None:
        # The last block is a short one.
        values = weights("float32", 3 * block_size + 5) * np.float32(10)
        whole = encode(values, block_size)
        for number, start in enumerate(range(0, values.size, block_size)):
            block = values[start : start + block_size]
            alone = encode(block, block_size)
            assert codes_of(whole, values.size)[start : start + block_size] == codes_of(alone, block.size)
            assert block_parameters(whole, values.size).scales[number] == block_parameters(alone, block.size).scales[0]

    def test_a_block_of_zeros_has_the_smallest_scale_and_loses_the_sign(self) -> None:
        values = np.full(33, -0.0, np.float32)
        assert block_parameters(encode(values), 33).scales.tolist() == [SCALE_MIN] * 2
        assert round_trip(values).tobytes() == bytes(132)

    @pytest.mark.parametrize("value", [1e-40, -1e-45, 2.0**-127])
    def test_subnormal_values_meet_the_smallest_scale(self, value: float) -> None:
        values = np.full(32, value, np.float32)
        assert block_parameters(encode(values), 32).scales == [SCALE_MIN]
        assert (np.abs(round_trip(values) - values) <= SCALE_MIN / 2).all()


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
        assert block_parameters(quantized, values.size).rest == exceptions.tobytes()
        marked = np.array(codes_of(quantized, values.size)) == -8
        assert decode(quantized, values)[marked].tobytes() == exceptions.tobytes()

    @each("component", COMPONENTS)
    def test_the_largest_regular_value_is_none_and_stays_finite(self, component: str) -> None:
        values = np.full(64, magnitude_limit(component), component_dtype(component))
        values[1::2] *= -1
        assert block_parameters(encode(values), 64).exception_count == 0
        assert np.isfinite(round_trip(values).astype(np.float64)).all()

    @each("component", COMPONENTS)
    def test_the_next_value_is_one(self, component: str) -> None:
        dtype = component_dtype(component)
        above = np.nextafter(dtype.type(magnitude_limit(component)), dtype.type(np.inf))
        values = with_exceptions(component, np.array([above, -above]))
        assert block_parameters(encode(values), values.size).exception_count == 2
        assert round_trip(values)[[0, 501]].tolist() == [above, -above]

    @each("component", COMPONENTS)
    def test_beside_one_the_largest_regular_value_is_none(self, component: str) -> None:
        limit = magnitude_limit(component)
        values = with_exceptions(component, np.array([np.inf, limit, -limit], component_dtype(component)))
        assert block_parameters(encode(values), values.size).exception_count == 1

    def test_what_comes_in_is_left_alone(self) -> None:
        values = with_exceptions("float32", np.array([np.nan, np.inf], np.float32), count=32 * 20)
        values.flags.writeable = False
        before = values.tobytes()
        encode(values)
        assert values.tobytes() == before

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
        message = rf"^{allowed + 1} of {count} values are exceptions .* to int4_block, the limit is 1%$"
        with pytest.raises(TooManyExceptionsError, match=message):
            encode(values)


class TestHostileParameters:
    """What no encoder writes, one rule after the other."""

    CODES = np.array([0x81, 0x03], np.uint8)
    """1, an exception, 3."""
    FLOAT32 = np.dtype("<f4")

    def parameters(self, block_size=64, reserved=0, exception_count=1, scale=0x3F80, exceptions=b"\0\0\xc0\x7f"):
        return _HEADER.pack(block_size, reserved, exception_count) + struct.pack("<H", scale) + exceptions

    def test_the_parameters_below_are_right_but_for_what_they_change(self) -> None:
        decoded = Int4Block.decode(self.CODES, self.parameters(), self.FLOAT32, 3)
        assert decoded[[0, 2]].tolist() == [1.0, 3.0]
        assert np.isnan(decoded[1])

    @each(
        ("changes", "message"),
        [
            ({"block_size": 0}, r"^block_size of int4_block is 0, must be one of \(32, 64, 128\)$"),
            ({"block_size": 256}, r"^block_size of int4_block is 256, must be one of \(32, 64, 128\)$"),
            ({"reserved": 1}, r"^reserved field of int4_block is 1, must be 0$"),
            ({"exception_count": 0}, r"^int4_block has 14 bytes of parameters, must be 10$"),
            ({"exception_count": 2**32 - 1}, r"^int4_block has 14 bytes of parameters, must be 17179869190$"),
            ({"exceptions": bytes(3)}, r"^int4_block has 13 bytes of parameters, must be 14$"),
            (
                {"exception_count": 0, "exceptions": b""},
                r"^int4_block has 0 exceptions, but 1 codes mark one$",
            ),
            (
                {"exception_count": 2, "exceptions": bytes(8)},
                r"^int4_block has 2 exceptions, but 1 codes mark one$",
            ),
            ({"scale": 0x0000}, r"^a scale of int4_block is not a positive normal bfloat16$"),
            ({"scale": 0x007F}, r"^a scale of int4_block is not a positive normal bfloat16$"),
            ({"scale": 0x7F80}, r"^a scale of int4_block is not a positive normal bfloat16$"),
            ({"scale": 0xBF80}, r"^a scale of int4_block is not a positive normal bfloat16$"),
        ],
    )
    def test_a_broken_rule_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CorruptChunkError, match=message):
            Int4Block.decode(self.CODES, self.parameters(**changes), self.FLOAT32, 3)

    def test_a_header_that_ends_early_is_damage(self) -> None:
        with pytest.raises(CorruptChunkError, match=r"^int4_block has 7 bytes of parameters, at least 8$"):
            Int4Block.decode(self.CODES, self.parameters()[:7], self.FLOAT32, 3)

    @pytest.mark.parametrize("nibble", [1, 8, 15])
    def test_anything_behind_an_odd_last_nibble_is_damage(self, nibble: int) -> None:
        codes = np.array([0x81, 0x03 | nibble << 4], np.uint8)
        message = rf"^the last nibble of int4_block is {nibble}, must be 0 after an odd count$"
        with pytest.raises(CorruptChunkError, match=message):
            Int4Block.decode(codes, self.parameters(), self.FLOAT32, 3)

    @pytest.mark.parametrize("scale", [0x0080, 0x7F7F])
    def test_the_extreme_scales_are_allowed(self, scale: int) -> None:
        decoded = dequantize(Int4Block, Quantized(self.CODES, self.parameters(scale=scale)), self.FLOAT32, 3)
        assert decoded[0] == np.array(scale << 16, np.uint32).view(np.float32)

    def test_float64_is_multiplied_in_float64(self) -> None:
        # In float32 this would overflow.
        parameters = _HEADER.pack(64, 0, 0) + struct.pack("<H", 0x7F7F)
        decoded = Int4Block.decode(np.array([0x97], np.uint8), parameters, np.dtype("<f8"), 2)
        largest = float(np.array(0x7F7F0000, np.uint32).view(np.float32))
        assert decoded.tolist() == [7 * largest, -7 * largest]
