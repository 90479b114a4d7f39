"""Transactions and batches: all or nothing, seen inside and not outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch

from tensorus import Client, errors
from tensorus.tensor_storage import (
    NameTakenError,
    SchemaValidationError,
    TensorNotFoundError,
    TensorStorage,
    TransactionError,
    _changes,
)


@pytest.fixture
def ids(storage: TensorStorage) -> list[str]:
    """Records of the dataset "numbers", with values 0, 1, 2; the dataset "others" is empty."""
    storage.create_dataset("numbers")
    storage.create_dataset("others")
    return storage.batch_insert("numbers", [(torch.full((2,), float(n)), {"n": n}) for n in range(3)])


def content(storage: TensorStorage, name: str = "numbers") -> list[tuple[float, Any]]:
    return [(r["tensor"][0].item(), r["metadata"].get("n")) for r in storage.iter_dataset_with_metadata(name)]


UNTOUCHED = [(0, 0), (1, 1), (2, 2)]


@contextmanager
def failing(error: type[Exception] = ZeroDivisionError) -> Iterator[None]:
    """Expect a transaction to fail with this cause."""
    with pytest.raises(TransactionError) as raised:
        yield
    assert isinstance(raised.value.__cause__, error)


# ---- Batches ------------------------------------------------------------------------------------------------------------


def test_a_batch_inserts_in_order(storage: TensorStorage, ids: list[str]) -> None:
    assert content(storage) == UNTOUCHED
    assert [record["metadata"]["record_id"] for record in storage.get_dataset_with_metadata("numbers")] == ids
    assert storage.batch_insert("numbers", [(torch.ones(1), None)]) != ids
    assert storage.batch_insert("numbers", []) == []


@pytest.mark.parametrize(
    ("bad", "cause"),
    [
        ((torch.ones(2), {"n": print}), TypeError),
        (("no tensor", None), TypeError),
        ((torch.zeros(2), {"n": 1, "record_id": "twice", "timestamp_utc": 5}), NameTakenError),
        ((torch.ones(2), {"n": "no int"}), SchemaValidationError),
        ((torch.ones(2), {"n": 2**70}), ValueError),
    ],
)
def test_a_batch_with_one_bad_tensor_inserts_none(storage: TensorStorage, bad: Any, cause: Any) -> None:
    storage.create_dataset("numbers", schema={"metadata": {"n": "int"}})
    good = [(torch.zeros(2), {"n": 1, "record_id": "twice", "timestamp_utc": 5}), (torch.zeros(2), {"n": 2})]
    with failing(cause):
        storage.batch_insert("numbers", [*good, bad])
    assert storage.count("numbers") == 0


def test_a_batch_does_not_take_over_a_record_with_the_same_id_and_values(storage: TensorStorage) -> None:
    storage.create_dataset("numbers")
    storage.insert("numbers", torch.ones(2), {"record_id": "r", "timestamp_utc": 1})
    with failing(NameTakenError):
        storage.batch_insert(
            "numbers", [(torch.zeros(1), None), (torch.ones(2), {"record_id": "r", "timestamp_utc": 1})]
        )
    assert storage.count("numbers") == 1


def test_a_batch_of_more_than_one_insert_takes_is_undone_as_a_whole(
    storage: TensorStorage, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_changes, "_TOGETHER_MAX", 4)
    storage.batch_insert("others", [(torch.full((1,), float(n)), {"n": n}) for n in range(10)])
    assert content(storage, "others") == [(n, n) for n in range(10)]
    with failing(errors.LimitExceededError):
        storage.batch_insert("numbers", [(torch.ones(1), {"n": "x" * (70_000 if n == 9 else 1)}) for n in range(10)])
    assert content(storage) == UNTOUCHED


def test_a_batch_updates_all_or_none(storage: TensorStorage, ids: list[str]) -> None:
    assert storage.batch_update_metadata("numbers", [(ids[0], {"n": 10}), (ids[2], {"n": 12})]) is True
    assert content(storage) == [(0, 10), (1, 1), (2, 12)]
    with failing(TensorNotFoundError):
        storage.batch_update_metadata("numbers", [(ids[0], {"n": 20}), ("no", {"n": 22})])
    with failing(TypeError):
        storage.batch_update_metadata("numbers", [(ids[0], {"n": 20}), (ids[1], {"n": print})])
    assert content(storage) == [(0, 10), (1, 1), (2, 12)]


def test_a_batch_deletes_all_or_none(storage: TensorStorage, ids: list[str]) -> None:
    with failing(TensorNotFoundError):
        storage.batch_delete_tensors("numbers", [ids[0], "no"])
    with failing(TensorNotFoundError):
        storage.batch_delete_tensors("numbers", [ids[0], ids[0]])
    assert content(storage) == UNTOUCHED
    assert storage.batch_delete_tensors("numbers", [ids[0], ids[2]]) is True
    assert content(storage) == [(1, 1)]


# ---- Transactions -------------------------------------------------------------------------------------------------------


def test_a_transaction_commits_at_its_end(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers", "others"], transaction_id="t1") as transaction_id:
        assert transaction_id == "t1"
        storage.insert("others", torch.full((2,), 7.0), {"n": 7})
        storage.update_tensor_metadata("numbers", ids[0], {"n": 10})
        storage.delete_tensor("numbers", ids[1])
        storage.batch_insert("numbers", [(torch.full((2,), 8.0), {"n": 8})])
    assert content(storage) == [(0, 10), (2, 2), (8, 8)]
    assert content(storage, "others") == [(7, 7)]


def test_a_transaction_that_raises_leaves_nothing(storage: TensorStorage, ids: list[str]) -> None:
    with failing(), storage.transaction(["numbers", "others"]):
        storage.insert("others", torch.ones(2))
        storage.update_tensor_metadata("numbers", ids[0], {"n": 10})
        storage.delete_tensor("numbers", ids[1])
        1 / 0  # noqa: B018
    assert content(storage) == UNTOUCHED
    assert content(storage, "others") == []


def test_an_interrupt_is_no_failure_and_leaves_nothing(storage: TensorStorage, ids: list[str]) -> None:
    def interrupted() -> None:
        with storage.transaction(["numbers"]):
            storage.delete_tensor("numbers", ids[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert content(storage) == UNTOUCHED
    storage.delete_tensor("numbers", ids[0])
    assert storage.count("numbers") == 2


def test_every_read_inside_sees_what_was_done_inside(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers"]):
        new = storage.insert("numbers", torch.full((3,), 9.0), {"n": 9})
        storage.update_tensor_metadata("numbers", ids[0], {"n": 10})
        storage.delete_tensor("numbers", ids[1])
        expected = [(0, 10), (2, 2), (9, 9)]
        assert content(storage) == expected
        assert storage.count("numbers") == 3
        assert [tensor[0].item() for tensor in storage.get_dataset("numbers")] == [0, 2, 9]
        assert storage.get_tensor_by_id("numbers", new)["tensor"].tolist() == [9, 9, 9]
        assert storage.get_tensor_by_id("numbers", ids[0])["metadata"]["n"] == 10
        with pytest.raises(TensorNotFoundError):
            storage.get_tensor_by_id("numbers", ids[1])
        assert len(storage.query("numbers", lambda _, metadata: metadata["n"] >= 9)) == 2
        assert len(storage.query_by_metadata("numbers", "n", 10)) == 1
        assert len(storage.query_by_metadata("numbers", "n", 0)) == 0
        assert len(storage.query_by_metadata("numbers", "record_id", ids[1])) == 0
        assert len(storage.query_by_tensor_shape("numbers", (3,))) == 1
        sample = storage.sample_dataset("numbers", 5, seed=1)
        assert sorted(record["metadata"]["n"] for record in sample) == [2, 9, 10]
        assert [record["metadata"]["n"] for record in storage.get_records_paginated("numbers", 1, 5)] == [2, 9]
        assert storage.get_compression_stats("numbers")["total_tensors"] == 3
        assert storage.get_tensor_by_id("numbers", new)["metadata"]["version"] == 0
        assert content(storage, "others") == []
        storage.update_tensor_metadata("numbers", new, {"n": 19})
        storage.delete_tensor("numbers", ids[2])
    assert content(storage) == [(0, 10), (9, 19)]
    assert storage.get_tensor_by_id("numbers", new)["metadata"]["version"] == 4


def test_what_is_read_after_the_end_is_what_is_stored(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers"]):
        storage.insert("numbers", torch.full((2,), 9.0), {"n": 9})
        iterator = storage.iter_dataset_with_metadata("numbers")
    assert [record["metadata"]["version"] for record in iterator] == [1, 2, 3, 4]


def test_nobody_else_sees_a_transaction_before_its_end(storage: TensorStorage, ids: list[str]) -> None:
    seen: list[Any] = []

    def look() -> None:
        seen.append(content(storage))

    with storage.transaction(["numbers"]):
        storage.delete_tensor("numbers", ids[0])
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == [UNTOUCHED]


def test_every_thread_has_a_transaction_of_its_own(storage: TensorStorage, ids: list[str]) -> None:
    barrier = threading.Barrier(4, timeout=30)
    counts: list[int] = []

    def work(number: int) -> None:
        with suppress(TransactionError), storage.transaction(["others"], f"t{number}"):
            barrier.wait()
            storage.batch_insert(
                "others", [(torch.full((2,), float(number)), {"n": number}) for _ in range(number + 1)]
            )
            barrier.wait()
            counts.append(storage.count("others"))
            barrier.wait()
            if number == 3:
                raise RuntimeError("rolled back")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == [1, 2, 3, 4]
    assert sorted(n for _, n in content(storage, "others")) == [0, 1, 1, 2, 2, 2]


def test_what_a_transaction_returns_is_not_what_it_commits(storage: TensorStorage, ids: list[str]) -> None:
    tensor = torch.zeros(2)
    with storage.transaction(["numbers"]):
        new = storage.insert("numbers", tensor, {"n": 3})
        tensor += 1
        storage.get_tensor_by_id("numbers", new)["tensor"].fill_(5)
    assert storage.get_tensor_by_id("numbers", new)["tensor"].tolist() == [0, 0]


def test_a_record_can_be_replaced_in_a_transaction(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers"]):
        storage.delete_tensor("numbers", ids[0])
        storage.insert("numbers", torch.full((2,), 5.0), {"n": 5, "record_id": ids[0]})
        storage.delete_tensor("numbers", ids[0])
        storage.insert("numbers", torch.full((2,), 6.0), {"n": 6, "record_id": ids[0]})
    assert content(storage) == [(1, 1), (2, 2), (6, 6)]
    with failing(), storage.transaction(["numbers"]):
        storage.delete_tensor("numbers", ids[1])
        storage.insert("numbers", torch.full((2,), 7.0), {"record_id": ids[1]})
        1 / 0  # noqa: B018
    assert content(storage) == [(1, 1), (2, 2), (6, 6)]
    with storage.transaction(["numbers"]):
        storage.delete_tensor("numbers", ids[1])
        storage.insert("numbers", torch.full((2,), 7.0), {"record_id": ids[1]})
        storage.delete_tensor("numbers", ids[1])
        assert storage.count("numbers") == 2
    assert content(storage) == [(2, 2), (6, 6)]


def test_what_cannot_be_inserted_raises_inside_where_it_is_inserted(storage: TensorStorage, ids: list[str]) -> None:
    storage.create_dataset("strict", schema={"shape": (2,)})
    reached: list[str] = []
    with storage.transaction(["numbers", "strict"]):
        for bad in (
            lambda: storage.insert("numbers", torch.ones(2), {"record_id": ids[0]}),
            lambda: storage.insert("strict", torch.ones(3)),
            lambda: storage.insert("numbers", torch.ones(2), {"f": print}),
        ):
            with pytest.raises((ValueError, TypeError)):
                bad()
            reached.append("next")
    assert len(reached) == 3
    assert content(storage) == UNTOUCHED


def test_a_failed_batch_leaves_the_rest_of_a_transaction(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers"]):
        storage.delete_tensor("numbers", ids[0])
        with pytest.raises(TransactionError):
            storage.batch_delete_tensors("numbers", [ids[1], "no"])
        with pytest.raises(TransactionError):
            storage.batch_insert("numbers", [(torch.ones(2), None), (torch.ones(2), {"record_id": ids[2]})])
    assert content(storage) == [(1, 1), (2, 2)]


def test_a_commit_that_fails_undoes_what_it_did(
    storage: TensorStorage, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise errors.StorageFullError("no space", reason="STORAGE_FULL")

    with failing(errors.StorageFullError), storage.transaction(["numbers", "others"]):
        storage.insert("others", torch.ones(2))
        storage.update_tensor_metadata("numbers", ids[0], {"n": 10})
        storage.delete_tensor("numbers", ids[1])
        delete = Client.delete
        monkeypatch.setattr(
            Client, "delete", lambda self, name, ids: refuse() if name == "numbers" else delete(self, name, ids)
        )
    assert content(storage) == UNTOUCHED
    assert content(storage, "others") == []


def test_a_dataset_that_takes_no_part_is_changed_at_once(storage: TensorStorage, ids: list[str]) -> None:
    with failing(), storage.transaction(["numbers"]):
        storage.insert("others", torch.ones(2))
        1 / 0  # noqa: B018
    assert storage.count("others") == 1
