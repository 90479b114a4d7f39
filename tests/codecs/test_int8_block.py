"""The int8_block quantizer: the contract, and bound, exceptions and layout of the symmetric variant as documented.

The affine variant, the choice between the two and fewer codes are in `test_int8_block_variants.py`.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_int_blocks import (
    SYMMETRIC,
    IntBlockParameters,
    error_bound,
    int_block_parameters,
    slow_encode,
)
from contract.codec_quantizer_contract import QuantizerContract, component_dtype, dequantize, quantize, weights
from contract.codec_scales import SCALE_MIN, bfloat16_value
from contract.codec_values import finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.quantizers.int8_block import Int8Block

BLOCK_SIZES = [32, 64, 128, 256]
COMPONENTS = ("float16", "bfloat16", "float32", "float64")
_HEADER = struct.Struct("<HHI")


def parameters_of(quantized: Quantized) -> IntBlockParameters:
    """Return the parameters of the symmetric variant, which are laid out alike for every dtype."""
    found = int_block_parameters(quantized, np.dtype(np.float32))
    assert found.variant == SYMMETRIC
    return found


def encode(values: np.ndarray, block_size: int = 64) -> Quantized:
    return quantize(Int8Block(block_size=block_size, variant="symmetric"), values)


def round_trip(values: np.ndarray, block_size: int = 64) -> np.ndarray:
    return dequantize(Int8Block, encode(values, block_size), values.dtype)


def with_exceptions(component: str, exceptions: np.ndarray, count: int = 1000) -> np.ndarray:
    """Return weights with `exceptions` spread among them."""
    values = weights(component, count).copy()
    values[:: count // exceptions.size][: exceptions.size] = exceptions
    return values


class TestInt8Block(QuantizerContract, SettingsContract):
    codec_type = Int8Block
    id = "int8_block"
    number = 2
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    configurations = (
        {},
        *({"block_size": size} for size in BLOCK_SIZES),
        *({"variant": variant} for variant in ("auto", "symmetric", "affine")),
        {"code_max": 15},
        {"block_size": 32, "code_max": 127, "variant": "affine"},
    )

    refusals = (
        *(
            Refusal("block_size", value, "one of (32, 64, 128, 256)")
            for value in (0, 1, 16, 63, 512, -64, True, "64", None, 64.0)
        ),
        *(Refusal("code_max", value, "an integer from 0 to 127") for value in (-1, 128, True, "15", None, 15.0)),
        *(
            Refusal("variant", value, "one of ('auto', 'symmetric', 'affine')")
            for value in ("", "AFFINE", "asymmetric", None, 1, True)
        ),
    )

    def error_bound(self, codec, values, quantized):
        return error_bound(values, quantized)


def test_the_defaults_are_blocks_of_64_all_codes_and_the_variant_that_suits() -> None:
    assert Int8Block() == Int8Block(block_size=64, code_max=0, variant="auto")


class TestBound:
    """|v - q * s| <= s * (1/2 + 2**-16), and the decoded value is q * s."""

    @pytest.mark.parametrize("component", ["float32", "float64"])
    @given(data=st.data(), block_size=st.sampled_from(BLOCK_SIZES))
    def test_no_value_breaks_it(self, component: str, data: st.DataObject, block_size: int) -> None:
        values = data.draw(finite_values(component, 2.0**127))
        quantized = encode(values, block_size)
        scales = np.repeat(parameters_of(quantized).scales, block_size)[: values.size]
        decoded = dequantize(Int8Block, quantized, values.dtype).astype(np.float64)
        assert (decoded == quantized.codes * scales).all()
        assert (np.abs(values.astype(np.float64) - decoded) <= scales * (0.5 + 2.0**-16)).all()

    @pytest.mark.parametrize("component", ["float16", "bfloat16"])
    @given(seed=st.integers(0, 2**32 - 1), block_size=st.sampled_from(BLOCK_SIZES))
    def test_narrow_floats_add_their_own_rounding(self, component: str, seed: int, block_size: int) -> None:
        random = np.random.default_rng(seed)
        values = np.frombuffer(random.bytes(2 * random.integers(1, 300)), component_dtype(component)).copy()
        with np.errstate(invalid="ignore"):
            magnitudes = np.abs(values.astype(np.float64))
        # Values beyond 2**15 and 2**127 would be exceptions.
        values[~(magnitudes <= (2.0**15 if component == "float16" else 2.0**127))] = 1
        quantized = encode(values, block_size)
        scales = np.repeat(parameters_of(quantized).scales, block_size)[: values.size]
        with np.errstate(all="ignore"):
            expected = (quantized.codes * scales).astype(values.dtype)
        assert dequantize(Int8Block, quantized, values.dtype).tobytes() == expected.tobytes()
        errors = np.abs(values.astype(np.float64) - quantized.codes * scales)
        assert (errors <= scales * (0.5 + 2.0**-16)).all()

    @each("component", COMPONENTS)
    @each("block_size", BLOCK_SIZES)
    def test_a_slow_encoder_that_follows_the_formula_agrees(self, component: str, block_size: int) -> None:
        random = np.random.default_rng(block_size)
        for scale in (1e-45, 1e-38, 1e-6, 0.02, 1.0, 300.0):
            values = (random.standard_normal(600) * scale).astype(component_dtype(component))
            values[100:400:100] = [np.nan, np.inf, -np.inf]
            quantized = encode(values, block_size)
            parameters = parameters_of(quantized)
            expected = slow_encode(values, block_size, affine=False)
            assert quantized.codes.tolist() == expected.codes
            assert parameters.scales.tolist() == expected.scales
            assert parameters.exceptions == expected.exceptions

    @given(data=st.data())
    def test_the_scale_of_float64_is_rounded_up_from_float64(self, data: st.DataObject) -> None:
        values = data.draw(finite_values("float64", 2.0**127))
        expected = slow_encode(values, 64, affine=False)
        quantized = encode(values)
        assert parameters_of(quantized).scales.tolist() == expected.scales
        assert quantized.codes.tolist() == expected.codes

    @each("component", COMPONENTS)
    def test_no_code_but_an_exceptions_is_below_minus_127(self, component: str) -> None:
        for seed in range(50):
            codes = encode(weights(component, 64, seed)).codes
            assert 120 <= np.abs(codes.astype(int)).max() <= 127

    @each("value", [1.0, -1.0, 3e-39, 1e-45, 3.3, 2.0**127, 1e30])
    def test_constant_blocks_keep_it(self, value: float) -> None:
        values = np.full(64, value, np.float32)
        (scale,) = parameters_of(encode(values)).scales
        assert abs(float(round_trip(values)[0]) - float(values[0])) <= scale * (0.5 + 2.0**-16)


class TestLayout:
    """Codes and parameters, byte by byte."""

    def test_a_block_whose_largest_value_is_127_has_scale_1(self) -> None:
        values = np.array([127.0, -127.0, 1.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49, 0.51], np.float32)
        quantized = encode(values)
        assert quantized.codes.tolist() == [127, -127, 1, 0, 2, 2, 0, -2, 0, 1]
        assert quantized.parameters.hex() == "4000000000000000803f"

    @each(
        ("largest", "component", "scale"),
        [
            (127.0, "float32", 1.0),
            (127 * (1 + 2**-7), "float32", 1 + 2**-7),
            # The quotient is the float32 right above 1.0, and in float64 one that float32 cannot tell from 1.0.
            (127 + 2**-16, "float32", 1 + 2**-7),
            (127 * (1 + 2**-40), "float64", 1 + 2**-7),
            (127 * (1 + 2**-7) + 0.001, "float32", 1 + 2**-6),
            (-127 * (1 + 2**-7) - 0.001, "float64", 1 + 2**-6),
            (127 * 1.99, "float32", 1.9921875),
            (127 * 1.9999, "float32", 2.0),
        ],
    )
    def test_scales_are_rounded_away_from_zero(self, largest: float, component: str, scale: float) -> None:
        assert parameters_of(encode(np.array([0.5, largest], component))).scales == [scale]

    def test_exceptions_follow_the_scales_in_order(self) -> None:
        values = np.zeros(300, np.float32)
        values[[3, 70, 71]] = [np.inf, -np.inf, 3e38]
        quantized = encode(values)
        scales = "8000" * 5
        assert quantized.parameters.hex() == "4000000003000000" + scales + "0000807f000080ff" + (
            np.float32(3e38).tobytes().hex()
        )
        assert [index for index in range(300) if quantized.codes[index] == -128] == [3, 70, 71]

    @each("block_size", BLOCK_SIZES)
    @each("extra", [-1, 0, 1])
    def test_every_started_block_has_a_scale(self, block_size: int, extra: int) -> None:
        count = 3 * block_size + extra
        quantized = encode(weights("float32", count), block_size)
        assert quantized.codes.size == count
        assert len(quantized.parameters) == _HEADER.size + 2 * (3 if extra <= 0 else 4)
        assert parameters_of(quantized).block_size == block_size

    @each("block_size", BLOCK_SIZES)
    def test_blocks_do_not_know_of_each_other(self, block_size: int) -> None:
        # The last block is a short one.
        values = weights("float32", 3 * block_size + 5) * np.float32(10)
        whole = encode(values, block_size)
        for number, start in enumerate(range(0, values.size, block_size)):
            alone = encode(values[start : start + block_size], block_size)
            assert whole.codes[start : start + block_size].tolist() == alone.codes.tolist()
            assert parameters_of(whole).scales[number] == parameters_of(alone).scales[0]

    def test_a_block_of_zeros_has_the_smallest_scale_and_loses_the_sign(self) -> None:
        values = np.full(64, -0.0, np.float32)
        assert parameters_of(encode(values)).scales == [SCALE_MIN]
        assert round_trip(values).tobytes() == bytes(256)

    @pytest.mark.parametrize("value", [1e-40, -1e-45, 2.0**-127])
    def test_subnormal_values_meet_the_smallest_scale(self, value: float) -> None:
        values = np.full(64, value, np.float32)
        assert parameters_of(encode(values)).scales == [SCALE_MIN]
        assert (np.abs(round_trip(values) - values) <= SCALE_MIN / 2).all()

    def test_tiny_float64_values_meet_the_smallest_scale(self) -> None:
        values = np.full(64, 1e-200)
        assert parameters_of(encode(values)).scales == [SCALE_MIN]
        assert not round_trip(values).any()


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
        limit = 2.0**15 if component == "float16" else 2.0**127
        exceptions = np.array([np.inf, -np.inf, limit * 1.5, -limit * 1.5], component_dtype(component))
        values = with_exceptions(component, exceptions)
        quantized = encode(values)
        assert parameters_of(quantized).exceptions == exceptions.tobytes()
        decoded = dequantize(Int8Block, quantized, values.dtype)
        assert decoded[quantized.codes == -128].tobytes() == exceptions.tobytes()

    def test_values_beyond_the_range_of_float32_are_exceptions_of_float64(self) -> None:
        exceptions = np.array([1e200, -1e200, np.finfo(np.float64).max])
        values = with_exceptions("float64", exceptions)
        assert round_trip(values)[np.abs(values) > 1].tolist() == exceptions.tolist()

    @each("component", COMPONENTS)
    def test_the_largest_regular_value_is_none_and_stays_finite(self, component: str) -> None:
        limit = 2.0**15 if component == "float16" else 2.0**127
        values = np.full(64, limit, component_dtype(component))
        values[1::2] *= -1
        assert parameters_of(encode(values)).exception_count == 0
        assert np.isfinite(round_trip(values).astype(np.float64)).all()

    @each("component", COMPONENTS)
    def test_the_next_value_is_one(self, component: str) -> None:
        limit = component_dtype(component).type(2.0**15 if component == "float16" else 2.0**127)
        above = np.nextafter(limit, component_dtype(component).type(np.inf))
        values = with_exceptions(component, np.array([above, -above]))
        assert parameters_of(encode(values)).exception_count == 2
        assert (round_trip(values)[encode(values).codes == -128] == [above, -above]).all()

    @pytest.mark.parametrize("value", [40_000.0, 65_504.0])
    def test_float16_near_its_largest_value_is_kept(self, value: float) -> None:
        values = with_exceptions("float16", np.array([value, -value], np.float16))
        decoded = round_trip(values)
        assert decoded[np.abs(values) > 1].tolist() == [value, -value]

    def test_they_leave_their_blocks_scale_alone(self) -> None:
        values = weights("float32", 256).copy()
        values[10] = 0
        expected = round_trip(values)
        values[10] = np.inf
        assert np.delete(round_trip(values), 10).tobytes() == np.delete(expected, 10).tobytes()

    @each(("count", "allowed"), [(100, 1), (199, 1), (200, 2), (1000, 10)])
    def test_one_percent_is_allowed_and_no_more(self, count: int, allowed: int) -> None:
        values = weights("float32", count).copy()
        values[:allowed] = np.nan
        assert parameters_of(encode(values)).exception_count == allowed
        values[allowed] = np.inf
        message = rf"^{allowed + 1} of {count} values are exceptions .* to int8_block, the limit is 1%$"
        with pytest.raises(TooManyExceptionsError, match=message):
            encode(values)

    @pytest.mark.parametrize("count", [1, 2, 99])
    def test_a_short_chunk_may_have_none(self, count: int) -> None:
        values = np.zeros(count, np.float32)
        values[-1] = np.nan
        with pytest.raises(TooManyExceptionsError, match=rf"^1 of {count} values are exceptions"):
            encode(values)


class TestHostileParameters:
    """What no encoder writes, one rule after the other."""

    CODES = np.array([1, -128, 3], np.int8)
    FLOAT32 = np.dtype("<f4")

    def parameters(
        self, block_size=64, variant=0, exception_count=1, scale=0x3F80, exceptions=b"\0\0\xc0\x7f"
    ) -> bytes:
        return _HEADER.pack(block_size, variant, exception_count) + struct.pack("<H", scale) + exceptions

    def test_the_parameters_below_are_right_but_for_what_they_change(self) -> None:
        decoded = Int8Block.decode(self.CODES, self.parameters(), self.FLOAT32, 3)
        assert decoded[[0, 2]].tolist() == [1.0, 3.0]
        assert math.isnan(decoded[1])

    @each(
        ("changes", "message"),
        [
            ({"block_size": 0}, r"^block_size of int8_block is 0, must be one of \(32, 64, 128, 256\)$"),
            ({"block_size": 65}, r"^block_size of int8_block is 65, must be one of \(32, 64, 128, 256\)$"),
            ({"block_size": 65535}, r"^block_size of int8_block is 65535, must be one of"),
            ({"variant": 2}, r"^variant of int8_block is 2, must be 0 or 1$"),
            ({"variant": 65535}, r"^variant of int8_block is 65535, must be 0 or 1$"),
            ({"exception_count": 0}, r"^int8_block has 14 bytes of parameters, must be 10$"),
            ({"exception_count": 2}, r"^int8_block has 14 bytes of parameters, must be 18$"),
            ({"exception_count": 2**32 - 1}, r"^int8_block has 14 bytes of parameters, must be 17179869190$"),
            ({"exceptions": b""}, r"^int8_block has 10 bytes of parameters, must be 14$"),
            ({"exceptions": bytes(3)}, r"^int8_block has 13 bytes of parameters, must be 14$"),
            ({"exceptions": bytes(5)}, r"^int8_block has 15 bytes of parameters, must be 14$"),
            (
                {"exception_count": 0, "exceptions": b""},
                r"^int8_block has 0 exceptions, but 1 codes mark one$",
            ),
            (
                {"exception_count": 2, "exceptions": bytes(8)},
                r"^int8_block has 2 exceptions, but 1 codes mark one$",
            ),
            ({"scale": 0x0000}, r"^a scale of int8_block is not a positive normal bfloat16$"),
            ({"scale": 0x007F}, r"^a scale of int8_block is not a positive normal bfloat16$"),
            ({"scale": 0x7F80}, r"^a scale of int8_block is not a positive normal bfloat16$"),
            ({"scale": 0x7FC0}, r"^a scale of int8_block is not a positive normal bfloat16$"),
            ({"scale": 0xBF80}, r"^a scale of int8_block is not a positive normal bfloat16$"),
        ],
    )
    def test_a_broken_rule_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CorruptChunkError, match=message):
            Int8Block.decode(self.CODES, self.parameters(**changes), self.FLOAT32, 3)

    def test_a_header_that_ends_early_is_damage(self) -> None:
        with pytest.raises(CorruptChunkError, match=r"^int8_block has 7 bytes of parameters, at least 8$"):
            Int8Block.decode(self.CODES, self.parameters()[:7], self.FLOAT32, 3)

    @pytest.mark.parametrize("scale", [0x0080, 0x7F7F])
    def test_the_extreme_scales_are_allowed(self, scale: int) -> None:
        quantized = Quantized(self.CODES, self.parameters(scale=scale))
        assert dequantize(Int8Block, quantized, self.FLOAT32)[0] == np.float32(bfloat16_value(scale))

    def test_float64_is_multiplied_in_float64(self) -> None:
        # In float32 this would overflow.
        codes, scale = np.array([127, -127], np.int8), struct.pack("<H", 0x7F7F)
        decoded = Int8Block.decode(codes, _HEADER.pack(64, 0, 0) + scale, np.dtype("<f8"), 2)
        assert decoded.tolist() == [127 * bfloat16_value(0x7F7F), -127 * bfloat16_value(0x7F7F)]

    def test_one_bad_scale_among_many_is_damage(self) -> None:
        quantized = encode(np.ones(640, np.float32))
        for number in range(10):
            parameters = bytearray(quantized.parameters)
            parameters[_HEADER.size + 2 * number : _HEADER.size + 2 * number + 2] = b"\0\0"
            with pytest.raises(CorruptChunkError, match=r"^a scale of int8_block is not"):
                Int8Block.decode(quantized.codes, bytes(parameters), self.FLOAT32, 640)
