"""Quantizers used alone: dtypes, parameters and values, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch

from support.arrays import DTYPE_NAMES, assert_same_bits, normal, random_bits
from support.cases import each
from support.client import ARRAYS
from support.compression import QUANTIZERS, relative_error
from tensorus.compression import (
    AutoQuantization,
    BitRoundQuantization,
    FP8E4M3FNQuantization,
    FP16Quantization,
    INT4BlockQuantization,
    INT8BlockQuantization,
    INT8Quantization,
    NoQuantization,
    QuantizationAlgorithm,
    QuantizationError,
)

MIB = 1024 * 1024

RELATIVE_ERROR_MAX = {
    "int8": 1.3e-2,
    "int8_block": 7e-3,
    "fp16": 2.2e-4,
    "bf16": 1.8e-3,
    "fp8_e4m3fn": 2.7e-2,
    "fp8_e5m2": 5.4e-2,
    "int4_block": 1.05e-1,
    "nf4": 1e-1,
    "bitround": 1.8e-3,
}
"""Of N(0, 0.02), a little above what is documented or was measured."""


def test_no_quantization_is_the_identity() -> None:
    tensor = torch.randn(10, 10)
    quantized, params = NoQuantization().quantize(tensor)
    assert quantized is tensor
    assert NoQuantization().dequantize(quantized, params) is tensor
    assert params == {"original_dtype": "torch.float32", "original_shape": [10, 10], "codec": None}
    assert NoQuantization().name == "none"


def test_int8_has_its_dtype_and_parameters_and_is_within_half_a_step() -> None:
    tensor = torch.from_numpy(normal((10, 100), scale=1.0))
    quantized, params = INT8Quantization().quantize(tensor)
    assert quantized.dtype == torch.int8
    assert quantized.shape == tensor.shape
    assert {"scale", "zero_point", "original_dtype", "original_shape"} <= params.keys()
    assert (params["original_dtype"], params["original_shape"]) == ("torch.float32", [10, 100])
    assert isinstance(params["scale"], float)
    assert isinstance(params["zero_point"], int)
    errors = torch.abs(INT8Quantization().dequantize(quantized, params) - tensor)
    assert (errors <= params["scale"] * (1 / 2 + 2**-15)).all()
    assert INT8Quantization().name == "int8"


def test_int8_in_blocks_has_its_dtype_and_parameters_and_is_within_half_a_step() -> None:
    tensor = torch.from_numpy(normal((10, 100), scale=1.0))
    quantized, params = INT8BlockQuantization().quantize(tensor)
    assert quantized.dtype == torch.int8
    assert quantized.shape == tensor.shape
    assert {"scale", "zero_point", "original_dtype", "original_shape"} <= params.keys()
    steps = np.repeat(params["scale"], params["block_size"])[: tensor.numel()].reshape(tensor.shape)
    errors = np.abs(INT8BlockQuantization().dequantize(quantized, params).numpy() - tensor.numpy())
    assert (errors <= steps * (1 / 2 + 2**-16)).all()
    assert INT8BlockQuantization().name == "int8_block"


def test_fp16_has_its_dtype_and_parameters_and_keeps_eleven_bits() -> None:
    tensor = torch.from_numpy(normal((10, 10), scale=1.0))
    quantized, params = FP16Quantization().quantize(tensor)
    assert quantized.dtype == torch.float16
    assert quantized.shape == tensor.shape
    assert (params["original_dtype"], params["original_shape"]) == ("torch.float32", [10, 10])
    found = FP16Quantization().dequantize(quantized, params)
    assert (torch.abs(found - tensor) <= 2**-11 * torch.abs(tensor) + 2**-25).all()
    assert FP16Quantization().name == "fp16"


@each("value", [0.0, 0.5, 3.14, -3.14, 1000.0, 1e-30, 1e30])
@each("dtype", [torch.float32, torch.float64, torch.bfloat16])
@each("quantizer", [INT8Quantization(), INT8BlockQuantization()])
def test_int8_keeps_a_constant_exactly(quantizer: QuantizationAlgorithm, value: float, dtype: torch.dtype) -> None:
    tensor = torch.full((5, 50), value, dtype=dtype)
    quantized, params = quantizer.quantize(tensor)
    assert quantized.dtype == torch.int8
    assert torch.equal(quantizer.dequantize(quantized, params), tensor)


@each("dtype", ["float32", "float64", "float16", "complex64", "complex128"])
def test_the_readable_parameters_of_int8_in_blocks_are_what_decoding_does(dtype: str) -> None:
    values = normal((700, 3), scale=1.0).astype(dtype)
    values[300:] += 100
    codes, params = INT8BlockQuantization().quantize(values)
    work = np.float64 if dtype in {"float64", "complex128"} else np.float32
    scales = np.repeat(np.array(params["scale"], work), params["block_size"])[: codes.size]
    zero_points = np.zeros(1, work)
    if params["zero_point"] != 0:
        zero_points = np.repeat(np.array(params["zero_point"], work), params["block_size"])[: codes.size]
    expected = codes.reshape(-1).astype(work) * scales + zero_points
    found = INT8BlockQuantization().dequantize(codes, params).reshape(-1)
    component = found.real.dtype
    np.testing.assert_array_equal(found.view(component), expected.astype(component))


@each("shape", [(), (1,), (7,), (3, 5), (0, 3), (2, 3, 4), (70, 80)])
@each("dtype", ["float32", "float64", "complex64", "bfloat16"])
@each("name", QUANTIZERS)
def test_a_quantizer_gives_back_dtype_shape_and_values_through_json(
    name: str, dtype: str, shape: tuple[int, ...]
) -> None:
    values = np.asarray(normal(shape, dtype))
    codes, params = QUANTIZERS[name].quantize(values)
    assert isinstance(codes, np.ndarray)
    # Whichever quantizer reads them.
    found = NoQuantization().dequantize(codes, json.loads(json.dumps(params)))
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    if values.size > 1000:
        assert relative_error(found, values) <= RELATIVE_ERROR_MAX[name]


@each(
    ("name", "dtype", "shape"),
    [
        ("int8", torch.int8, (3, 4)),
        ("int8_block", torch.int8, (3, 4)),
        ("fp16", torch.float16, (3, 4)),
        ("bf16", torch.bfloat16, (3, 4)),
        ("fp8_e4m3fn", torch.float8_e4m3fn, (3, 4)),
        ("fp8_e5m2", torch.float8_e5m2, (3, 4)),
        ("int4_block", torch.uint8, (6,)),
        ("nf4", torch.uint8, (6,)),
        ("bitround", torch.float32, (3, 4)),
    ],
)
def test_codes_are_torch_tensors_of_these_dtypes(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.from_numpy(normal((3, 4)))
    codes, params = QUANTIZERS[name].quantize(tensor)
    assert (codes.dtype, tuple(codes.shape)) == (dtype, shape)
    found = QUANTIZERS[name].dequantize(codes, params)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)


@each("name", [name for name, make in ARRAYS.items() if make().dtype.name in ("float32", "complex64")])
def test_a_quantizer_takes_arrays_however_they_lie_in_memory(name: str) -> None:
    array = ARRAYS[name]()
    dense = array.astype(array.dtype.newbyteorder("="), order="C")
    quantizer = BitRoundQuantization(keep_bits=3)
    codes, params = quantizer.quantize(array)
    expected, expected_params = quantizer.quantize(dense)
    assert params == expected_params
    assert_same_bits(codes, expected)
    scattered = np.asfortranarray(codes.astype(">f4"))
    assert_same_bits(quantizer.dequantize(scattered, params), quantizer.dequantize(expected, params))


def test_a_tensor_of_several_chunks_is_quantized_chunk_by_chunk() -> None:
    tensor = normal((3, MIB // 4))
    tensor[1] *= 1e-6
    codes, params = FP8E4M3FNQuantization().quantize(tensor)
    assert len(params["parameters"]) == 3
    # An exponent per chunk: small values beside large ones keep their bits.
    assert relative_error(FP8E4M3FNQuantization().dequantize(codes, params)[1], tensor[1]) < 2.7e-2


@each("dtype", ["bool", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@each("name", ["int8_block", "int4_block", "nf4", "fp8_e4m3fn", "fp8_e5m2", "bitround"])
def test_integers_and_bools_are_refused(name: str, dtype: str) -> None:
    with pytest.raises(QuantizationError, match=rf"{name} does not apply to {dtype}: integers and bools") as raised:
        QUANTIZERS[name].quantize(random_bits(dtype, (3,)))
    assert raised.value.reason == "UNSUPPORTED_DTYPE"


@each(
    ("name", "passing"),
    [
        ("int8", {"int8", "float8_e4m3fn", "float8_e5m2"}),
        ("int8_block", {"int8", "float8_e4m3fn", "float8_e5m2"}),
        ("fp16", {"float16"}),
        ("bf16", {"bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}),
        ("nf4", {"float8_e4m3fn", "float8_e5m2"}),
    ],
)
def test_what_has_as_few_bits_passes_as_it_is(name: str, passing: set[str]) -> None:
    found = set()
    for dtype in DTYPE_NAMES:
        values = np.ones((2, 3), getattr(ml_dtypes, dtype, None) or dtype)
        try:
            codes, params = QUANTIZERS[name].quantize(values)
        except QuantizationError:
            continue
        if params.get("codec", "") is None:
            assert codes is values
            assert QUANTIZERS[name].dequantize(codes, params) is values
            found.add(dtype)
    assert found == passing


def test_settings_reach_the_codec() -> None:
    values = normal((64, 64), scale=1.0)
    errors = []
    for quantizer in (BitRoundQuantization(keep_bits=2), BitRoundQuantization(keep_bits=9)):
        codes, params = quantizer.quantize(values)
        errors.append(relative_error(quantizer.dequantize(codes, params), values))
    assert errors[1] < errors[0] / 100
    _, params = INT8BlockQuantization(block_size=256, variant="affine").quantize(values)
    assert len(params["scale"]) == values.size // 256
    assert any(params["zero_point"])


@each(
    ("make", "message"),
    [
        (lambda: INT8BlockQuantization(block_size=7), "block_size of codec int8_block is 7"),
        (lambda: INT8BlockQuantization(variant="odd"), "variant of codec int8_block is 'odd'"),
        (lambda: BitRoundQuantization(keep_bits=53), "keep_bits of codec bitround is 53"),
        (lambda: INT4BlockQuantization(block_size=True), "block_size of codec int4_block is True"),
        (lambda: AutoQuantization(max_relative_error=-1), "max_relative_error of auto is -1"),
        (lambda: AutoQuantization(max_relative_error=float("nan")), "max_relative_error of auto is nan"),
        (lambda: FP16Quantization(max_absolute_error="1"), "max_absolute_error of fp16 is '1'"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_that_is_none_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_error_above_the_bound_is_refused_and_named() -> None:
    values = normal((100,))
    for make, name in ((INT8Quantization, "int8"), (INT8BlockQuantization, "int8_block"), (FP16Quantization, "fp16")):
        with pytest.raises(QuantizationError, match=rf"relative error of {name} would be .*, the policy allows 1e-05"):
            make(max_relative_error=1e-5).quantize(values)
        codes, params = make(max_relative_error=1e-1).quantize(values)
        assert relative_error(make().dequantize(codes, params), values) <= 1e-1
    with pytest.raises(QuantizationError, match=r"absolute error of int8 would be .*, the policy allows 10"):
        INT8Quantization(max_absolute_error=10).quantize(np.arange(50_257))
    with pytest.raises(QuantizationError, match="absolute error of fp16 would be inf, the policy allows 10"):
        FP16Quantization(max_absolute_error=10).quantize(np.array([70_000.0]))


@each(
    ("bound", "codec"),
    [(2e-1, "int4_block"), (1e-2, "int8_block"), (3e-3, "bf16"), (3e-4, "fp16"), (1e-6, None), (None, None)],
)
def test_auto_takes_the_coarsest_that_keeps_the_bound(bound: float | None, codec: str | None) -> None:
    values = normal((3, 64, 128))
    codes, params = AutoQuantization(max_relative_error=bound).quantize(values)
    assert params["codec"] == codec
    found = AutoQuantization().dequantize(codes, params)
    assert relative_error(found, values) <= (bound or 0)


def test_auto_leaves_alone_what_must_stay_exact() -> None:
    for values in (np.arange(9), np.array([1.0, np.nan, 3.0], np.float32)):
        codes, params = AutoQuantization(max_relative_error=0.1).quantize(values)
        assert codes is values
        assert params["codec"] is None


def test_what_is_no_tensor_is_no_tensor() -> None:
    for quantizer in (*QUANTIZERS.values(), NoQuantization(), AutoQuantization()):
        with pytest.raises(TypeError, match="a list is not a tensor"):
            quantizer.quantize([1.0, 2.0])
    with pytest.raises(QuantizationError, match="dtype"):
        INT8Quantization().quantize(np.array(["text"]))
