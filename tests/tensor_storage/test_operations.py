"""Operations on stored tensors: what torch gives, stored or returned, and kept no longer than it is true."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from tensorus.tensor_storage import (
    DatasetNotFoundError,
    OperationError,
    OperationResult,
    TensorNotFoundError,
    TensorOperations,
    TensorStorage,
    TransactionError,
)

A = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
B = torch.tensor([[2.0, 0.0], [1.0, 2.0]])
VECTOR = torch.arange(3.0)


@pytest.fixture(autouse=True)
def _dataset(storage: TensorStorage) -> None:
    storage.create_dataset("d")
    for record_id, tensor in (("a", A), ("b", B), ("v", VECTOR), ("ints", torch.arange(4))):
        storage.insert("d", tensor, {"record_id": record_id})


CASES: dict[str, tuple[Any, Any, str, list[str]]] = {
    "add": (lambda s, **o: s.tensor_add("d", "a", "b", **o), A + B, "add", ["a", "b"]),
    "add a number": (lambda s, **o: s.tensor_add("d", "a", 5.5, **o), A + 5.5, "add", ["a", "5.5"]),
    "add NumPy's number": (
        lambda s, **o: s.tensor_add("d", "ints", np.int64(2), **o),
        torch.arange(2, 6),
        "add",
        ["ints", "2"],
    ),
    "subtract": (lambda s, **o: s.tensor_subtract("d", "a", "b", **o), A - B, "subtract", ["a", "b"]),
    "multiply": (lambda s, **o: s.tensor_multiply("d", "a", "b", **o), A * B, "multiply", ["a", "b"]),
    "multiply by a number": (
        lambda s, **o: s.tensor_multiply("d", "ints", 2, **o),
        torch.arange(4) * 2,
        "multiply",
        ["ints", "2"],
    ),
    "matmul": (lambda s, **o: s.tensor_matmul("d", "a", "b", **o), A @ B, "matmul", ["a", "b"]),
    "sum": (lambda s, **o: s.tensor_sum("d", "a", **o), torch.tensor(10.0), "sum", ["a"]),
    "sum over one": (lambda s, **o: s.tensor_sum("d", "a", 0, True, **o), A.sum(0, keepdim=True), "sum", ["a"]),
    "sum over two": (lambda s, **o: s.tensor_sum("d", "a", [0, 1], **o), torch.tensor(10.0), "sum", ["a"]),
    "mean": (lambda s, **o: s.tensor_mean("d", "a", dim=1, **o), A.mean(1), "mean", ["a"]),
    "mean of integers": (lambda s, **o: s.tensor_mean("d", "ints", **o), torch.tensor(1.5), "mean", ["ints"]),
    "reshape": (lambda s, **o: s.tensor_reshape("d", "a", (4, -1), **o), A.reshape(4, 1), "reshape", ["a"]),
    "reshape to a list": (lambda s, **o: s.tensor_reshape("d", "a", [4], **o), A.reshape(4), "reshape", ["a"]),
    "transpose": (lambda s, **o: s.tensor_transpose("d", "a", 0, 1, **o), A.T, "transpose", ["a"]),
}
"""A call, what it gives, and what is said of it."""


@pytest.mark.parametrize("keeping", [False, True])
def test_an_operation_is_stored_or_returned(storage: TensorStorage, *, keeping: bool) -> None:
    if keeping:
        storage.enable_operation_caching()
    for case, (call, expected, operation, inputs) in CASES.items():
        for cached in (False, keeping):
            record = storage.get_tensor_by_id("d", call(storage, result_metadata={"mine": 1, "operation": "no"}))
            assert torch.equal(record["tensor"], expected), case
            assert record["tensor"].dtype == expected.dtype, case
            metadata = record["metadata"]
            assert (metadata["mine"], metadata["operation"], metadata["input_tensors"]) == (1, operation, inputs), case
            assert metadata["cached"] is cached, case
            assert metadata["computation_time"] > 0, case
            assert metadata["operation_timestamp"] > 1e9, case
        count = storage.count("d")
        result = call(storage, store_result=False)
        assert isinstance(result, OperationResult), case
        assert torch.equal(result.tensor, expected), case
        assert (result.operation, result.inputs, result.cached) == (operation, inputs, keeping), case
        assert storage.count("d") == count, case


def test_a_mean_of_wide_numbers_stays_wide(storage: TensorStorage) -> None:
    storage.insert("d", torch.tensor([1.0, 2.0], dtype=torch.float64), {"record_id": "wide"})
    assert storage.tensor_mean("d", "wide", store_result=False).tensor.dtype is torch.float64


@pytest.mark.parametrize("keeping", [False, True])
def test_an_svd_gives_three(storage: TensorStorage, *, keeping: bool) -> None:
    if keeping:
        storage.enable_operation_caching()
    for _ in range(2):
        ids = storage.tensor_svd("d", "a", result_metadata={"mine": 1})
        u, s, vt = (storage.get_tensor_by_id("d", record_id) for record_id in ids)
        assert torch.allclose(u["tensor"] @ torch.diag(s["tensor"]) @ vt["tensor"], A, atol=1e-5)
        assert [record["metadata"]["operation"] for record in (u, s, vt)] == ["svd_u", "svd_s", "svd_vt"]
        assert [record["metadata"]["input_tensors"] for record in (u, s, vt)] == [["a"]] * 3
    results = storage.tensor_svd("d", "a", store_result=False)
    assert [result.operation for result in results] == ["svd_u", "svd_s", "svd_vt"]
    assert [result.cached for result in results] == [keeping] * 3


def test_an_svd_is_stored_as_a_whole_or_not_at_all(storage: TensorStorage) -> None:
    with pytest.raises(TransactionError):
        storage.tensor_svd("d", "a", result_metadata={"record_id": "taken by the first"})
    assert storage.count("d") == 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.tensor_add("d", "a", "v"), r"add of a \[2, 2\] and v \[3\] failed: .* \[dataset=d\]"),
        (lambda s: s.tensor_matmul("d", "a", "v"), r"matmul of a \[2, 2\] and v \[3\] failed: "),
        (lambda s: s.tensor_reshape("d", "a", (3,)), r"reshape of a \[2, 2\], shape=\(3,\) failed: "),
        (lambda s: s.tensor_svd("d", "v"), r"svd of v \[3\] failed: "),
    ],
)
def test_shapes_that_do_not_fit_are_named_with_their_ids(storage: TensorStorage, call: Any, message: str) -> None:
    with pytest.raises(OperationError, match=message) as raised:
        call(storage)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, RuntimeError)
    assert storage.count("d") == 4


def test_what_is_no_operand_is_refused(storage: TensorStorage) -> None:
    with pytest.raises(TypeError, match="tensor_id2 is a list, must be the id of a record, or a number"):
        storage.tensor_add("d", "a", [1.0])  # type: ignore[arg-type]
    with pytest.raises(TensorNotFoundError):
        storage.tensor_matmul("d", "a", 2.0)  # type: ignore[arg-type]
    with pytest.raises(TensorNotFoundError):
        storage.tensor_add("d", "a", "no")
    with pytest.raises(DatasetNotFoundError):
        storage.tensor_add("no", "a", 1)
    with pytest.raises(IndexError):
        storage.tensor_sum("d", "a", dim=7)


def test_a_batch_applies_an_operation_to_each(storage: TensorStorage) -> None:
    ids = storage.batch_tensor_operation("d", "add", ["a", "b"], tensor_id2=1.0)
    assert [storage.get_tensor_by_id("d", record_id)["tensor"].tolist() for record_id in ids] == [
        (A + 1).tolist(),
        (B + 1).tolist(),
    ]
    results = storage.batch_tensor_operation("d", "sum", ["a", "v"], dim=0, store_result=False)
    assert [result.tensor.tolist() for result in results] == [[4, 6], 3]
    with pytest.raises(ValueError, match="operation 'divide' is not one of add, subtract, "):
        storage.batch_tensor_operation("d", "divide", ["a"])


def test_a_benchmark_measures_without_storing_or_keeping(storage: TensorStorage) -> None:
    storage.enable_operation_caching()
    measured = storage.benchmark_tensor_operation("d", "add", "a", iterations=3, tensor_id2="b")
    assert set(measured) == {"mean_time", "min_time", "max_time", "total_time", "iterations"}
    assert measured["iterations"] == 3
    assert 0 < measured["min_time"] <= measured["mean_time"] <= measured["max_time"] <= measured["total_time"]
    assert storage.get_operation_cache_stats()["size"] == 0
    assert storage.count("d") == 4
    with pytest.raises(ValueError, match="iterations is 0"):
        storage.benchmark_tensor_operation("d", "sum", "a", iterations=0)


# ---- What is kept -------------------------------------------------------------------------------------------------------


def total(storage: TensorStorage, record_id: str = "a") -> tuple[float, bool]:
    result = storage.tensor_sum("d", record_id, store_result=False)
    return result.tensor.item(), result.cached


def test_results_are_kept_when_that_is_asked_for(storage: TensorStorage) -> None:
    assert [total(storage), total(storage)] == [(10, False)] * 2
    nothing = {"enabled": False, "size": 0, "max_size": 0, "operations_cached": []}
    assert storage.get_operation_cache_stats() == nothing
    storage.enable_operation_caching(10)
    assert [total(storage), total(storage)] == [(10, False), (10, True)]
    assert storage.get_operation_cache_stats() == {
        "enabled": True,
        "size": 1,
        "max_size": 10,
        "operations_cached": ["sum(a)"],
    }
    storage.disable_operation_caching()
    assert storage.get_operation_cache_stats() == nothing
    assert total(storage) == (10, False)
    with pytest.raises(ValueError, match="max_size is 0"):
        storage.enable_operation_caching(0)


def test_a_record_that_was_replaced_is_computed_anew(storage: TensorStorage) -> None:
    storage.enable_operation_caching()
    assert total(storage) == (10, False)
    storage.delete_tensor("d", "a")
    storage.insert("d", A * 2, {"record_id": "a"})
    assert total(storage) == (20, False)
    storage._client.insert("d", A * 3, id="a", on_conflict="replace")
    assert total(storage) == (30, False)
    storage.update_tensor_metadata("d", "a", {"label": "x"})
    assert total(storage) == (30, True)
    storage.delete_dataset("d")
    storage.create_dataset("d")
    storage.insert("d", A * 4, {"record_id": "a"})
    assert total(storage) == (40, False)
    storage.delete_tensor("d", "a")
    with pytest.raises(TensorNotFoundError):
        total(storage)


def test_what_a_transaction_has_not_committed_is_not_kept(storage: TensorStorage) -> None:
    storage.enable_operation_caching()
    assert total(storage) == (10, False)
    with pytest.raises(TransactionError), storage.transaction(["d"]):  # noqa: PT012 - the transaction is to fail
        assert total(storage) == (10, True)
        storage.delete_tensor("d", "a")
        storage.insert("d", A * 2, {"record_id": "a"})
        assert [total(storage), total(storage)] == [(20, False)] * 2
        storage.tensor_add("d", "a", 1)
        raise RuntimeError
    assert total(storage) == (10, True)
    assert storage.count("d") == 4


def test_arguments_that_are_equal_and_give_other_results_are_kept_apart(storage: TensorStorage) -> None:
    storage.enable_operation_caching()
    for number, dtype in ((1, torch.int64), (1.0, torch.float32), (True, torch.int64)):
        result = storage.tensor_multiply("d", "ints", number, store_result=False)
        assert (result.tensor.dtype, result.cached) == (dtype, False)
    signs = [storage.tensor_multiply("d", "a", zero, store_result=False).tensor.signbit().any() for zero in (0.0, -0.0)]
    assert signs == [False, True]
    ab, ba = (storage.tensor_subtract("d", *pair, store_result=False).tensor for pair in (("a", "b"), ("b", "a")))
    assert torch.equal(ab, -ba)
    shapes = [
        storage.tensor_sum("d", "a", dim, keepdim, store_result=False).tensor.shape
        for dim, keepdim in ((0, False), (0, True), (1, True))
    ]
    assert shapes == [(2,), (1, 2), (2, 1)]


def test_the_result_that_was_used_longest_ago_is_forgotten_first(storage: TensorStorage) -> None:
    storage.enable_operation_caching(2)
    assert [total(storage, "a"), total(storage, "b"), total(storage, "a"), total(storage, "v")] == [
        (10, False),
        (5, False),
        (10, True),
        (3, False),
    ]
    assert storage.get_operation_cache_stats()["operations_cached"] == ["sum(a)", "sum(v)"]


def test_whoever_changes_a_result_does_not_change_what_is_kept(storage: TensorStorage) -> None:
    storage.enable_operation_caching()
    for _ in range(3):
        tensor = storage.tensor_add("d", "a", "b", store_result=False).tensor
        assert torch.equal(tensor, A + B)
        tensor.zero_()


# ---- Elsewhere ----------------------------------------------------------------------------------------------------------


def test_the_interface_has_the_operations_under_short_names(storage: TensorStorage) -> None:
    ops = storage.create_ops_interface()
    assert ops.storage is storage
    assert torch.equal(storage.get_tensor_by_id("d", ops.add("d", "a", 1))["tensor"], A + 1)
    ops.enable_caching(5)
    assert ops.get_cache_stats()["max_size"] == 5
    assert len(ops.batch_operation("d", "sum", ["a", "b"])) == 2
    assert ops.benchmark_operation("d", "sum", "a", 2)["iterations"] == 2
    ops.disable_caching()
    with pytest.raises(AttributeError, match="operation 'divide' is not one of"):
        ops.divide("d", "a", "b")


def test_without_torch_an_operation_names_what_to_install(
    storage: TensorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'tensorus\[torch\]'"):
        storage.tensor_add("d", "a", "b")


class Dicts:
    """A storage of a user's own."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def insert(self, name: str, tensor: Any, metadata: Any = None) -> str:
        self.records.append({"tensor": tensor, "metadata": metadata})
        return f"{len(self.records) - 1}"

    def get_tensor_by_id(self, name: str, record_id: str) -> dict[str, Any]:
        return self.records[int(record_id)]


class DictsWithOperations(TensorOperations, Dicts):
    """The mixin comes first, as mixins do."""


def test_a_storage_of_a_user_s_own_gets_the_operations() -> None:
    own = DictsWithOperations()
    first = own.insert("d", np.arange(4).reshape(2, 2))
    own.enable_operation_caching()
    assert own.get_tensor_by_id("d", own.tensor_add("d", first, first))["tensor"].tolist() == [[0, 2], [4, 6]]
    own.records[0]["tensor"] = np.ones((2, 2))
    # Nothing says whether a record has changed, and so nothing is kept.
    assert own.tensor_add("d", first, first, store_result=False).tensor.tolist() == [[2, 2], [2, 2]]
    assert own.get_operation_cache_stats()["size"] == 0
    assert len(own.tensor_svd("d", first)) == 3
    assert own.benchmark_tensor_operation("d", "sum", first, 1)["iterations"] == 1
