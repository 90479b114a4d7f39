"""Records of Tensorus 0.1 in a folder: what is told of their values is true, and what is dropped is told."""

from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.old_tensorus import Written
from tensorus._imported import LOST_BEFORE_IMPORT, lost_before_import
from tensorus.compression import CompressionConfig
from tensorus.tensor_storage import TensorStorage

NUMBERS = torch.linspace(-1, 2, 1200).reshape(30, 40)

CASES: dict[str, tuple[torch.Tensor, str, str]] = {
    "half": (NUMBERS, "gzip-6", "fp16"),
    "int8": (NUMBERS, "gzip-9", "int8"),
    "saturated": (torch.tensor([100.0, 100.25, 101.0]), "gzip-9", "int8"),
    "repaired": (torch.tensor([-5, 0, 7], dtype=torch.int8), "none", "int8"),
    "exact": (NUMBERS.half(), "gzip-6", "fp16"),
    "empty": (torch.ones(0, 3), "gzip-6", "fp16"),
    "lossless": (NUMBERS, "lz4-1", "none"),
    "plain": (NUMBERS, "none", "none"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a dataset of 0.1, a record per case."""
    old = Written()
    for name, (tensor, compression, quantization) in CASES.items():
        old.insert(tensor, name, compression, quantization, label=name)
    old.save(tmp_path / "old.pt")
    return tmp_path


def described(storage: TensorStorage, name: str, dataset: str = "old") -> dict[str, Any]:
    found: dict[str, Any] = storage.get_tensor_by_id(dataset, name)["metadata"].get("compression_metadata", {})
    return found


STATUSES = {
    "half": "lossy",
    "int8": "lossy",
    "saturated": "lossy",
    "repaired": "repaired",
    "exact": "imported",
    "empty": "imported",
    "lossless": "imported",
}


@pytest.mark.parametrize("name", STATUSES)
def test_what_0_1_had_lost_is_lossy_with_an_unknown_error_and_anything_else_is_exact(
    folder: Path, opened: Any, name: str
) -> None:
    found = described(opened(folder), name)
    errors = {key: found[key] for key in ("lossy", "relative_error", "max_absolute_error")}
    assert found["import_status"] == STATUSES[name]
    if STATUSES[name] == "lossy":
        assert errors == {"lossy": True, "relative_error": None, "max_absolute_error": None}
    else:
        assert errors == {"lossy": False, "relative_error": 0.0, "max_absolute_error": 0.0}
    assert (found["compression"], found["quantization"]) == CASES[name][1:]


def test_the_parameters_that_0_1_had_chosen_are_shown(folder: Path, opened: Any) -> None:
    storage = opened(folder)
    assert described(storage, "saturated")["quantization_params"] == {
        "scale": 1 / 255,
        "zero_point": -128,
        "original_dtype": "torch.float32",
        "original_shape": [3],
    }
    assert described(storage, "saturated")["saturated_count"] == 3
    for name in ("half", "exact", "lossless"):
        assert set(described(storage, name)["quantization_params"]) == {"original_dtype", "original_shape"}
        assert "saturated_count" not in described(storage, name)


def test_a_client_and_an_update_keep_what_is_known(folder: Path, opened: Any) -> None:
    storage = opened(folder)
    storage.update_tensor_metadata("old", "int8", {"label": "new"})
    assert described(storage, "int8")["import_status"] == "lossy"
    assert described(storage, "int8")["relative_error"] is None
    with tensorus.open(folder) as client:
        stored = client.info("old", "int8").metadata["compression_metadata"]
    assert isinstance(stored, dict)
    assert stored["import_status"] == "lossy"
    assert set(stored["quantization_params"]) == {"scale", "zero_point", "original_dtype", "original_shape"}


def test_a_record_whose_description_0_1_had_removed_is_lossy_too(tmp_path: Path, opened: Any) -> None:
    old = Written()
    old.insert(NUMBERS, "r", "gzip-6", "fp16")
    old.metadata[0] = {"record_id": "r", "label": "updated"}
    old.save(tmp_path / "old.pt")
    found = described(opened(tmp_path), "r")
    assert (found["quantization"], found["lossy"], found["relative_error"]) == ("fp16", True, None)


def test_statistics_of_imported_records_count_what_was_compressed(folder: Path, opened: Any) -> None:
    stats = opened(folder).get_compression_stats("old")
    assert (stats["total_tensors"], stats["compressed_tensors"], stats["fallbacks"]) == (8, 7, 0)
    assert stats["compression_algorithms"] == ["gzip-6", "gzip-9", "lz4-1", "none"]
    assert stats["quantization_algorithms"] == ["fp16", "int8", "none"]


def test_what_an_earlier_version_imported_has_an_unknown_error_where_it_was_quantized(
    tmp_path: Path, opened: Any
) -> None:
    old = {
        "compression": "gzip-6",
        "quantization": "int8",
        "quantization_params": {"scale": 0.5, "zero_point": 3, "original_dtype": "torch.float32"},
        "original_size": 1500,
        "compressed_size": 700,
        "compression_ratio": 2.1,
    }
    with tensorus.open(tmp_path) as client:
        client.create_dataset("old", policy=tensorus.Policy(preset="lossless"))
        client.insert("old", NUMBERS, id="quantized", metadata={"compression_metadata": old})
        client.insert("old", NUMBERS, id="exact", metadata={"compression_metadata": {**old, "quantization": "none"}})
    storage = opened(tmp_path)
    found = described(storage, "quantized")
    assert (found["lossy"], found["relative_error"], found["max_absolute_error"]) == (True, None, None)
    assert found["quantization_params"]["scale"] == 0.5
    assert "import_status" not in found
    assert (described(storage, "exact")["lossy"], described(storage, "exact")["relative_error"]) == (False, 0.0)


def test_the_filter_for_values_that_were_lossy_before_finds_the_records_of_which_the_function_says_so(
    folder: Path, opened: Any
) -> None:
    storage = opened(folder, compression_config=CompressionConfig("gzip", "int8"))
    storage.insert("old", NUMBERS, {"label": "measured"})
    earlier = {"compression": "gzip-6", "original_size": 1500}
    with tensorus.open(folder) as client:
        for name in ("int8", "none"):
            described = {**earlier, "quantization": name}
            client.insert("old", NUMBERS, id=f"earlier {name}", metadata={"compression_metadata": described})
        said = {info.id for info in client.list("old") if lost_before_import(info.metadata)}
        assert {info.id for info in client.list("old", LOST_BEFORE_IMPORT)} == said
        assert said == {"half", "int8", "saturated", "earlier int8"}


def test_what_this_version_inserts_has_the_errors_that_were_measured(folder: Path, opened: Any) -> None:
    storage = opened(folder, compression_config=CompressionConfig("gzip", "int8"))
    record_id = storage.insert("old", NUMBERS, {"label": "new"})
    found = described(storage, record_id)
    assert found["lossy"] is True
    assert 0 < found["relative_error"] < 0.01
    assert "import_status" not in found
    exact = storage.insert("old", torch.arange(5))
    assert (described(storage, exact)["lossy"], described(storage, exact)["relative_error"]) == (False, 0.0)


# ---- The log ------------------------------------------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "tensorus.tensor_storage._old_files"
    ]


def test_opening_a_folder_warns_of_what_was_lossy_or_dropped(
    folder: Path, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = Written(schema={"description": "of no meaning"})
    old.insert(NUMBERS, "r", took=dt.timedelta(1), loss=np.complex64(1))
    old.save(folder / "dropped.pt")
    caplog.set_level(logging.INFO)
    opened(folder)
    dropped = "1 record in 1 dataset: 1 imported, 2 values of metadata dropped, 1 other part left out"
    assert messages(caplog) == [
        ("WARNING", f"{folder}/dropped.pt is imported: {dropped}"),
        ("WARNING", f"{folder}/old.pt is imported: 8 records in 1 dataset: 4 imported, 1 repaired, 3 lossy"),
    ]


def test_opening_a_folder_whose_records_are_whole_warns_of_nothing(
    tmp_path: Path, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    old = Written()
    old.insert(NUMBERS, "r", loss=np.float32(0.5), when=dt.datetime.now(dt.UTC), tags={"a"})
    old.save(tmp_path / "whole.pt")
    caplog.set_level(logging.INFO)
    opened(tmp_path)
    assert messages(caplog) == [("INFO", f"{tmp_path}/whole.pt is imported: 1 record in 1 dataset: 1 imported")]
