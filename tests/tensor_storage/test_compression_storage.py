"""Storage with codecs: what the original's tests asked for, with the values compared and the sizes counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from support.payload_files import payload_bytes
from tensorus.compression import COMPRESSION_PRESETS, CompressionConfig
from tensorus.tensor_storage import TensorStorage

ORIGINALS = ("none", "fast", "balanced", "maximum", "fp16_only", "int8_only")

RELATIVE_ERRORS_MAX = {
    "none": 0.0,
    "fast": 0.0,
    "balanced": 5e-4,
    "maximum": 1e-2,
    "fp16_only": 5e-4,
    "int8_only": 1e-2,
}
"""L2 norm of the error over L2 norm, of normally distributed values; see docs/FORMAT.md."""

WEIGHTS = torch.randn(256, 256, generator=torch.Generator().manual_seed(7)) * 0.02


def assert_close_enough(found: torch.Tensor, preset: str) -> None:
    assert found.dtype == WEIGHTS.dtype
    assert found.shape == WEIGHTS.shape
    assert ((found - WEIGHTS).norm() / WEIGHTS.norm()).item() <= RELATIVE_ERRORS_MAX[preset]


def compression_metadata(storage: TensorStorage, record_id: str) -> dict[str, Any]:
    found: dict[str, Any] = storage.get_tensor_by_id("weights", record_id)["metadata"]["compression_metadata"]
    return found


def test_without_a_configuration_everything_is_exact(storage: TensorStorage) -> None:
    storage.create_dataset("weights")
    record_id = storage.insert("weights", WEIGHTS)
    record = storage.get_tensor_by_id("weights", record_id)
    assert torch.equal(record["tensor"], WEIGHTS)
    assert record["metadata"]["compressed"] is False
    assert "compression_metadata" not in record["metadata"]
    assert storage.compression_config == CompressionConfig()


@pytest.mark.parametrize("preset", ORIGINALS)
def test_a_preset_keeps_its_bound_and_says_what_it_did(place: Any, opened: Any, preset: str) -> None:
    storage = opened(place, compression_preset=preset)
    storage.create_dataset("weights")
    record_id = storage.insert("weights", WEIGHTS)
    record = storage.get_tensor_by_id("weights", record_id)
    assert_close_enough(record["tensor"], preset)
    metadata = record["metadata"]
    assert metadata["dtype"] == "torch.float32"
    assert metadata["compressed"] is (preset != "none")
    if preset == "none":
        return
    config = COMPRESSION_PRESETS[preset]
    compression = config.create_tensor_compression()
    told = metadata["compression_metadata"]
    assert told["compression"] == compression.compression_algorithm.name
    assert told["quantization"] == compression.quantization_algorithm.name
    assert told["original_size"] == 256 * 256 * 4
    assert told["compression_ratio"] == told["original_size"] / told["compressed_size"] > 1
    assert told["lossy"] is (config.quantization != "none")
    assert told["relative_error"] == pytest.approx(
        ((record["tensor"] - WEIGHTS).double().norm() / WEIGHTS.double().norm()).item(), rel=1e-3
    )
    assert told["fallback"] is None


def test_a_preset_beats_a_configuration(opened: Any) -> None:
    storage = opened(None, CompressionConfig("gzip"), compression_preset="maximum")
    assert storage.compression_config is COMPRESSION_PRESETS["maximum"]
    assert storage.tensor_compression.preset == "maximum"


def test_an_unknown_preset_is_refused(opened: Any) -> None:
    with pytest.raises(ValueError, match="is not one of"):
        opened(None, compression_preset="best")
    for preset in ("best", ""):
        with pytest.raises(ValueError, match="is not one of"):
            opened(None).set_compression_preset(preset)


@pytest.mark.parametrize("empty", ["", None, {}, 0])
def test_an_empty_preset_or_configuration_is_none(opened: Any, empty: Any) -> None:
    assert opened(None, compression_preset=empty).compression_config == CompressionConfig()
    assert opened(None, empty).compression_config == CompressionConfig()
    assert opened(None, CompressionConfig("gzip"), empty).compression_config == CompressionConfig("gzip")


def test_what_is_no_configuration_is_refused(storage: TensorStorage) -> None:
    with pytest.raises(TypeError, match="not a CompressionConfig"):
        storage.set_compression_config("balanced")  # type: ignore[arg-type]


def test_a_chain_by_hand_is_literally_that_chain(place: Any, opened: Any) -> None:
    config = CompressionConfig("gzip", "int8", {"compression_level": 9})
    storage = opened(place, compression_config=config)
    storage.create_dataset("weights")
    told = compression_metadata(storage, storage.insert("weights", WEIGHTS))
    assert (told["compression"], told["quantization"]) == ("gzip-9", "int8")
    assert [share["codecs"] for share in told["encodings"]] == [["int8_block", "gzip"]]


def test_statistics_count_all_of_three(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="balanced")
    storage.create_dataset("weights")
    ids = [storage.insert("weights", WEIGHTS + n) for n in range(3)]
    sizes = [compression_metadata(storage, record_id)["compressed_size"] for record_id in ids]
    stats = storage.get_compression_stats("weights")
    canonical_bytes = 3 * 256 * 256 * 4
    assert stats == {
        "total_tensors": 3,
        "compressed_tensors": 3,
        "total_original_size": canonical_bytes,
        "total_compressed_size": sum(sizes),
        "average_compression_ratio": canonical_bytes / sum(sizes),
        "compression_algorithms": ["gzip-6"],
        "quantization_algorithms": ["fp16"],
        "fallbacks": 0,
        "stored_bytes": sum(sizes),
        "ratio": canonical_bytes / sum(sizes),
    }
    assert stats["average_compression_ratio"] > 1


def test_statistics_of_a_mixed_dataset_tell_both(storage: TensorStorage) -> None:
    storage.create_dataset("weights")
    assert storage.get_compression_stats("weights")["average_compression_ratio"] == 1.0
    storage.insert("weights", WEIGHTS)
    storage.set_compression_config(CompressionConfig("none", "int8"))
    storage.insert("weights", WEIGHTS)
    storage.insert("weights", torch.arange(10))
    stats = storage.get_compression_stats("weights")
    assert (stats["total_tensors"], stats["compressed_tensors"], stats["fallbacks"]) == (3, 2, 1)
    assert stats["total_original_size"] == 256 * 256 * 4 + 80
    assert 1 < stats["ratio"] < stats["average_compression_ratio"]


def test_the_sizes_are_those_on_disk(tmp_path: Path, opened: Any) -> None:
    storage = opened(tmp_path / "store", compression_preset="fp16_only")
    storage.create_dataset("weights")
    told = [compression_metadata(storage, storage.insert("weights", WEIGHTS + n)) for n in range(3)]
    payloads = sorted(payload_bytes(path) for path in (tmp_path / "store" / "chunks").glob("*/*"))
    assert payloads == sorted(one["compressed_size"] for one in told)


def test_a_configuration_can_be_switched_and_touches_nothing_stored(storage: TensorStorage) -> None:
    storage.create_dataset("weights")
    ids = {}
    for preset in ORIGINALS:
        storage.set_compression_preset(preset)
        ids[preset] = storage.insert("weights", WEIGHTS)
    storage.set_compression_config(CompressionConfig("gzip", "int8", {"compression_level": 9}))
    for preset, record_id in ids.items():
        assert_close_enough(storage.get_tensor_by_id("weights", record_id)["tensor"], preset)
    stats = storage.get_compression_stats("weights")
    assert stats["compressed_tensors"] == 5
    assert stats["compression_algorithms"] == ["gzip-6", "gzip-9", "lz4-1", "none"]
    assert stats["quantization_algorithms"] == ["fp16", "int8", "none"]


def test_a_store_is_reopened_with_every_other_preset(lasting_place: Any) -> None:
    ids = {}
    with TensorStorage(lasting_place) as before:
        before.create_dataset("weights")
        for preset in ORIGINALS:
            before.set_compression_preset(preset)
            ids[preset] = before.insert("weights", WEIGHTS)
    for then in (None, *ORIGINALS):
        with TensorStorage(lasting_place, compression_preset=then) as after:
            for preset, record_id in ids.items():
                assert_close_enough(after.get_tensor_by_id("weights", record_id)["tensor"], preset)
            found = after.query("weights", lambda tensor, _: tensor.shape == (256, 256))
            assert len(found) == len(ORIGINALS), then


def test_queries_see_decoded_values(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="maximum")
    storage.create_dataset("weights")
    for n in range(4):
        storage.insert("weights", WEIGHTS + n, {"n": n})
    found = storage.query("weights", lambda tensor, _: tensor.mean() > 1.5)
    assert [record["metadata"]["n"] for record in found] == [2, 3]


def test_samples_have_decoded_values(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="balanced")
    storage.create_dataset("weights")
    for n in range(4):
        storage.insert("weights", WEIGHTS * 2.0**n, {"n": n})
    sample = storage.sample_dataset("weights", 4)
    assert sorted(record["metadata"]["n"] for record in sample) == [0, 1, 2, 3]
    for record in sample:
        assert_close_enough(record["tensor"] / 2.0 ** record["metadata"]["n"], "balanced")


def test_an_object_without_a_configuration_asks_what_the_dataset_says(lasting_place: Any, opened: Any) -> None:
    storage = opened(lasting_place)
    storage.create_dataset("weights")
    storage._client.create_dataset("elsewhere", preset="lossless")
    storage.insert("elsewhere", torch.zeros(256, 256))
    assert storage.get_compression_stats("elsewhere")["ratio"] > 100
    lossy = opened(lasting_place, compression_preset="maximum")
    lossy.create_dataset("created under a preset")
    storage.insert("created under a preset", WEIGHTS)
    assert torch.equal(storage.get_dataset("created under a preset")[0], WEIGHTS)
