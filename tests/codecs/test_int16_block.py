"""The int16_block quantizer: the contract, and what it does differently from int8_block: wider codes, spread over 16 bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_int_blocks import (
    AFFINE,
    SYMMETRIC,
    error_bound,
    int_block_parameters,
    pack_parameters,
    slow_decode,
    slow_encode,
)
from contract.codec_quantizer_contract import QuantizerContract, component_dtype, dequantize, quantize, weights
from contract.codec_scales import magnitude_limit
from contract.codec_values import clustered_values, finite_values
from support.cases import each
from tensorus_codecs.abc import Quantized, Values
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.quantizers.int16_block import Int16Block

COMPONENTS = ("float16", "bfloat16", "float32", "float64")
_CODE_MAX = 32767
_EXCEPTION = -32768


def spread_of(code_max: int) -> int:
    """Return the largest power of two by which `code_max` times is at most 32767."""
    spread = 1
    while 2 * spread * code_max <= _CODE_MAX:
        spread *= 2
    return spread


def encode(values: Values, variant: str = "symmetric", code_max: int = 0, block_size: int = 64) -> Quantized:
    return quantize(Int16Block(block_size=block_size, code_max=code_max, variant=variant), values)


class TestInt16Block(QuantizerContract, SettingsContract):
    codec_type = Int16Block
    id = "int16_block"
    number = 9
    dtypes = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
    components = COMPONENTS

    configurations = (
        {},
        {"block_size": 32},
        {"code_max": 262},
        {"variant": "affine"},
        {"variant": "symmetric"},
    )

    refusals = (
        *(Refusal("block_size", value, "one of (32, 64, 128, 256)") for value in (0, 512, True, "64")),
        *(Refusal("code_max", value, "an integer from 0 to 32767") for value in (-1, 32768, True, 1.0)),
        Refusal("variant", "none", "one of ('auto', 'symmetric', 'affine')"),
    )

    def error_bound(self, codec, values, quantized):
        # Codes that are all multiples of its spread are those of the largest code 262.
        spread = spread_of(262) if (quantized.codes % spread_of(262) == 0).all() else 1
        return error_bound(values, quantized, _CODE_MAX // spread, spread)


@each("code_max", [1, 2, 3, 127, 128, 262, 16383, 16384, 32766, 32767])
def test_codes_are_spread_over_sixteen_bits(code_max: int) -> None:
    spread = spread_of(code_max)
    quantized = encode(weights("float32", 6400), code_max=code_max)
    codes = quantized.codes.astype(int)
    assert _CODE_MAX // 2 <= code_max * spread <= _CODE_MAX
    assert (codes % spread == 0).all()
    # A scale that is rounded up by up to 2**-7 leaves out one code of 128.
    assert code_max * spread * (1 - 2**-7) - spread <= np.abs(codes).max() <= code_max * spread


@pytest.mark.parametrize("component", COMPONENTS)
@given(data=st.data(), code_max=st.integers(1, _CODE_MAX) | st.just(_CODE_MAX), affine=st.booleans())
def test_a_slow_encoder_agrees_and_the_bound_is_kept(
    component: str, data: st.DataObject, code_max: int, affine
) -> None:
    limit = magnitude_limit(component)
    wide = "float32" if component == "bfloat16" else component
    around_zero = finite_values(wide, limit).map(lambda values: values.astype(component))
    values = data.draw(clustered_values(component, limit) | around_zero)
    spread = spread_of(code_max)
    quantized = encode(values, "affine" if affine else "symmetric", code_max, 32)
    expected = slow_encode(values, 32, affine=affine, code_max=code_max, spread=spread, exception=_EXCEPTION)
    parameters = int_block_parameters(quantized, values.dtype)
    assert quantized.codes.tolist() == expected.codes
    assert parameters.scales.tolist() == expected.scales
    assert parameters.middles.tolist() == expected.middles
    decoded = dequantize(Int16Block, quantized, values.dtype)
    assert decoded.tobytes() == slow_decode(quantized, values.dtype).tobytes()
    errors = np.abs(values.astype(np.float64) - decoded.astype(np.float64))
    assert (errors <= error_bound(values, quantized, code_max, spread)).all()


def test_a_chunk_is_these_bytes() -> None:
    values = np.array([32767, -32767, 0.5, 1.5, 100], np.float32)
    quantized = encode(values)
    assert quantized.codes.tolist() == [32767, -32767, 0, 2, 100]
    assert quantized.codes.dtype == np.dtype("<i2")
    assert quantized.parameters == pack_parameters(64, SYMMETRIC, 0, (0x3F80,))


def test_exceptions_are_the_smallest_integer() -> None:
    values = np.full(300, 10.0, np.float32)
    values[[3, 299]] = [np.nan, -np.inf]
    quantized = encode(values, "affine")
    assert np.flatnonzero(quantized.codes == _EXCEPTION).tolist() == [3, 299]
    rest = struct.pack("<7f", *[10.0] * 5, np.nan, -np.inf)
    assert quantized.parameters == pack_parameters(64, AFFINE, 2, (0x0080,) * 5, rest)
    decoded = dequantize(Int16Block, quantized, values.dtype)
    assert decoded.tobytes() == values.tobytes()


@each("component", COMPONENTS)
def test_the_largest_values_stay_finite(component: str) -> None:
    values = np.full(64, magnitude_limit(component), component_dtype(component))
    values[1::2] *= -1
    decoded = dequantize(Int16Block, encode(values), values.dtype)
    assert np.isfinite(decoded.astype(np.float64)).all()


def test_its_error_is_a_tenth_of_that_of_fp16() -> None:
    values = weights("float32", 64_000)
    norm = np.linalg.norm(values.astype(np.float64))
    error = np.linalg.norm(dequantize(Int16Block, encode(values), values.dtype).astype(np.float64) - values) / norm
    # Measured: 2.3e-5; fp16 has 2.1e-4.
    assert error < 3e-5


@each(
    ("parameters", "message"),
    [
        (b"", r"^int16_block has 0 bytes of parameters, at least 8$"),
        (pack_parameters(variant=2), r"^variant of int16_block is 2, must be 0 or 1$"),
        (pack_parameters(), r"^int16_block has 0 exceptions, but 1 codes mark one$"),
        (pack_parameters(exception_count=1), r"^int16_block has 10 bytes of parameters, must be 14$"),
        (
            pack_parameters(variant=AFFINE, exception_count=1, rest=struct.pack("<2f", np.nan, 1)),
            r"^a midpoint of int16_block is not finite$",
        ),
        (
            pack_parameters(exception_count=1, scales=(0,), rest=bytes(4)),
            r"^a scale of int16_block is not a positive normal bfloat16$",
        ),
    ],
)
def test_a_broken_rule_is_named(parameters: bytes, message: str) -> None:
    codes = np.array([1, _EXCEPTION, 3], "<i2")
    with pytest.raises(CorruptChunkError, match=message):
        Int16Block.decode(codes, parameters, np.dtype("<f4"), 3)
