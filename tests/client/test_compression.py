"""Whole tensors: exact or within what was measured, counted honestly, and held once more at most."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.arrays import DTYPE_NAMES, SHAPES, assert_same_bits, normal, random_bits
from support.cases import each
from support.client import ARRAYS
from support.compression import COMPRESSORS, relative_error
from tensorus import compression
from tensorus.compression import (
    AutoQuantization,
    BF16Quantization,
    CompressionAlgorithm,
    CompressionError,
    FP16Quantization,
    GZIPCompression,
    INT8Quantization,
    LZ4Compression,
    NoCompression,
    NoQuantization,
    QuantizationError,
    TensorCompression,
    ZstdCompression,
)

MIB = 1024 * 1024


def test_nothing_over_nothing_is_exact() -> None:
    compressor = TensorCompression(NoCompression(), NoQuantization())
    tensor = torch.randn(5, 5)
    compressed, metadata = compressor.compress_tensor(tensor)
    assert isinstance(compressed, bytes)
    assert torch.equal(compressor.decompress_tensor(compressed, metadata), tensor)
    assert (metadata["compression"], metadata["quantization"]) == ("none", "none")
    assert (metadata["lossy"], metadata["relative_error"], metadata["fallback"]) == (False, 0.0, None)


def test_gzip_over_int8() -> None:
    compressor = TensorCompression(GZIPCompression(), INT8Quantization())
    tensor = torch.from_numpy(normal((20, 20), scale=1.0))
    compressed, metadata = compressor.compress_tensor(tensor)
    found = compressor.decompress_tensor(compressed, metadata)
    assert (metadata["compression"], metadata["quantization"]) == ("gzip-6", "int8")
    assert metadata["compression_ratio"] > 1.0
    assert (
        float(torch.abs(found - tensor).max())
        == metadata["max_absolute_error"]
        <= float(tensor.abs().max()) / 254 * 1.01
    )


def test_lz4_over_fp16() -> None:
    compressor = TensorCompression(LZ4Compression(), FP16Quantization())
    tensor = torch.from_numpy(normal((15, 15), scale=1.0))
    compressed, metadata = compressor.compress_tensor(tensor)
    found = compressor.decompress_tensor(compressed, metadata)
    assert (metadata["compression"], metadata["quantization"]) == ("lz4-1", "fp16")
    assert relative_error(found, tensor) == pytest.approx(metadata["relative_error"], rel=3.2e-5)
    assert metadata["relative_error"] < 2.2e-4


def test_metadata_is_plain_and_counts_everything() -> None:
    values = np.tile(normal((4, 1024)), (256, 1))
    compressed, metadata = TensorCompression(GZIPCompression(9), INT8Quantization()).compress_tensor(values)
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["quantization_params"] == {"original_dtype": "torch.float32", "original_shape": [1024, 1024]}
    assert metadata["original_size"] == values.nbytes
    assert metadata["compressed_size"] == len(compressed)
    assert metadata["compression_ratio"] == values.nbytes / len(compressed)
    (share,) = metadata["encodings"]
    assert share["codecs"] == ["int8_block", "gzip"]
    assert (share["chunks"], share["canonical_bytes"]) == (4, values.nbytes)
    assert 0 < len(compressed) - share["stored_bytes"] < 100
    assert metadata["lossy"]


@each("dtype", DTYPE_NAMES)
@each("name", COMPRESSORS)
def test_without_a_quantizer_every_bit_stays(name: str, dtype: str) -> None:
    # What a shape changes does not depend on the dtype.
    for shape in SHAPES if dtype == "float32" else SHAPES[-2:]:
        values = random_bits(dtype, shape)
        compressed, metadata = TensorCompression(COMPRESSORS[name]).compress_tensor(values)
        assert_same_bits(TensorCompression().decompress_tensor(compressed, as_="numpy"), values)
        assert metadata["compressed_size"] <= values.nbytes + 100


@each("make", ARRAYS.values(), ids=ARRAYS)
def test_the_bytes_do_not_depend_on_how_an_array_lies_in_memory(make: Callable[[], np.ndarray[Any, Any]]) -> None:
    array = make()
    dense = array.astype(array.dtype.newbyteorder("="), order="C")
    compressor = TensorCompression(ZstdCompression())
    assert compressor.compress_tensor(array)[0] == compressor.compress_tensor(dense)[0]


def test_a_scattered_array_of_several_chunks_is_compressed_like_a_dense_one() -> None:
    array = normal((1500, 700)).T
    compressor = TensorCompression(ZstdCompression(1), INT8Quantization())
    compressed, metadata = compressor.compress_tensor(array)
    assert compressed == compressor.compress_tensor(np.ascontiguousarray(array))[0]
    assert sum(share["chunks"] for share in metadata["encodings"]) == 5


def test_mixed_precision_keeps_the_bound_in_every_chunk_with_the_coarsest_that_does() -> None:
    sixteenths = np.random.default_rng(0).integers(-7, 8, MIB // 4) / np.float32(16)
    sixteenths[::32] = 7 / 16  # a scale of 1 / 16 in every block, so that 4 bits lose nothing
    values = np.stack([sixteenths, normal((MIB // 4,))]).astype(np.float32)
    compressor = TensorCompression(quantization_algorithm=AutoQuantization(max_relative_error=5e-3))
    compressed, metadata = compressor.compress_tensor(values)
    found = compressor.decompress_tensor(compressed, metadata, as_="numpy")
    for before, after in zip(values, found, strict=True):
        assert relative_error(after, before) <= 5e-3
    assert [share["codecs"] for share in metadata["encodings"]] == [["int4_block"], ["bf16"]]
    assert metadata["fallback"] is None


def test_a_bound_that_no_quantizer_keeps_makes_the_chunk_lossless_and_says_so() -> None:
    compressor = TensorCompression(GZIPCompression(), INT8Quantization(max_relative_error=0.0))
    values = normal((100, 100))
    compressed, metadata = compressor.compress_tensor(values)
    assert_same_bits(compressor.decompress_tensor(compressed, as_="numpy"), values)
    assert not metadata["lossy"]
    assert metadata["fallback"].startswith("1 of 1 chunks are lossless: relative error of int8_block would be")


def test_numpy_and_torch_come_back_as_asked() -> None:
    values = normal((3, 4))
    compressed, metadata = TensorCompression().compress_tensor(values)
    assert compressed == TensorCompression().compress_tensor(torch.from_numpy(values))[0]
    assert isinstance(TensorCompression().decompress_tensor(compressed, metadata), torch.Tensor)
    assert isinstance(TensorCompression().decompress_tensor(compressed, metadata, as_="torch"), torch.Tensor)
    found = TensorCompression().decompress_tensor(compressed, metadata, as_="numpy")
    found += 1
    assert_same_bits(TensorCompression().decompress_tensor(compressed, metadata, as_="numpy"), values)


def test_a_tensor_with_a_gradient_is_its_values() -> None:
    tensor = torch.randn(3, requires_grad=True)
    compressed, metadata = TensorCompression().compress_tensor(tensor)
    found = TensorCompression().decompress_tensor(compressed, metadata)
    assert not found.requires_grad
    assert torch.equal(found, tensor.detach())


def test_what_cannot_be_compressed_is_named() -> None:
    with pytest.raises(TypeError, match="a list is not a tensor"):
        TensorCompression().compress_tensor([1, 2])
    with pytest.raises(CompressionError, match="dtype <U4 is not one of") as raised:
        TensorCompression().compress_tensor(np.array(["text"]))
    assert raised.value.reason == "UNSUPPORTED_DTYPE"
    with pytest.raises(CompressionError, match="sparse"):
        TensorCompression().compress_tensor(torch.eye(3).to_sparse())


@pytest.mark.slow
@pytest.mark.parametrize("compressor", [NoCompression(), ZstdCompression(1)], ids=lambda algorithm: algorithm.name)
def test_a_tensor_is_held_once_more_at_most(compressor: CompressionAlgorithm) -> None:
    values = np.frombuffer(np.random.default_rng(0).bytes(16 * MIB), np.float32).reshape(-1, 64)
    slack = 8 * MIB

    def peak(action: Callable[[], Any]) -> tuple[int, Any]:
        tracemalloc.start()
        result = action()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, result

    tensors = TensorCompression(compressor)
    used, (compressed, _) = peak(lambda: tensors.compress_tensor(values))
    # What grows is allocated in steps of an eighth.
    assert used <= 9 / 8 * values.nbytes + slack
    used, _ = peak(lambda: tensors.compress_tensor(values.T))
    assert used <= 9 / 8 * values.nbytes + slack
    used, found = peak(lambda: tensors.decompress_tensor(compressed, as_="numpy"))
    assert used <= values.nbytes + slack
    assert_same_bits(found, values)
    used, (codes, params) = peak(lambda: BF16Quantization().quantize(np.nan_to_num(values)))
    del found
    used, _ = peak(lambda: BF16Quantization().dequantize(codes, params))
    assert used <= values.nbytes + slack


def test_the_example_of_the_module_runs() -> None:
    lines = (compression.__doc__ or "").split("For example:\n", 1)[1].splitlines()
    block = "\n".join(line[4:] for line in lines if line.startswith("    ") or not line)
    names: dict[str, Any] = {}
    exec(compile(block, "tensorus.compression", "exec"), names)
    assert names["same"].shape == (256, 256)
    assert names["metadata"]["relative_error"] <= 1e-3


def test_the_errors_are_errors_of_tensorus() -> None:
    assert issubclass(CompressionError, tensorus.TensorusError)
    assert issubclass(QuantizationError, tensorus.TensorusError)
    assert not issubclass(CompressionError, QuantizationError)
