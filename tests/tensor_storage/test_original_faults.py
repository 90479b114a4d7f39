"""The faults of the original that concern what is stored, one test each: here the true value comes back."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.stores import remove_open_store
from tensorus.compression import CompressionConfig
from tensorus.tensor_storage import NameTakenError, TensorStorage, TransactionError

INT8 = CompressionConfig("none", "int8")
FP16 = CompressionConfig("none", "fp16")


def stored(storage: TensorStorage, tensor: torch.Tensor, config: CompressionConfig = INT8) -> torch.Tensor:
    """Return what comes back of a tensor."""
    storage.set_compression_config(config)
    if not storage.dataset_exists("values"):
        storage.create_dataset("values")
    record_id = storage.insert("values", tensor)
    found: torch.Tensor = storage.get_tensor_by_id("values", record_id)["tensor"]
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    return found


def assert_within_half_a_step(storage: TensorStorage, values: list[float]) -> None:
    tensor = torch.tensor(values)
    step = tensor.abs().max() / 127
    # The scale is rounded up to bfloat16, which has 8 bits.
    assert (stored(storage, tensor) - tensor).abs().max() <= step * (1 + 2**-7) / 2


def assert_exact(storage: TensorStorage, tensor: torch.Tensor, config: CompressionConfig = INT8) -> None:
    assert torch.equal(stored(storage, tensor, config), tensor)


def test_int8_above_zero(storage: TensorStorage) -> None:
    assert_within_half_a_step(storage, [100, 100.25, 101])


def test_int8_below_zero(storage: TensorStorage) -> None:
    assert_within_half_a_step(storage, [-101, -100.5, -100])


def test_int8_scale_one(storage: TensorStorage) -> None:
    assert_within_half_a_step(storage, [0, 1, 254, 255])


@pytest.mark.parametrize("values", [[0, 1, 254, 255], [10, 50, 200]])
def test_uint8_image(storage: TensorStorage, values: list[int]) -> None:
    assert_exact(storage, torch.tensor(values, dtype=torch.uint8))


def test_int8_input(storage: TensorStorage) -> None:
    assert_exact(storage, torch.tensor([-5, 0, 7], dtype=torch.int8))


@pytest.mark.parametrize("value", [0.5, 3.14, 1000.0, 300])
def test_constant(storage: TensorStorage, value: float) -> None:
    assert_exact(storage, torch.full((20, 20), value))


def test_int64_ids(storage: TensorStorage) -> None:
    assert_exact(storage, torch.tensor([101, 2023, 50256]), INT8)
    assert_exact(storage, torch.tensor([2049, 70000]), FP16)


def test_nan(storage: TensorStorage) -> None:
    found = stored(storage, torch.tensor([1, float("nan"), 3]))
    assert torch.allclose(found, torch.tensor([1, float("nan"), 3]), atol=0.02, equal_nan=True)


def test_infinity(storage: TensorStorage) -> None:
    found = stored(storage, torch.tensor([1, 2, float("inf")]))
    assert torch.allclose(found, torch.tensor([1, 2, float("inf")]), atol=0.02)


def test_empty(storage: TensorStorage) -> None:
    assert_exact(storage, torch.empty(0, 3))


def test_complex(storage: TensorStorage) -> None:
    assert_exact(storage, torch.tensor([1 + 2j, 3 - 4j]), FP16)


def test_fp16_overflow(storage: TensorStorage) -> None:
    assert torch.allclose(
        stored(storage, torch.tensor([65504.0, 65520.0]), FP16), torch.tensor([65504.0, 65520.0]), rtol=2**-11
    )
    assert_exact(storage, torch.tensor([1e38], dtype=torch.bfloat16), FP16)


def test_fp16_underflow(storage: TensorStorage) -> None:
    assert torch.allclose(
        stored(storage, torch.tensor([1e-8, 2e-8]), FP16), torch.tensor([1e-8, 2e-8]), rtol=2**-11, atol=0
    )


def test_other_config(lasting_place: Any, opened: Any) -> None:
    tensor = torch.rand(3, 32, 32)
    storage = opened(lasting_place, compression_preset="balanced")
    storage.create_dataset("photos")
    record_id = storage.insert("photos", tensor)
    storage.set_compression_preset("maximum")
    for reader in (storage, opened(lasting_place)):
        assert torch.allclose(reader.get_tensor_by_id("photos", record_id)["tensor"], tensor, atol=1e-3)
        assert len(reader.query("photos", lambda *_: True)) == 1


def test_other_config_silent(storage: TensorStorage) -> None:
    tensor = torch.tensor([-1.0, 0.0, 1.0])
    storage.create_dataset("values")
    storage.set_compression_preset("int8_only")
    record_id = storage.insert("values", tensor)
    storage.set_compression_preset("fp16_only")
    assert torch.allclose(storage.get_tensor_by_id("values", record_id)["tensor"], tensor, atol=0.01)


def test_update_compressed(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="maximum")
    storage.create_dataset("photos")
    tensor = torch.rand(64, 64)
    record_id = storage.insert("photos", tensor, {"label": "x"})
    before = storage.get_tensor_by_id("photos", record_id)
    storage.update_tensor_metadata("photos", record_id, {"label": "y"})
    after = storage.get_tensor_by_id("photos", record_id)
    assert torch.equal(after["tensor"], before["tensor"])
    assert after["metadata"] == {**before["metadata"], "label": "y"}


def test_batch_compressed(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="maximum")
    storage.create_dataset("photos")
    tensors = [torch.rand(64, 64) for _ in range(3)]
    ids = storage.batch_insert("photos", [(tensor, {"n": n}) for n, tensor in enumerate(tensors)])
    storage.batch_update_metadata("photos", [(record_id, {"n": 7}) for record_id in ids])
    storage.batch_delete_tensors("photos", ids[:1])
    for tensor, record in zip(tensors[1:], storage.get_dataset_with_metadata("photos"), strict=True):
        assert torch.allclose(record["tensor"], tensor, atol=0.01)
        assert record["metadata"]["n"] == 7
        assert record["metadata"]["compression_metadata"]["quantization"] == "int8"


def test_rollback_on_disk(lasting_place: Any, opened: Any) -> None:
    storage = opened(lasting_place)
    storage.create_dataset("photos")

    def stopped() -> None:
        with storage.transaction(["photos"]):
            storage.insert("photos", torch.ones(100_000))
            raise RuntimeError("stop")

    with pytest.raises(TransactionError, match="stop"):
        stopped()
    storage.close()
    assert opened(lasting_place).count("photos") == 0


def test_save_error(storage: TensorStorage) -> None:
    storage.create_dataset("photos")
    with pytest.raises(TypeError, match="metadata\\['f'\\] is a function"):
        storage.insert("photos", torch.ones(3), {"f": lambda: None})
    assert storage.count("photos") == 0


def test_save_error_folder_removed(tmp_path: Path, opened: Any) -> None:
    storage = opened(tmp_path / "store")
    storage.create_dataset("photos")
    remove_open_store(tmp_path / "store")
    for count in (3, 100_000):
        with pytest.raises(ConnectionError, match="was removed"):
            storage.insert("photos", torch.ones(count))
    with pytest.raises(TransactionError, match="was removed"):
        storage.batch_insert("photos", [(torch.ones(3), None)])


def test_unreadable_file(lasting_place: Any, opened: Any) -> None:
    storage = opened(lasting_place)
    storage.create_dataset("photos")
    storage.insert("photos", torch.ones(3), {"n": 1})
    with pytest.raises(TypeError, match="'taken'"):
        storage.insert("photos", torch.ones(3), {"taken": dt.timedelta(1)})
    storage.close()
    reopened = opened(lasting_place)
    with pytest.raises(NameTakenError):
        reopened.create_dataset("photos")
    assert reopened.count("photos") == 1


def test_path_traversal(tmp_path: Path, opened: Any) -> None:
    folder = tmp_path / "a" / "b"
    storage = opened(folder)
    storage.create_dataset("../../escape")
    storage.insert("../../escape", torch.ones(100_000))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_honest_ratio(place: Any, opened: Any) -> None:
    storage = opened(place, compression_preset="fp16_only")
    storage.create_dataset("photos")
    storage.insert("photos", torch.rand(256, 256))
    ratio = storage.get_compression_stats("photos")["average_compression_ratio"]
    assert 1.99 < ratio <= 2


def test_same_id_twice(storage: TensorStorage) -> None:
    storage.create_dataset("photos")
    storage.insert("photos", torch.ones(3), {"record_id": "r"})
    with pytest.raises(ValueError, match="already"):
        storage.insert("photos", torch.zeros(3), {"record_id": "r"})
    assert storage.get_tensor_by_id("photos", "r")["tensor"].tolist() == [1, 1, 1]


def test_version_reused(storage: TensorStorage) -> None:
    storage.create_dataset("photos")
    ids = [storage.insert("photos", torch.ones(3)) for _ in range(3)]
    storage.delete_tensor("photos", ids[0])
    storage.insert("photos", torch.ones(3))
    versions = [metadata["version"] for metadata in storage.datasets["photos"]["metadata"]]
    assert versions == [2, 3, 4]
    storage.update_tensor_metadata("photos", ids[1], {"new": 1})
    assert storage.get_tensor_by_id("photos", ids[1])["metadata"]["version"] == 2


def test_live_objects(storage: TensorStorage) -> None:
    storage.create_dataset("photos")
    record_id = storage.insert("photos", torch.zeros(3), {"tags": ["a"]})
    for record in (storage.get_tensor_by_id("photos", record_id), storage.get_dataset_with_metadata("photos")[0]):
        record["tensor"].fill_(9)
        record["metadata"]["tags"].append("b")
        record["metadata"]["record_id"] = "other"
    storage.query("photos", lambda tensor, metadata: tensor.fill_(9) is metadata.clear())
    record = storage.get_tensor_by_id("photos", record_id)
    assert record["tensor"].tolist() == [0, 0, 0]
    assert record["metadata"]["tags"] == ["a"]


def test_stale_index(storage: TensorStorage) -> None:
    storage.create_dataset("photos")
    record_id = storage.insert("photos", torch.zeros(3), {"label": "x"})
    storage.create_index("photos", "labels", "label")
    storage.update_tensor_metadata("photos", record_id, {"label": "y"})
    assert storage.query_by_metadata("photos", "label", "x") == []
    assert len(storage.query_by_metadata("photos", "label", "y")) == 1


def _written_bytes() -> int:
    """Return what this process has handed to the kernel to be written so far."""
    counters = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in counters if line.startswith("wchar"))


def test_insert_cost(tmp_path: Path, opened: Any) -> None:
    """The 2,000th insert of 4 KiB writes no more than the 10th: the least of ten, since checkpoints come in between."""
    storage = opened(tmp_path / "store")
    storage.create_dataset("photos")
    tensor = torch.rand(1024)

    def least_of_ten() -> int:
        costs = []
        for n in range(10):
            before = _written_bytes()
            storage.insert("photos", tensor, {"n": n})
            costs.append(_written_bytes() - before)
        return min(costs)

    storage.batch_insert("photos", [(tensor, {"n": n}) for n in range(5)])
    first = least_of_ten()
    storage.batch_insert("photos", [(tensor, {"n": n}) for n in range(1980)])
    last = least_of_ten()
    assert storage.count("photos") == 2005
    assert first >= 4096
    # A tree that has grown a level writes a page more for each of its indexes.
    assert last <= first + 16 * 4096


def test_numpy_values_are_kept_too(storage: TensorStorage) -> None:
    storage.create_dataset("values")
    record_id = storage.insert("values", np.array([1.5, 2.5], np.float64), {"n": np.int64(3)})
    record = storage.get_tensor_by_id("values", record_id)
    assert record["tensor"].dtype == torch.float64
    assert record["metadata"]["n"] == 3
