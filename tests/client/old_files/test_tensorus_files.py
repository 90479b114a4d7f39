"""Files of the original: all three generations, compressed records, and what cannot be read of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.arrays import assert_same_bits
from support.old_reading import read, read_bytes
from support.old_tensorus import (
    COMPRESSORS,
    Written,
    archive,
    compressed,
    fp16_codes,
    tensor,
)
from tensorus._arrays.canonical import as_numpy
from tensorus.old_files import DroppedValue, OldDataset, OldFileError, OldRecord, OldSchema
from tensorus.old_files.report import dropped_counts, status_counts

NUMBERS = torch.linspace(-1, 2, 1200).reshape(30, 40)


# ---- Generations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_every_generation_is_read(tmp_path: Path, generation: int) -> None:
    written = Written(generation=generation)
    written.insert(NUMBERS, "first", split="train", box=(1, 2))
    written.insert(torch.arange(5), "second")
    old, (first, second) = read(written.save(tmp_path / "photos.v2.pt"))
    assert (old.name, old.generation, len(old), old.notes) == ("photos.v2", generation, 2, ())
    assert_same_bits(first.array, NUMBERS.numpy())
    assert_same_bits(second.array, np.arange(5))
    assert [record.outcome.id for record in (first, second)] == ["first", "second"]
    assert first.outcome.is_plain
    expected = {"split": "train", "box": [1, 2], "timestamp_utc": 1756684800.25}
    expected |= {"record_id": "first", "shape": [30, 40], "dtype": "torch.float32", "version": 1}
    assert first.metadata == expected | ({"compressed": False} if generation == 3 else {})


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_an_empty_dataset_is_read(tmp_path: Path, generation: int) -> None:
    old, records = read(Written(generation=generation).save(tmp_path / "empty.pt"))
    assert (old.generation, len(old), records) == (generation, 0, [])


def test_a_schema_is_read(tmp_path: Path) -> None:
    schema = {"shape": (30, 40), "dtype": "torch.float32", "metadata": {"split": "str"}}
    old, _ = read(Written(generation=2, schema=schema).save(tmp_path / "old.pt"))
    assert old.schema == OldSchema("float32", (30, 40), {"split": str})


# ---- Compressed records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("quantization", ["none", "fp16", "int8"])
def test_every_compressor_and_quantizer_is_undone(tmp_path: Path, compression: str, quantization: str) -> None:
    written = Written()
    written.insert(NUMBERS, "r", compression, quantization, split="test")
    _, (record,) = read(written.save(tmp_path / "old.pt"))
    assert isinstance(written.tensors[0], bytes) == (compression != "none" or quantization != "none")
    exact = quantization == "none"
    assert record.outcome.status == ("imported" if exact else "lossy")
    assert record.array is not None
    assert np.allclose(record.array, NUMBERS.numpy(), atol=0 if exact else 0.007)
    assert record.array.dtype == np.float32
    assert record.metadata["split"] == "test"
    if isinstance(written.tensors[0], bytes):
        assert record.metadata["compressed"] is True
        described = {**written.metadata[0]["compression_metadata"], "import_status": record.outcome.status}
        assert record.metadata["compression_metadata"] == described


def test_the_record_says_how_it_was_compressed_and_not_the_file(tmp_path: Path) -> None:
    config = {"compression": "lz4", "quantization": "none", "compression_kwargs": {}, "quantization_kwargs": {}}
    written = Written(compression_config=config)
    for number, (compression, quantization) in enumerate(
        [("gzip-6", "fp16"), ("none", "int8"), ("lz4-1", "none"), ("none", "none")]
    ):
        written.insert(NUMBERS, str(number), compression, quantization)
    _, records = read(written.save(tmp_path / "old.pt"))
    assert [record.outcome.status for record in records] == ["lossy", "lossy", "imported", "imported"]
    assert all(np.allclose(record.array, NUMBERS.numpy(), atol=0.007) for record in records if record.array is not None)


@pytest.mark.parametrize("values", [[1.0, float("nan"), 3.0], []])
def test_what_the_original_could_not_compress_is_exact(tmp_path: Path, values: list[float]) -> None:
    written = Written()
    written.insert(torch.tensor(values), "r", "gzip-9", "int8")
    assert isinstance(written.tensors[0], torch.Tensor)
    _, (record,) = read(written.save(tmp_path / "old.pt"))
    assert record.outcome.is_plain
    assert np.array_equal(record.array, values, equal_nan=True)


@pytest.mark.parametrize(
    "tensor_of", [lambda: torch.rand(3, 4, dtype=torch.float64).t(), lambda: torch.ones(2, 0), lambda: torch.tensor(5)]
)
@pytest.mark.parametrize("compression", ["gzip-6", "lz4-1"])
def test_compressed_tensors_of_any_shape_are_exact(tmp_path: Path, compression: str, tensor_of: Any) -> None:
    expected = tensor_of()
    written = Written()
    written.insert(expected, "r", compression, "none")
    _, (record,) = read(written.save(tmp_path / "old.pt"))
    assert_same_bits(record.array, as_numpy(expected))


def updated(tmp_path: Path, tensor_: torch.Tensor, compression: str, quantization: str) -> OldRecord:
    """Return a record whose metadata was replaced, as `update_tensor_metadata` did it."""
    written = Written()
    written.insert(tensor_, "r", compression, quantization)
    written.metadata[0] = {"record_id": "r", "label": "new"}
    _, (record,) = read(written.save(tmp_path / "old.pt"))
    return record


@pytest.mark.parametrize("compression", ["gzip-6", "lz4-1"])
def test_an_updated_record_is_repaired(tmp_path: Path, compression: str) -> None:
    record = updated(tmp_path, NUMBERS, compression, "none")
    assert record.outcome.status == "repaired"
    assert "an update of its metadata removed how it was compressed" in record.outcome.reason
    assert_same_bits(record.array, NUMBERS.numpy())
    assert record.metadata == {"record_id": "r", "label": "new"}


def test_an_updated_record_in_half_precision_stays_so(tmp_path: Path) -> None:
    record = updated(tmp_path, NUMBERS, "none", "fp16")
    assert record.outcome.status == "lossy"
    assert_same_bits(record.array, fp16_codes(NUMBERS)[0].numpy())


def test_an_updated_record_of_int8_without_elements_is_repaired(tmp_path: Path) -> None:
    # The quantizer refused it, so that it was compressed alone, and its dtype is its own.
    record = updated(tmp_path, torch.ones(0, 3, dtype=torch.int8), "gzip-6", "none")
    assert record.outcome.status == "repaired"
    assert_same_bits(record.array, np.ones((0, 3), np.int8))


def test_what_values_are_worth_stands_beside_how_they_were_compressed(tmp_path: Path) -> None:
    written = Written()
    written.insert(torch.tensor([-5, 0, 7], dtype=torch.int8), "repaired", "gzip-9", "int8")
    written.insert(torch.tensor([100.0, 100.25, 101.0]), "saturated", "gzip-9", "int8")
    written.insert(torch.tensor([0.5], dtype=torch.float16), "exact", "none", "fp16")
    written.insert(NUMBERS, "lossless", "gzip-6", "none")
    written.insert(NUMBERS, "plain")
    written.insert(NUMBERS, "updated", "gzip-6", "fp16")
    written.insert(NUMBERS, "without metadata", "gzip-6", "fp16")
    written.metadata[5] = {"record_id": "updated"}
    written.metadata[6] = None
    _, records = read(written.save(tmp_path / "old.pt"))
    described = [record.metadata.get("compression_metadata") or {} for record in records]
    assert [found.get("import_status") for found in described] == [
        "repaired",
        "lossy",
        "imported",
        "imported",
        None,
        "lossy",
        "lossy",
    ]
    assert [found.get("saturated_count") for found in described] == [None, 3, None, None, None, None, None]
    assert described[1]["quantization_params"]["zero_point"] == -128
    assert described[5] == {"quantization": "fp16", "import_status": "lossy"}
    assert described[6] == described[5]


def test_an_updated_record_of_int8_codes_is_lost(tmp_path: Path) -> None:
    record = updated(tmp_path, NUMBERS, "gzip-9", "int8")
    assert (record.outcome.status, record.array) == ("failed", None)
    assert "removed the scale of its int8 codes: its values are lost" in record.outcome.reason


def test_int8_faults_are_repaired_in_the_file(tmp_path: Path) -> None:
    written = Written()
    written.insert(torch.tensor([-5, 0, 7], dtype=torch.int8), "int8", "gzip-9", "int8")
    written.insert(torch.tensor([0, 1, 254, 255], dtype=torch.uint8), "image", "none", "int8")
    written.insert(torch.tensor([100.0, 100.25, 101.0]), "above", "gzip-9", "int8")
    written.insert(torch.full((3,), 3.14), "constant", "lz4-1", "int8")
    _, records = read(written.save(tmp_path / "old.pt"))
    assert [(record.outcome.status, record.outcome.saturated_count) for record in records] == [
        ("repaired", 0),
        ("repaired", 0),
        ("lossy", 3),
        ("lossy", 0),
    ]
    assert [record.array.tolist() for record in records if record.array is not None] == [
        [-5, 0, 7],
        [0, 1, 254, 255],
        [1, 1, 1],
        [3, 3, 3],
    ]


def test_a_record_beyond_the_limit_fails_alone(tmp_path: Path) -> None:
    written = Written()
    written.insert(torch.zeros(100_000), "large", "gzip-9", "none")
    written.insert(torch.zeros(10), "small", "gzip-9", "none")
    _, (large, small) = read(written.save(tmp_path / "old.pt"), inflated_bytes_max=100_000)
    assert large.outcome.status == "failed"
    assert "inflate to more than 100000 bytes, the limit" in large.outcome.reason
    assert small.outcome.is_plain


def test_without_lz4_the_file_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    written = Written()
    written.insert(NUMBERS, "r", "lz4-1", "none")
    with pytest.raises(ImportError, match=r"pip install 'tensorus\[codecs\]'"):
        read(written.save(tmp_path / "old.pt"))


# ---- Records that fail --------------------------------------------------------------------------------------------------

BROKEN_CODECS: list[Any] = [
    pytest.param({"compression": "zstd-3"}, "its compressor is 'zstd-3'", id="another compressor"),
    pytest.param(
        {"compression": "lz4-1"}, "its compressor is 'lz4-1', but its bytes begin with 1f8b08", id="the other"
    ),
    pytest.param({"compression": 7}, "its compression is a int, must be a str", id="no name"),
    pytest.param({"quantization": "int4"}, "its quantizer is 'int4'", id="another quantizer"),
    pytest.param({"quantization": ["int8"]}, "its quantization is a list, must be a str", id="no quantizer"),
    pytest.param({"quantization_params": None}, "dtype 'NoneType' cannot be stored", id="no parameters"),
    pytest.param(
        {"quantization_params": {"original_dtype": "torch.float32", "zero_point": 0}},
        "its scale is a NoneType; without it int8 codes cannot be read, and its values are lost",
        id="no scale",
    ),
]


@pytest.mark.parametrize(("change", "reason"), BROKEN_CODECS)
def test_a_codec_s_description_that_is_wrong_fails_the_record(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    written = Written()
    written.insert(NUMBERS, "broken", "gzip-6", "int8")
    written.insert(NUMBERS, "intact", "gzip-6", "int8")
    written.metadata[0]["compression_metadata"] |= change
    _, (broken, intact) = read(written.save(tmp_path / "old.pt"))
    assert broken.outcome.status == "failed"
    assert reason in broken.outcome.reason
    assert intact.outcome.status == "lossy"


INNER: list[Any] = [
    pytest.param(b"", "its compressor is not known", id="nothing"),
    pytest.param(b"PK\3\4" + bytes(1000), "its inner container: the file does not end with", id="no container"),
    pytest.param(compressed(NUMBERS, "none", "fp16")[0][:-1], "its inner container: the file does not end", id="torn"),
    pytest.param(archive(b"\x80\x02N."), "it holds a NoneType, must hold a tensor", id="no tensor"),
    pytest.param(archive(b"\x80\x02cos\nsystem\n)R."), "it holds a os.system, must hold a tensor", id="something else"),
    pytest.param(archive(b"\x80\x02\x8c\x01a."), "opcode SHORT_BINUNICODE", id="another protocol"),
    pytest.param(
        archive(b"\x80\x02" + tensor(count=8, shape=[9], strides=[1]) + b".", {"0": bytes(32)}),
        "its inner container: its shape needs element 8",
        id="a tensor that does not fit",
    ),
]


@pytest.mark.parametrize(("item", "reason"), INNER)
def test_bytes_that_are_no_record_fail_alone(tmp_path: Path, item: bytes, reason: str) -> None:
    written = Written()
    written.insert(NUMBERS, "broken")
    written.insert(NUMBERS, "intact")
    written.tensors[0] = item
    _, (broken, intact) = read(written.save(tmp_path / "old.pt"))
    assert (broken.outcome.status, broken.array) == ("failed", None)
    assert reason in broken.outcome.reason
    assert intact.outcome.is_plain


@pytest.mark.parametrize(
    ("item", "reason", "name"),
    [
        (
            torch.nn.Parameter(torch.ones(2)),
            "a torch._utils._rebuild_parameter, which is not loaded",
            "torch._utils._rebuild_parameter",
        ),
        (
            torch.ones(2).to_sparse(),
            "a torch._utils._rebuild_sparse_tensor, which is not",
            "torch._utils._rebuild_sparse_tensor",
        ),
        (np.ones(2), "_reconstruct, which is not loaded", None),
        (7, "its tensor is a int, which is not loaded", None),
        ([1.0], "its tensor is a list, which is not loaded", None),
        (None, "its tensor is a NoneType, which is not loaded", None),
    ],
)
def test_an_item_that_is_no_tensor_fails_alone(tmp_path: Path, item: Any, reason: str, name: str | None) -> None:
    written = Written()
    written.insert(NUMBERS, "broken")
    written.insert(NUMBERS, "intact")
    written.tensors[0] = item
    _, (broken, intact) = read(written.save(tmp_path / "old.pt"))
    assert broken.outcome.status == "failed"
    assert reason in broken.outcome.reason
    if name is not None:
        assert broken.outcome.dropped == (DroppedValue(name, "(the tensor)"),)
    assert intact.outcome.is_plain


def test_a_damaged_storage_fails_its_record_alone(tmp_path: Path) -> None:
    written = Written()
    for number in range(3):
        written.insert(NUMBERS + number, str(number))
    path = written.save(tmp_path / "old.pt")
    data = bytearray(path.read_bytes())
    data[data.index((NUMBERS + 1).numpy().tobytes()) + 100] ^= 1
    _, records = read_bytes(tmp_path, bytes(data))
    assert [record.outcome.status for record in records] == ["imported", "failed", "imported"]
    assert "member 'old/data/1' is damaged" in records[1].outcome.reason


# ---- What is said of a file ---------------------------------------------------------------------------------------------


def test_unequal_lists_are_noted_and_nothing_is_lost(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "a")
    written.tensors.append(NUMBERS)
    old, (_, second) = read(written.save(tmp_path / "old.pt"))
    assert old.notes == ("2 tensors have 1 metadata: those at the end are imported without",)
    assert (second.outcome.id, second.outcome.status, second.outcome.reason) == ("record-1", "imported", "it has no id")
    assert second.metadata == {"record_id": "record-1"}
    written.tensors[:] = []
    old, (first,) = read(written.save(tmp_path / "old.pt"))
    assert old.notes == ("1 metadata have 0 tensors: those at the end fail",)
    assert (first.outcome.id, first.outcome.status) == ("a", "failed")
    assert first.outcome.reason == "the file has its metadata, but no tensor"


def test_double_ids_are_renamed(tmp_path: Path) -> None:
    written = Written()
    for _ in range(2):
        written.insert(NUMBERS, "r")
    _, (first, second) = read(written.save(tmp_path / "old.pt"))
    assert first.outcome.is_plain
    assert (second.outcome.id, second.outcome.renamed_from, second.outcome.status) == ("r-2", "r", "imported")
    assert second.outcome.reason == "a record before it has the id 'r', too"
    assert second.metadata["record_id"] == "r-2"
    assert not second.outcome.is_plain


def test_dropped_metadata_is_counted_by_name_and_path(tmp_path: Path) -> None:
    written = Written()
    for number in range(3):
        written.insert(NUMBERS, str(number), seen={1j}, info={"at": 1j} if number else {"at": 1})
    _, records = read(written.save(tmp_path / "old.pt"))
    outcomes = [record.outcome for record in records]
    assert status_counts(outcomes) == {"imported": 3, "present": 0, "repaired": 0, "lossy": 0, "failed": 0}
    assert [(found.name, found.path, found.count) for found in dropped_counts(outcomes)] == [
        ("__builtin__.complex", "seen[]", 3),
        ("__builtin__.complex", "info.at", 2),
    ]
    assert records[0].metadata["info"] == {"at": 1}


def test_other_keys_are_noted(tmp_path: Path) -> None:
    written = Written()
    written.content["indexes"] = {}
    old, _ = read(written.save(tmp_path / "old.pt"))
    assert old.notes == ()
    assert old.left_out == ("1 parts are left out, which no version of the original wrote: indexes",)


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        {},
        {"tensors": []},
        {"metadata": []},
        {"tensors": (), "metadata": []},
        torch.ones(3),
        {"tensors": {}, "metadata": []},
    ],
)
def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(OldFileError, match="it is no dataset of Tensorus, but a"):
        OldDataset(tmp_path / "model.pt")


def test_a_torn_file_is_refused_as_a_whole(tmp_path: Path) -> None:
    written = Written()
    written.insert(NUMBERS, "r", "gzip-6", "fp16")
    data = written.save(tmp_path / "whole.pt").read_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(OldFileError):
            read_bytes(tmp_path, data[:length])


def test_a_file_that_is_refused_is_closed(tmp_path: Path) -> None:
    # Otherwise a ResourceWarning would fail this test.
    (tmp_path / "old.pt").write_bytes(b"PK")
    with pytest.raises(OldFileError):
        OldDataset(tmp_path / "old.pt")
