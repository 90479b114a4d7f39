"""What the description of compression in Tensorus 0.1 promises: a test for each row of the table in docs/MIGRATING.md."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import torch

from support.old_tensorus import Written
from tensorus import compression as api
from tensorus.compression import COMPRESSION_PRESETS, CompressionConfig, TensorCompression, get_compression_preset
from tensorus.tensor_storage import DamagedRecordError, TensorStorage

TEXT = b"tensors and more tensors " * 100


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("level", range(1, 10))
def test_gzip_makes_gzip_files(level: int) -> None:
    assert gzip.decompress(api.GZIPCompression(compression_level=level).compress(TEXT)) == TEXT


@pytest.mark.parametrize("level", range(1, 5))
def test_lz4_makes_lz4_frames(level: int) -> None:
    assert lz4.frame.decompress(api.LZ4Compression(compression_level=level).compress(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("quantizer", "dtype"), [(api.INT8Quantization(), torch.int8), (api.FP16Quantization(), torch.float16)]
)
def test_quantizers_return_codes_and_what_gives_the_values_back(
    quantizer: api.QuantizationAlgorithm, dtype: torch.dtype
) -> None:
    tensor = normal(64, 64)
    codes, params = quantizer.quantize(tensor)
    assert (codes.dtype, codes.shape) == (dtype, tensor.shape)
    assert torch.allclose(quantizer.dequantize(codes, params), tensor, atol=0.02)


class Reversed(api.CompressionAlgorithm):
    """The two methods that the description has."""

    def compress(self, data: Any) -> bytes:
        return bytes(data)[::-1]

    def decompress(self, compressed_data: Any) -> bytes:
        return bytes(compressed_data)[::-1]


class Halved(api.QuantizationAlgorithm):
    """The two methods that the description has."""

    def quantize(self, tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        return tensor / 2, {"factor": 2}

    def dequantize(self, quantized_tensor: torch.Tensor, params: Any) -> torch.Tensor:
        return quantized_tensor * params["factor"]


def test_the_base_classes_can_be_implemented() -> None:
    own = TensorCompression(Reversed(), Halved())
    assert torch.equal(own.decompress_tensor(*own.compress_tensor(normal(9, 9))), normal(9, 9))


PRESETS = {
    "none": ("none", "none", {}),
    "fast": ("lz4", "none", {"compression_level": 1}),
    "balanced": ("gzip", "fp16", {"compression_level": 6}),
    "maximum": ("gzip", "int8", {"compression_level": 9}),
    "fp16_only": ("none", "fp16", {}),
    "int8_only": ("none", "int8", {}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_name_these_algorithms(name: str) -> None:
    config = COMPRESSION_PRESETS[name]
    assert (config.compression, config.quantization, dict(config.compression_kwargs)) == PRESETS[name]


def test_a_preset_beats_a_configuration(opened: Any) -> None:
    config = CompressionConfig(compression="gzip", quantization="int8", compression_kwargs={"compression_level": 9})
    storage = opened(None, compression_config=config, compression_preset="fast")
    assert storage.compression_config == get_compression_preset("fast")


def test_all_six_ways_to_read_decompress(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="balanced")
    storage.create_dataset("d")
    tensor = normal(32, 32)
    record_id = storage.insert("d", tensor)
    found = [
        storage.get_tensor_by_id("d", record_id)["tensor"],
        *storage.get_dataset("d"),
        *(record["tensor"] for record in storage.get_dataset_with_metadata("d")),
        *(record["tensor"] for record in storage.query("d", lambda tensor, _: tensor.shape == (32, 32))),
        *(record["tensor"] for record in storage.sample_dataset("d", 1)),
        *(record["tensor"] for record in storage.get_records_paginated("d")),
    ]
    assert len(found) == 6
    assert all(torch.allclose(one, tensor, atol=2e-3) for one in found)


def test_settings_change_and_what_is_stored_stays_readable(place: Any, opened: Any) -> None:
    storage = opened(place)
    storage.create_dataset("d")
    tensor = normal(64, 64)
    for preset in PRESETS:
        storage.set_compression_preset(preset)
        storage.insert("d", tensor, {"preset": preset})
    storage.set_compression_config(CompressionConfig("lz4", "none"))
    errors = [(found - tensor).abs().max().item() for found in storage.get_dataset("d")]
    assert errors[:2] == [0, 0]
    assert all(0 < error < 0.05 for error in errors[2:])


def test_statistics_have_these_keys(opened: Any) -> None:
    storage = opened(None, compression_preset="balanced")
    storage.create_dataset("d")
    storage.insert("d", normal(64, 64))
    stats = storage.get_compression_stats("d")
    assert (stats["total_tensors"], stats["compressed_tensors"]) == (1, 1)
    assert stats["average_compression_ratio"] == stats["total_original_size"] / stats["total_compressed_size"]
    assert (stats["compression_algorithms"], stats["quantization_algorithms"]) == (["gzip-6"], ["fp16"])


@pytest.mark.parametrize(
    ("preset", "ratio_min", "error_max"),
    [
        ("none", 0.99, 0),
        ("fast", 1.02, 0),
        ("balanced", 1.18, 1e-3),
        ("maximum", 1.17, 1e-1),
        ("fp16_only", 1.99, 1e-3),
        # Its scales count, an eighth of a bit for each value.
        ("int8_only", 3.85, 1e-1),
    ],
)
def test_ratios_and_errors_are_no_worse_than_promised(
    opened: Any, preset: str, ratio_min: float, error_max: float
) -> None:
    storage = opened(None, compression_preset=preset)
    storage.create_dataset("d")
    tensor = normal(512, 512)
    found = storage.get_tensor_by_id("d", storage.insert("d", tensor))["tensor"]
    assert torch.linalg.vector_norm(found - tensor) <= error_max * torch.linalg.vector_norm(tensor)
    assert storage.get_compression_stats("d")["ratio"] >= ratio_min


def test_metadata_say_how_a_record_is_compressed(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="balanced")
    storage.create_dataset("d")
    metadata = storage.get_tensor_by_id("d", storage.insert("d", normal(100, 100)))["metadata"]
    assert metadata["compressed"] is True
    described = metadata["compression_metadata"]
    assert (described["compression"], described["quantization"]) == ("gzip-6", "fp16")
    assert described["original_size"] == 40_000
    assert described["compression_ratio"] == described["original_size"] / described["compressed_size"]
    assert described["quantization_params"] == {"original_dtype": "torch.float32", "original_shape": [100, 100]}


def test_what_cannot_be_quantized_is_stored_as_it_is(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="maximum")
    storage.create_dataset("d")
    tensor = normal(10_000)
    tensor[::2] = float("nan")
    record = storage.get_tensor_by_id("d", storage.insert("d", tensor))
    assert torch.equal(record["tensor"].view(torch.int32), tensor.view(torch.int32))
    assert "NaN" in record["metadata"]["compression_metadata"]["fallback"]


WITHOUT_LZ4 = """
import sys

sys.modules["lz4"] = None
import numpy as np
from tensorus.tensor_storage import TensorStorage

with TensorStorage(None, compression_preset="fast") as storage:
    storage.create_dataset("d")
    found = storage.get_tensor_by_id("d", storage.insert("d", np.arange(1000.0)))
    assert (np.asarray(found["tensor"]) == np.arange(1000.0)).all()
"""


def test_presets_work_without_the_libraries() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_LZ4], check=True, timeout=60)


def test_damage_is_named(tmp_path: Path, opened: Any) -> None:
    storage: TensorStorage = opened(tmp_path / "store", compression_preset="balanced")
    storage.create_dataset("d")
    record_id = storage.insert("d", normal(512, 512))
    (payload,) = (path for path in (tmp_path / "store" / "chunks").glob("*/*") if path.stat().st_size > 100_000)
    damaged = bytearray(payload.read_bytes())
    damaged[1000] ^= 1
    payload.write_bytes(damaged)
    with pytest.raises(DamagedRecordError, match=f"chunk 0 .*tensor={record_id}"):
        storage.get_tensor_by_id("d", record_id)


def test_datasets_from_before_compression_and_mixed_ones_load(tmp_path: Path, opened: Any) -> None:
    before, mixed = Written(generation=2), Written()
    before.insert(normal(9), "a")
    for quantization in ("none", "fp16", "int8"):
        mixed.insert(normal(9), quantization, "gzip-6", quantization)
    before.save(tmp_path / "before.pt")
    mixed.save(tmp_path / "mixed.pt")
    storage = opened(tmp_path)
    assert torch.equal(storage.get_tensor_by_id("before", "a")["tensor"], normal(9))
    assert torch.equal(storage.get_tensor_by_id("mixed", "none")["tensor"], normal(9))
    assert all(torch.allclose(found, normal(9), atol=0.02) for found in storage.get_dataset("mixed"))


@pytest.mark.parametrize("name", ["zstd", "brotli"])
def test_what_was_planned_compresses(name: str) -> None:
    algorithm = api.create_compression_algorithm(name)
    assert algorithm.decompress(algorithm.compress(TEXT)) == TEXT


def test_the_automatic_choice_mixes_precisions() -> None:
    tensor = torch.cat([torch.arange(300_000.0), normal(300_000)])
    config = get_compression_preset("auto", max_relative_error=1e-2)
    _, metadata = config.create_tensor_compression().compress_tensor(tensor)
    assert len(metadata["encodings"]) > 1
    assert metadata["relative_error"] <= 1e-2
