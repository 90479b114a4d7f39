"""The int8_block quantizer: the affine variant, the choice between the two, and fewer codes."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_int_blocks import (
    AFFINE,
    SYMMETRIC,
    error_bound,
    int_block_parameters,
    is_affine,
    pack_parameters,
    slow_decode,
    slow_encode,
)
from contract.codec_quantizer_contract import component_dtype, dequantize, quantize
from contract.codec_scales import SCALE_MIN, magnitude_limit
from contract.codec_values import any_values, clustered_values, finite_values, nan_bits
from support.cases import each
from tensorus_codecs.abc import Quantized, Values
from tensorus_codecs.errors import CorruptChunkError, TooManyExceptionsError
from tensorus_codecs.quantizers.int8_block import Int8Block

BLOCK_SIZES = [32, 64, 128, 256]
COMPONENTS = ("float16", "bfloat16", "float32", "float64")
CODE_MAXIMA = [0, 1, 2, 3, 7, 64, 126, 127]
FLOAT32 = np.dtype("<f4")


def encode(values: Values, variant: str = "affine", block_size: int = 64, code_max: int = 0) -> Quantized:
    return quantize(Int8Block(block_size=block_size, code_max=code_max, variant=variant), values)


def round_trip(values: Values, variant: str = "affine", block_size: int = 64) -> Values:
    return dequantize(Int8Block, encode(values, variant, block_size), values.dtype)


def offset_values(component: str, count: int, *, centre: float = 100.0, width: float = 1.0, seed: int = 0) -> Values:
    """Return values evenly distributed within `width` of `centre`."""
    values = np.random.default_rng(seed).uniform(centre - width, centre + width, count)
    return values.astype(component_dtype(component))


def finite_of_any_kind(component: str) -> st.SearchStrategy[Values]:
    """Return values without exceptions: around zero, away from it, and of every magnitude."""
    limit = magnitude_limit(component)
    wide = "float32" if component == "bfloat16" else component
    # The limits are powers of two, which no rounding to bfloat16 exceeds.
    spread = finite_values(wide, limit).map(lambda values: values.astype(component))
    return clustered_values(component, limit) | spread


class TestAffineFormula:
    """Codes, scales and midpoints are those of a slow encoder that follows the docstring."""

    @each("component", COMPONENTS)
    @each("block_size", BLOCK_SIZES)
    def test_it_agrees(self, component: str, block_size: int) -> None:
        limit = magnitude_limit(component)
        for centre, width in ((0.0, 1.0), (100.0, 1.0), (-3.0, 1e-3), (1e-3, 1e-3), (limit / 2, limit / 2), (0, 1e-44)):
            values = offset_values(component, 600, centre=centre, width=width)
            values[100:400:100] = [np.nan, np.inf, -np.inf]
            quantized = encode(values, block_size=block_size)
            parameters = int_block_parameters(quantized, values.dtype)
            expected = slow_encode(values, block_size, affine=True)
            assert (parameters.variant, parameters.block_size, parameters.exception_count) == (AFFINE, block_size, 3)
            assert quantized.codes.tolist() == expected.codes
            assert parameters.scales.tolist() == expected.scales
            assert parameters.middles.tolist() == expected.middles
            assert parameters.exceptions == expected.exceptions

    @pytest.mark.parametrize("component", COMPONENTS)
    @given(data=st.data(), code_max=st.integers(1, 127), affine=st.booleans())
    def test_it_agrees_for_any_values_and_codes(
        self, component: str, data: st.DataObject, code_max: int, affine
    ) -> None:
        values = data.draw(finite_of_any_kind(component))
        quantized = encode(values, "affine" if affine else "symmetric", 32, code_max)
        parameters = int_block_parameters(quantized, values.dtype)
        expected = slow_encode(values, 32, affine=affine, code_max=code_max)
        assert quantized.codes.tolist() == expected.codes
        assert parameters.scales.tolist() == expected.scales
        assert parameters.middles.tolist() == expected.middles

    def test_a_block_is_these_bytes(self) -> None:
        # The midpoint is 10, the farthest value is 127 steps of 1/128 away.
        values = np.array([10 - 127 / 128, 10 + 127 / 128, 10, 10 + 1 / 128, 10 + 0.5 / 128], np.float32)
        quantized = encode(values)
        assert quantized.codes.tolist() == [-127, 127, 0, 1, 0]
        assert quantized.parameters.hex() == "4000010000000000" + "003c" + "00002041"

    def test_midpoints_of_float64_are_float64_and_come_before_the_exceptions(self) -> None:
        values = np.full(200, 1e100)
        values[:] = 10.0
        values[100] = np.inf
        quantized = encode(values, block_size=128)
        assert quantized.parameters == pack_parameters(
            128, AFFINE, 1, (0x0080, 0x0080), struct.pack("<3d", 10.0, 10.0, np.inf)
        )


class TestBound:
    """|v - decoded| <= s (1/2 + c * 2**-22) + 2**-24 |m|, and what narrow dtypes add; half of it where symmetric."""

    @pytest.mark.parametrize("component", COMPONENTS)
    @given(
        data=st.data(),
        variant=st.sampled_from(["affine", "symmetric", "auto"]),
        block_size=st.sampled_from(BLOCK_SIZES),
        code_max=st.integers(1, 127),
    )
    def test_no_value_breaks_it(
        self, component: str, data: st.DataObject, variant: str, block_size: int, code_max: int
    ) -> None:
        values = data.draw(finite_of_any_kind(component))
        quantized = encode(values, variant, block_size, code_max)
        assert np.abs(quantized.codes.astype(int)).max() <= code_max
        decoded = dequantize(Int8Block, quantized, values.dtype).astype(np.float64)
        assert (np.abs(values.astype(np.float64) - decoded) <= error_bound(values, quantized, code_max)).all()

    @each("component", ["float32", "float64"])
    @each("code_max", CODE_MAXIMA)
    @each("centre", [100.0, -100.0, 1.0, 0.75, 3e-39, 2.0**126])
    def test_ranges_of_a_few_units_in_the_last_place_keep_it(
        self, component: str, code_max: int, centre: float
    ) -> None:
        # The midpoint of an odd number of units is rounded: half the range is not what a code must reach.
        values = np.full((600, 32), centre, component)
        unit = np.spacing(np.abs(values[0, 0]))
        values[:, 0] += np.arange(600) * unit
        values[:, 1] += np.arange(600) // 2 * unit
        values[300:] += unit
        quantized = encode(values.reshape(-1), block_size=32, code_max=code_max)
        assert np.abs(quantized.codes.astype(int)).max() <= (code_max or 127)
        decoded = dequantize(Int8Block, quantized, values.dtype).astype(np.float64)
        bound = error_bound(values.reshape(-1), quantized, code_max or 127)
        assert (np.abs(values.reshape(-1).astype(np.float64) - decoded) <= bound).all()

    def test_it_is_a_hundred_times_smaller_away_from_zero(self) -> None:
        values = offset_values("float32", 100_000)
        norm = np.linalg.norm(values.astype(np.float64))
        affine, symmetric = (
            np.linalg.norm(round_trip(values, variant).astype(np.float64) - values) / norm
            for variant in ("affine", "symmetric")
        )
        # Measured: 2.2e-5 and 2.5e-3.
        assert affine < 3e-5
        assert 2e-3 < symmetric < 3e-3
        assert round_trip(values, "auto").tobytes() == round_trip(values, "affine").tobytes()

    @each("component", COMPONENTS)
    @each("value", [1.0, -3.3, 100.1, 2.0**-14, 2.0**15, -(2.0**15)])
    def test_blocks_of_one_value_are_exact(self, component: str, value: float) -> None:
        values = np.full(100, value, component_dtype(component))
        assert round_trip(values).tobytes() == values.tobytes()

    @each("value", [2.0**-126, 2.0**127, -(2.0**127), 2.0**-125 * (1 + 2.0**-23)])
    def test_the_smallest_and_the_largest_one_are_exact(self, value: float) -> None:
        values = np.full(100, value, np.float32)
        assert round_trip(values).tobytes() == values.tobytes()

    @pytest.mark.parametrize("component", ["float16", "bfloat16"])
    def test_subnormal_values_of_narrow_dtypes_are_exact_too(self, component: str) -> None:
        values = np.full(100, 1, np.uint16).view(component_dtype(component))
        assert round_trip(values).tobytes() == values.tobytes()

    def test_values_whose_half_is_subnormal_may_be_rounded(self) -> None:
        values = np.full(100, 1, np.uint32).view(np.float32)
        assert not round_trip(values).any()
        values = np.full(100, 2.0**-126 * (1 + 2.0**-23), np.float32)
        assert round_trip(values).tolist() == [2.0**-126] * 100

    @each("component", COMPONENTS)
    def test_zeros_of_either_sign_are_zeros_without_one(self, component: str) -> None:
        values = np.zeros(256, component_dtype(component))
        values[64:128] = -0.0
        values[128::2] = -0.0
        quantized = encode(values)
        assert int_block_parameters(quantized, values.dtype).middles.tobytes().strip(b"\0") == b""
        assert dequantize(Int8Block, quantized, values.dtype).tobytes() == bytes(values.nbytes)


class TestExceptions:
    """Values kept raw, in the affine variant."""

    @pytest.mark.parametrize("component", ["float16", "float32", "float64"])
    def test_they_stay_bit_for_bit(self, component: str) -> None:
        infinite = np.array([np.inf, -np.inf, np.finfo(component).max, np.finfo(component).min], component)
        exceptions = np.concatenate([nan_bits(component, [1, 2, 17, -1, -513]), infinite])
        values = offset_values(component, 1000)
        values[:: 1000 // exceptions.size][: exceptions.size] = exceptions
        quantized = encode(values)
        assert int_block_parameters(quantized, values.dtype).exceptions == exceptions.tobytes()
        decoded = dequantize(Int8Block, quantized, values.dtype)
        assert decoded[quantized.codes == -128].tobytes() == exceptions.tobytes()

    @each("component", COMPONENTS)
    @each("exception", [np.inf, -np.inf, np.nan])
    @each("variant", ["symmetric", "affine"])
    def test_they_are_not_in_the_extremes_of_their_block(self, component: str, exception: float, variant: str) -> None:
        values = offset_values(component, 256)
        values[70] = values[71]
        expected = encode(values, variant)
        values[70] = exception
        quantized = encode(values, variant)
        found, without = (int_block_parameters(each, values.dtype) for each in (quantized, expected))
        assert found.scales.tolist() == without.scales.tolist()
        assert found.middles.tolist() == without.middles.tolist()
        assert np.delete(quantized.codes, 70).tolist() == np.delete(expected.codes, 70).tolist()

    @each("component", COMPONENTS)
    @each("variant", ["symmetric", "affine"])
    def test_a_block_may_have_nothing_else(self, component: str, variant: str) -> None:
        values = offset_values(component, 6400)
        values[64:128] = [np.nan, np.inf, -np.inf, np.nan] * 16
        quantized = encode(values, variant)
        parameters = int_block_parameters(quantized, values.dtype)
        assert parameters.exception_count == 64
        assert parameters.scales[1] == SCALE_MIN
        assert variant == "symmetric" or parameters.middles[1] == 0
        decoded = dequantize(Int8Block, quantized, values.dtype)
        assert decoded[64:128].tobytes() == values[64:128].tobytes()
        assert np.abs(decoded[:64].astype(float) - values[:64].astype(float)).max() < 1

    @each("variant", ["symmetric", "affine"])
    @each("extra", [1, 2, 63])
    def test_the_last_value_of_a_short_block_is_one_and_counts_once(self, variant: str, extra: int) -> None:
        values = offset_values("float32", 640 + extra)
        values[-1] = np.nan
        quantized = encode(values, variant)
        assert int_block_parameters(quantized, values.dtype).exception_count == 1
        decoded = dequantize(Int8Block, quantized, values.dtype)
        assert np.isnan(decoded).nonzero()[0].tolist() == [values.size - 1]


class TestBlocks:
    """What a block does not know of others."""

    @each("block_size", BLOCK_SIZES)
    @each("rest", [1, 5, 31])
    def test_the_last_one_may_be_short(self, block_size: int, rest: int) -> None:
        values = offset_values("float32", 3 * block_size + rest)
        whole = encode(values, block_size=block_size)
        parameters = int_block_parameters(whole, FLOAT32)
        assert (whole.codes.size, parameters.scales.size, parameters.middles.size) == (values.size, 4, 4)
        for number, start in enumerate(range(0, values.size, block_size)):
            alone = encode(values[start : start + block_size], block_size=block_size)
            found = int_block_parameters(alone, FLOAT32)
            assert whole.codes[start : start + block_size].tolist() == alone.codes.tolist()
            assert parameters.scales[number] == found.scales[0]
            assert parameters.middles[number] == found.middles[0]


class TestAuto:
    """Affine where the blocks' ranges add up to less than 1.2 times their largest magnitudes, and no value is zero."""

    CASES = (
        ("a ramp from nearly zero", [1e-30, 1.0], True),
        ("a ramp from zero", [0.0, 1.0], False),
        ("a ramp from minus zero", [-0.0, -1.0], False),
        ("a range just below", [-0.1875, 1.0], True),
        ("a range just above", [-0.203125, 1.0], False),
        ("negative, just below", [0.1875, -1.0], True),
        ("negative, just above", [0.203125, -1.0], False),
        ("around zero", [-1.0, 1.0], False),
        ("one value", [5.0, 5.0], True),
        ("zeros", [0.0, 0.0], False),
        ("zeros of either sign", [0.0, -0.0], False),
        ("away from zero", [100.0, 101.0], True),
        ("the largest values", [2.0**127, 2.0**126], True),
        ("the largest values of either sign", [2.0**127, -(2.0**127)], False),
    )

    @each(("ends", "affine"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
    @each("component", ["float32", "float64"])
    def test_the_rule_decides(self, component: str, ends: list[float], affine) -> None:
        values = np.array(ends * 32, component)
        assert int_block_parameters(encode(values, "auto"), values.dtype).variant == affine

    @each(("away", "affine"), [(1.0, False), (1.25, False), (1.5, True), (-1.25, False), (-1.5, True)])
    def test_it_is_one_rule_for_all_blocks_together(self, away: float, affine) -> None:
        # A block of one value and two around zero: 0 + 2 + 2 < 1.2 * (|away| + 1 + 1) where |away| is above 1 1/3.
        values = np.concatenate([np.full(64, away), np.tile([-1, 1], 64)]).astype(np.float32)
        assert int_block_parameters(encode(values, "auto"), FLOAT32).variant == affine

    @each(("centre", "variant"), [(0.0, SYMMETRIC), (100.0, AFFINE)])
    @each("exception", [np.nan, np.inf])
    def test_a_block_of_nothing_but_exceptions_does_not_decide(
        self, centre: float, variant: int, exception: float
    ) -> None:
        values = offset_values("float32", 6400, centre=centre)
        values[64:128] = exception
        assert int_block_parameters(encode(values, "auto"), FLOAT32).variant == variant

    @pytest.mark.parametrize("component", COMPONENTS)
    @given(data=st.data(), block_size=st.sampled_from(BLOCK_SIZES))
    def test_it_is_the_variant_that_it_says(self, component: str, data: st.DataObject, block_size: int) -> None:
        values = data.draw(finite_of_any_kind(component))
        exceptional = data.draw(st.integers(0, values.size // 100))
        values[values.size - exceptional :] = np.nan
        found = encode(values, "auto", block_size)
        expected = encode(values, "affine" if is_affine(values, block_size) else "symmetric", block_size)
        assert found.parameters == expected.parameters
        assert found.codes.tobytes() == expected.codes.tobytes()

    def test_an_exception_does_not_decide(self) -> None:
        values = offset_values("float32", 256)
        values[3] = -np.inf
        assert int_block_parameters(encode(values, "auto"), FLOAT32).variant == AFFINE
        values = offset_values("float32", 256, centre=0)
        values[3] = np.inf
        assert int_block_parameters(encode(values, "auto"), FLOAT32).variant == SYMMETRIC


class TestFewerCodes:
    """What `code_max` does to an encoder, and nothing to a decoder."""

    @each("variant", ["symmetric", "affine"])
    @each("component", COMPONENTS)
    def test_every_number_of_codes_is_kept_and_used(self, variant: str, component: str) -> None:
        values = offset_values(component, 256, centre=0)
        for code_max in range(1, 128):
            quantized = encode(values, variant, code_max=code_max)
            largest = np.abs(quantized.codes.astype(int)).max()
            # A scale that is rounded up by up to 2**-7 leaves out one code of 127.
            assert code_max - 1 <= largest <= code_max
            decoded = dequantize(Int8Block, quantized, values.dtype).astype(np.float64)
            assert (np.abs(decoded - values.astype(np.float64)) <= error_bound(values, quantized, code_max)).all()

    @pytest.mark.parametrize("variant", ["symmetric", "affine"])
    def test_half_the_codes_are_twice_the_scale(self, variant: str) -> None:
        values = offset_values("float32", 640, centre=0)
        scales = [
            int_block_parameters(encode(values, variant, code_max=code_max), FLOAT32).scales for code_max in (64, 32)
        ]
        assert (scales[1] == 2 * scales[0]).all()

    def test_0_and_127_are_all_codes(self) -> None:
        values = offset_values("float32", 640)
        assert encode(values, code_max=0).parameters == encode(values, code_max=127).parameters
        assert encode(values, code_max=0).codes.tobytes() == encode(values, code_max=127).codes.tobytes()


@pytest.mark.parametrize("component", COMPONENTS)
@given(data=st.data(), variant=st.sampled_from(["auto", "symmetric", "affine"]), code_max=st.integers(0, 127))
def test_no_float_is_refused_but_for_too_many_exceptions(
    component: str, data: st.DataObject, variant: str, code_max: int
) -> None:
    values = data.draw(any_values(component) | finite_of_any_kind(component))
    for value in data.draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0, -(2.0**15)]), max_size=3)):
        values[data.draw(st.integers(0, values.size - 1))] = value
    with np.errstate(all="ignore"):
        regular = np.abs(values.astype(np.float64)) <= magnitude_limit(component)
    exception_count = int(np.count_nonzero(~regular))
    if exception_count > 0.01 * values.size:
        with pytest.raises(TooManyExceptionsError, match=rf"^{exception_count} of {values.size} values are exceptions"):
            encode(values, variant, 32, code_max)
        return
    quantized = encode(values, variant, 32, code_max)
    decoded = dequantize(Int8Block, quantized, values.dtype)
    assert decoded[~regular].tobytes() == values[~regular].tobytes()
    errors = np.abs(values[regular].astype(np.float64) - decoded[regular].astype(np.float64))
    assert (errors <= error_bound(values, quantized, code_max or 127)[regular]).all()


class TestDecoding:
    """Values are those of a slow decoder that follows the docstring."""

    @each("component", COMPONENTS)
    @each("variant", ["symmetric", "affine"])
    @each("block_size", BLOCK_SIZES)
    def test_it_agrees(self, component: str, variant: str, block_size: int) -> None:
        for count in (1, 31, block_size - 1, block_size, block_size + 1, 3 * block_size + 17):
            values = offset_values(component, count, seed=count)
            if count > 100:
                values[[3, -1][: count // 100]] = [np.nan, -np.inf][: count // 100]
            quantized = encode(values, variant, block_size)
            found = dequantize(Int8Block, quantized, values.dtype)
            assert found.tobytes() == slow_decode(quantized, values.dtype).tobytes()

    @pytest.mark.parametrize("component", COMPONENTS)
    @given(data=st.data())
    def test_it_agrees_for_any_codes_scales_and_midpoints(self, component: str, data: st.DataObject) -> None:
        dtype = component_dtype(component)
        random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        count = data.draw(st.integers(1, 100))
        codes = random.integers(-127, 128, count).astype(np.int8)
        scales = data.draw(st.lists(st.integers(0x0080, 0x7F7F), min_size=-(-count // 32), max_size=-(-count // 32)))
        variant = data.draw(st.sampled_from([SYMMETRIC, AFFINE]))
        width = 64 if component == "float64" else 32
        middle = st.floats(allow_nan=False, allow_infinity=False, width=width)
        middles = [data.draw(middle) for _ in scales] if variant == AFFINE else []
        rest = np.array(middles, f"<f{width // 8}").tobytes()
        quantized = Quantized(codes, pack_parameters(32, variant, 0, tuple(scales), rest))
        found = dequantize(Int8Block, quantized, dtype)
        assert found.tobytes() == slow_decode(quantized, dtype).tobytes()


class TestHostileParameters:
    """What no encoder of the affine variant writes, one rule after the other."""

    CODES = np.array([1, -128, 3], np.int8)
    REST = struct.pack("<2f", 10.0, 7.0)

    def parameters(self, **changes: Any) -> bytes:
        return pack_parameters(**{"variant": AFFINE, "exception_count": 1, "rest": self.REST, **changes})

    def test_the_parameters_below_are_right_but_for_what_they_change(self) -> None:
        assert Int8Block.decode(self.CODES, self.parameters(), FLOAT32, 3).tolist() == [11.0, 7.0, 13.0]

    @each(
        ("changes", "message"),
        [
            ({"variant": 2}, r"^variant of int8_block is 2, must be 0 or 1$"),
            ({"variant": 0}, r"^int8_block has 18 bytes of parameters, must be 14$"),
            ({"block_size": 16}, r"^block_size of int8_block is 16, must be one of \(32, 64, 128, 256\)$"),
            ({"rest": b""}, r"^int8_block has 10 bytes of parameters, must be 18$"),
            ({"rest": REST[:-1]}, r"^int8_block has 17 bytes of parameters, must be 18$"),
            ({"rest": REST + b"\0"}, r"^int8_block has 19 bytes of parameters, must be 18$"),
            ({"rest": REST + REST}, r"^int8_block has 26 bytes of parameters, must be 18$"),
            ({"scales": ()}, r"^int8_block has 16 bytes of parameters, must be 18$"),
            ({"scales": (0x3F80,) * 2}, r"^int8_block has 20 bytes of parameters, must be 18$"),
            ({"exception_count": 2**32 - 1}, r"^int8_block has 18 bytes of parameters, must be 17179869194$"),
            (
                {"exception_count": 0, "rest": REST[:4]},
                r"^int8_block has 0 exceptions, but 1 codes mark one$",
            ),
            ({"scales": (0x7F80,)}, r"^a scale of int8_block is not a positive normal bfloat16$"),
            *(
                ({"rest": struct.pack("<2f", middle, 7.0)}, r"^a midpoint of int8_block is not finite$")
                for middle in (np.nan, np.inf, -np.inf)
            ),
        ],
    )
    def test_a_broken_rule_is_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CorruptChunkError, match=message):
            Int8Block.decode(self.CODES, self.parameters(**changes), FLOAT32, 3)

    def test_midpoints_of_float64_have_8_bytes(self) -> None:
        with pytest.raises(CorruptChunkError, match=r"^int8_block has 18 bytes of parameters, must be 26$"):
            Int8Block.decode(self.CODES, self.parameters(), np.dtype("<f8"), 3)

    @each("number", range(10))
    def test_one_bad_midpoint_among_many_is_damage(self, number: int) -> None:
        quantized = encode(offset_values("float32", 640))
        parameters = bytearray(quantized.parameters)
        at = len(pack_parameters(scales=(0x3F80,) * 10)) + 4 * number
        parameters[at : at + 4] = struct.pack("<f", np.inf)
        with pytest.raises(CorruptChunkError, match=r"^a midpoint of int8_block is not finite$"):
            Int8Block.decode(quantized.codes, bytes(parameters), FLOAT32, 640)
