"""What Tensorus 0.1 got wrong, by the names of its faults: the true value is required, exact or within what is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.arrays import normal
from support.cases import each
from tensorus.compression import (
    COMPRESSION_PRESETS,
    CompressionConfig,
    FP16Quantization,
    INT8BlockQuantization,
    INT8Quantization,
    QuantizationError,
    TensorCompression,
)

INT8 = TensorCompression(None, INT8Quantization())
FP16 = TensorCompression(None, FP16Quantization())


def through(compressor: TensorCompression, tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the tensor compressed and decompressed, and its metadata."""
    compressed, metadata = compressor.compress_tensor(tensor)
    found = compressor.decompress_tensor(compressed, metadata)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    return found, metadata


def error_of_int8(values: list[float]) -> float:
    """Return the largest error of int8, which must be within half a step, alone and where it is compressed."""
    # Often enough that codes are smaller than the values.
    tensor = torch.tensor(values).repeat(100)
    codes, params = INT8Quantization().quantize(tensor)
    assert codes.dtype == torch.int8
    found = INT8Quantization().dequantize(codes, params)
    assert float((found - tensor).abs().max()) <= params["scale"] * (1 / 2 + 2**-15)
    # Compressed, the same codec has a scale per block.
    codes, params = INT8BlockQuantization().quantize(tensor)
    found = INT8BlockQuantization().dequantize(codes, params)
    error = float((found - tensor).abs().max())
    assert error <= max(params["scale"]) * (1 / 2 + 2**-16)
    compressed, metadata = through(INT8, tensor)
    assert torch.equal(compressed, found)
    assert metadata["max_absolute_error"] == error
    # And alone, where they stay as they are, since codes would be no smaller.
    assert torch.equal(through(INT8, torch.tensor(values))[0], torch.tensor(values))
    return error


def test_int8_above_zero() -> None:
    assert error_of_int8([100, 100.25, 101]) < 0.003


def test_int8_below_zero() -> None:
    assert error_of_int8([-101, -100.5, -100]) < 0.003


def test_int8_scale_one() -> None:
    assert error_of_int8([0.0, 1, 254, 255]) <= 255 / 127 / 2 * 1.01


@pytest.mark.parametrize("values", [[0, 1, 254, 255], [10, 50, 200]], ids=str)
def test_uint8_image(values: list[int]) -> None:
    image = torch.tensor(values, dtype=torch.uint8)
    found, metadata = through(INT8, image)
    assert torch.equal(found, image)
    assert metadata["fallback"] == "int8_block does not apply to uint8, which stays lossless"
    codes, params = INT8Quantization().quantize(image)
    found = INT8Quantization().dequantize(codes, params)
    assert found.dtype == torch.uint8
    assert torch.equal(found, image)


def test_int8_input() -> None:
    tensor = torch.tensor([-5, 0, 7], dtype=torch.int8)
    codes, params = INT8Quantization().quantize(tensor)
    assert codes is tensor
    assert (params["scale"], params["zero_point"], params["original_dtype"]) == (1.0, 0, "torch.int8")
    assert torch.equal(INT8Quantization().dequantize(codes, params), tensor)
    assert torch.equal(through(INT8, tensor)[0], tensor)


@each("value", [0.5, 3.14, 1000.0])
def test_constant(value: float) -> None:
    tensor = torch.full((5, 5), value)
    codes, params = INT8Quantization().quantize(tensor)
    assert torch.equal(INT8Quantization().dequantize(codes, params), tensor)
    found, metadata = through(INT8, tensor)
    assert torch.equal(found, tensor)
    assert metadata["max_absolute_error"] == 0


def test_constant_of_int64() -> None:
    tensor = torch.full((5, 5), 300)
    assert torch.equal(through(INT8, tensor)[0], tensor)


@pytest.mark.parametrize(
    ("compressor", "values"), [(INT8, [101, 2023, 50256]), (FP16, [2049, 70000])], ids=["int8", "fp16"]
)
def test_int64_ids(compressor: TensorCompression, values: list[int]) -> None:
    ids = torch.tensor(values)
    found, metadata = through(compressor, ids)
    assert torch.equal(found, ids)
    assert "does not apply to int64, which stays lossless" in metadata["fallback"]
    assert not metadata["lossy"]


def test_int64_ids_alone() -> None:
    ids = torch.tensor([101, 2023, 50256])
    codes, params = INT8Quantization().quantize(ids)
    # Rounded, and within half a step, where they were off by up to a whole one.
    assert (INT8Quantization().dequantize(codes, params) - ids).abs().max() <= params["scale"] / 2 + 0.5
    with pytest.warns(RuntimeWarning, match="1 of 2 values are beyond 65504"):
        codes, _ = FP16Quantization().quantize(torch.tensor([2049, 70000]))
    assert codes.tolist() == [2048, torch.inf]


def test_nan() -> None:
    tensor = torch.tensor([1, torch.nan, 3])
    found, metadata = through(INT8, tensor)
    assert torch.equal(found.view(torch.int32), tensor.view(torch.int32))
    assert metadata["fallback"].startswith("1 of 1 chunks are lossless: 1 of 3 values are exceptions (NaN, infinite")


def test_nan_among_many_stays_nan_and_spoils_nothing() -> None:
    tensor = torch.from_numpy(normal((1000,)))
    tensor[500] = torch.nan
    found, metadata = through(INT8, tensor)
    assert metadata["lossy"]
    assert torch.equal(torch.isnan(found), torch.isnan(tensor))
    assert metadata["relative_error"] < 7e-3
    codes, params = INT8BlockQuantization().quantize(tensor)
    assert torch.equal(INT8BlockQuantization().dequantize(codes, params).nan_to_num(9), found.nan_to_num(9))


def test_infinity() -> None:
    tensor = torch.tensor([1, 2, torch.inf])
    found, metadata = through(INT8, tensor)
    assert torch.equal(found, tensor)
    assert metadata["fallback"] is not None
    with pytest.raises(QuantizationError, match="1 of 3 values are exceptions"):
        INT8BlockQuantization().quantize(tensor)
    with pytest.raises(QuantizationError, match="1 of 3 values are NaN or infinite"):
        INT8Quantization().quantize(tensor)


def test_empty() -> None:
    tensor = torch.empty(0, 3)
    found, metadata = through(INT8, tensor)
    assert found.shape == (0, 3)
    assert (metadata["original_size"], metadata["compression_ratio"], metadata["encodings"]) == (0, 1.0, [])
    codes, params = INT8Quantization().quantize(tensor)
    assert (codes.dtype, tuple(codes.shape)) == (torch.int8, (0, 3))
    restored = INT8Quantization().dequantize(codes, params)
    assert (restored.dtype, tuple(restored.shape)) == (torch.float32, (0, 3))


@pytest.mark.parametrize("compressor", [INT8, FP16], ids=["int8", "fp16"])
def test_complex(compressor: TensorCompression) -> None:
    tensor = torch.tensor([1 + 2j, 3 - 4j]).repeat(100)
    found, metadata = through(compressor, tensor)
    assert metadata["lossy"]
    assert float(torch.view_as_real(found - tensor).abs().max()) <= 4 / 127 / 2 * 1.01
    codes, params = compressor.quantization_algorithm.quantize(tensor)
    assert tuple(codes.shape) == (200, 2)
    found = compressor.quantization_algorithm.dequantize(codes, params)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert float(torch.view_as_real(found - tensor).abs().max()) <= 7 / 255 / 2 * 1.01


def test_fp16_overflow() -> None:
    tensor = torch.tensor([65504.0, 65520.0]).repeat(100)
    found, _ = through(FP16, tensor)
    assert torch.isfinite(found).all()
    assert ((found - tensor).abs() <= 2**-11 * tensor).all()
    large = torch.tensor([1e38], dtype=torch.bfloat16)
    assert torch.equal(through(FP16, large)[0], large)
    with pytest.warns(RuntimeWarning, match="1 of 1 values are beyond 65504, the largest of half precision"):
        codes, _ = FP16Quantization().quantize(large)
    assert torch.isinf(codes).all()


def test_fp16_underflow() -> None:
    tensor = torch.tensor([1e-8, 2e-8]).repeat(100)
    found, _ = through(FP16, tensor)
    assert ((found - tensor).abs() <= 2**-11 * tensor).all()


@each("writer", COMPRESSION_PRESETS)
def test_other_config(writer: str) -> None:
    tensor = torch.from_numpy(normal((30, 30)))
    compressed, metadata = COMPRESSION_PRESETS[writer].create_tensor_compression().compress_tensor(tensor)
    expected = TensorCompression().decompress_tensor(compressed, metadata)
    for reader in COMPRESSION_PRESETS.values():
        assert torch.equal(reader.create_tensor_compression().decompress_tensor(compressed, metadata), expected)


def test_other_config_silent() -> None:
    tensor = torch.tensor([-1.0, 0.0, 1.0]).repeat(100)
    compressed, metadata = CompressionConfig("none", "int8").create_tensor_compression().compress_tensor(tensor)
    found = CompressionConfig("none", "fp16").create_tensor_compression().decompress_tensor(compressed, metadata)
    assert float((found - tensor).abs().max()) <= 1 / 127 / 2 * 1.01
    for quantizer in (INT8Quantization(), INT8BlockQuantization()):
        codes, params = quantizer.quantize(tensor)
        assert torch.equal(FP16Quantization().dequantize(codes, params), quantizer.dequantize(codes, params))


@each(("preset", "ratio"), [("none", 1.0), ("fp16_only", 2.0), ("int8_only", 4 / (1 + 2 / 64)), ("balanced", 2.366)])
def test_honest_ratio(preset: str, ratio: float) -> None:
    values = normal((1024, 1024))
    compressed, metadata = COMPRESSION_PRESETS[preset].create_tensor_compression().compress_tensor(values)
    assert metadata["original_size"] == values.nbytes
    assert metadata["compression_ratio"] == values.nbytes / len(compressed) == pytest.approx(ratio, rel=2e-3)


def test_container_padding_is_no_compression() -> None:
    # The ratio above 1 of Tensorus 0.1 on 15 x 15 floats was that of its padding.
    values = np.random.default_rng(0).random((15, 15))
    compressed, metadata = CompressionConfig("lz4").create_tensor_compression().compress_tensor(values)
    assert metadata["compression_ratio"] < 1 < 1.1 * metadata["compression_ratio"]
    assert len(compressed) == metadata["compressed_size"]
