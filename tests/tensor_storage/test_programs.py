"""Programs for Tensorus 0.1, as they were written: nothing of them may have to change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tensorus.compression import CompressionConfig
from tensorus.tensor_storage import TensorStorage


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


BASIC_USAGE = """
from tensorus.tensor_storage import TensorStorage

# Create storage with compression
storage = TensorStorage(
    storage_path="./data",
    compression_preset="balanced"  # GZIP + FP16
)

# Use normally - compression is automatic
storage.create_dataset("images")
tensor = torch.rand(3, 256, 256)
record_id = storage.insert("images", tensor)

# Retrieval automatically decompresses
retrieved = storage.get_tensor_by_id("images", record_id)
"""

CUSTOM_CONFIGURATION = """
from tensorus.compression import CompressionConfig

# Custom compression configuration
config = CompressionConfig(
    compression="gzip",
    quantization="int8",
    compression_kwargs={"compression_level": 9}
)

storage = TensorStorage(
    storage_path="./data",
    compression_config=config
)
"""

RUNTIME_CHANGES = """
# Change compression settings on existing storage
storage.set_compression_preset("maximum")

# Or set custom config
storage.set_compression_config(custom_config)
"""

STATISTICS = """
# Get detailed compression statistics
stats = storage.get_compression_stats("dataset_name")
print(f"Compression ratio: {stats['average_compression_ratio']:.2f}x")
print(f"Space saved: {(1-1/stats['average_compression_ratio'])*100:.1f}%")
"""

ALL_IN_ONE = """
from tensorus.compression import CompressionConfig
from tensorus.tensor_storage import TensorStorage

store = TensorStorage(storage_path=place, compression_preset="balanced")
store.create_dataset("photos")
key = store.insert("photos", torch.rand(3, 256, 256))
photo = store.get_tensor_by_id("photos", key)["tensor"]
tight = CompressionConfig(compression="gzip", quantization="int8", compression_kwargs={"compression_level": 9})
store.set_compression_preset("maximum")   # the photo stays readable
store.set_compression_config(tight)
saved = 1 - 1 / store.get_compression_stats("photos")["average_compression_ratio"]
other = TensorStorage(storage_path="./data", compression_config=tight)
"""


def run(place: Any, program: str, **names: Any) -> dict[str, Any]:
    """Run a program with this place for its folder "./data", and return its names."""
    names |= {"torch": torch, "place": place}
    if "TensorStorage(\n" in program:
        program = program.replace('"./data"', "place")
    exec(compile(program, "program", "exec"), names)
    return names


def test_basic_usage_with_presets(place: Any) -> None:
    names = run(place, BASIC_USAGE)
    assert torch.allclose(names["retrieved"]["tensor"], names["tensor"], atol=1e-3)
    names["storage"].close()


def test_a_custom_configuration(place: Any) -> None:
    names = run(place, CUSTOM_CONFIGURATION, TensorStorage=TensorStorage)
    storage = names["storage"]
    storage.create_dataset("images")
    tensor = torch.rand(64, 64)
    record = storage.get_tensor_by_id("images", storage.insert("images", tensor))
    assert torch.allclose(record["tensor"], tensor, atol=0.01)
    assert record["metadata"]["compression_metadata"]["compression"] == "gzip-9"
    storage.close()


def test_changes_at_run_time(storage: TensorStorage) -> None:
    custom = CompressionConfig("lz4", "fp16")
    run(None, RUNTIME_CHANGES, storage=storage, custom_config=custom)
    assert storage.compression_config is custom


def test_compression_statistics(storage: TensorStorage, capsys: pytest.CaptureFixture[str]) -> None:
    storage.create_dataset("dataset_name")
    storage.set_compression_preset("fp16_only")
    storage.insert("dataset_name", torch.rand(512, 512))
    run(None, STATISTICS, storage=storage)
    assert capsys.readouterr().out == "Compression ratio: 2.00x\nSpace saved: 50.0%\n"


def test_everything_in_one_program(place: Any) -> None:
    names = run(place, ALL_IN_ONE)
    store = names["store"]
    assert torch.allclose(store.get_tensor_by_id("photos", names["key"])["tensor"], names["photo"])
    assert 0.3 < names["saved"] < 0.9
    assert names["other"].list_datasets() == []
    names["other"].close()
    store.close()
