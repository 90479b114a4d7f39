"""Transactions within transactions, and datasets that are not there, are created, or are deleted in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import torch

from support.storages import filled
from tensorus import Client, errors
from tensorus.tensor_storage import DatasetNotFoundError, SchemaValidationError, TensorStorage, TransactionError


@pytest.fixture
def ids(storage: TensorStorage) -> list[str]:
    """Records of the dataset "numbers", with values 0, 1, 2; the dataset "others" is empty."""
    storage.create_dataset("others")
    return filled(storage, 3)


@contextmanager
def failing(error: type[Exception] = ZeroDivisionError, message: str = "failed: ") -> Iterator[None]:
    """Expect a transaction to fail with this cause."""
    with pytest.raises(TransactionError, match=re.escape(message)) as raised:
        yield
    assert isinstance(raised.value.__cause__, error)


def values(storage: TensorStorage, name: str = "numbers") -> list[float]:
    return [tensor[0].item() for tensor in storage.iter_dataset(name)]


def insert(storage: TensorStorage, name: str, value: float) -> str:
    return storage.insert(name, torch.full((4,), value))


# ---- Within another -----------------------------------------------------------------------------------------------------


def test_an_inner_transaction_is_committed_by_the_outer_one(
    storage: TensorStorage, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[str] = []
    insert_many = Client.insert_many

    def noted(self: Client, dataset: str, *arguments: Any, **options: Any) -> Any:
        commits.append(dataset)
        return insert_many(self, dataset, *arguments, **options)

    monkeypatch.setattr(Client, "insert_many", noted)
    with storage.transaction(["numbers"], "outer") as outer:
        insert(storage, "numbers", 3)
        with storage.transaction(["numbers", "others"], "inner") as inner:
            insert(storage, "others", 7)
            storage.delete_tensor("numbers", ids[0])
        assert (outer, inner) == ("outer", "inner")
        assert commits == []
        insert(storage, "others", 8)
        assert values(storage, "others") == [7, 8]
    assert commits == ["numbers", "others"]
    assert values(storage) == [1, 2, 3]
    assert values(storage, "others") == [7, 8]


def test_an_outer_transaction_that_fails_undoes_the_inner_one(storage: TensorStorage, ids: list[str]) -> None:
    with failing(), storage.transaction(["numbers"]):
        with storage.transaction(["others", "new"]):
            insert(storage, "others", 7)
            storage.create_dataset("new")
        1 / 0  # noqa: B018
    assert values(storage) == [0, 1, 2]
    assert values(storage, "others") == []
    assert storage.list_datasets() == ["others", "numbers"]


def test_an_inner_transaction_that_fails_takes_the_outer_one_with_it(storage: TensorStorage, ids: list[str]) -> None:
    with failing(), storage.transaction(["numbers"]):
        insert(storage, "numbers", 3)
        with storage.transaction(["others"]):
            insert(storage, "others", 7)
            1 / 0  # noqa: B018
    assert values(storage) == [0, 1, 2]
    assert values(storage, "others") == []


def test_where_the_inner_error_is_caught_the_outer_transaction_goes_on_without_it(
    storage: TensorStorage, ids: list[str]
) -> None:
    with storage.transaction(["numbers"]):
        insert(storage, "numbers", 3)
        with failing(), storage.transaction(["numbers", "others", "new"]):
            insert(storage, "numbers", 4)
            storage.delete_tensor("numbers", ids[0])
            with storage.transaction(["others"]):
                insert(storage, "others", 7)
            storage.create_dataset("new")
            1 / 0  # noqa: B018
        assert values(storage) == [0, 1, 2, 3]
        insert(storage, "numbers", 5)
        insert(storage, "others", 8)
        # It takes no part any more, and so this is stored at once.
        assert storage.get_dataset_with_metadata("others")[0]["metadata"]["version"] == 1
    assert values(storage) == [0, 1, 2, 3, 5]
    assert values(storage, "others") == [8]
    assert not storage.dataset_exists("new")


def test_after_an_interrupt_within_two_transactions_none_is_open(storage: TensorStorage, ids: list[str]) -> None:
    with suppress(KeyboardInterrupt), storage.transaction(["numbers"]), storage.transaction(["others"]):
        insert(storage, "others", 7)
        raise KeyboardInterrupt
    insert(storage, "others", 8)
    assert storage.get_dataset_with_metadata("others")[0]["metadata"]["version"] == 1
    assert values(storage, "others") == [8]


# ---- Datasets -----------------------------------------------------------------------------------------------------------


BATCHES: dict[str, Any] = {
    "insert": lambda storage: storage.batch_insert("no", []),
    "update": lambda storage: storage.batch_update_metadata("no", []),
    "delete": lambda storage: storage.batch_delete_tensors("no", []),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_on_a_dataset_that_is_not_there_fails_as_a_batch(storage: TensorStorage, kind: str) -> None:
    with pytest.raises(TransactionError, match=r"The batch failed: Dataset 'no' not found\.") as raised:
        BATCHES[kind](storage)
    assert isinstance(raised.value.__cause__, DatasetNotFoundError)
    with storage.transaction(["no"]), failing(DatasetNotFoundError):
        BATCHES[kind](storage)


def test_a_transaction_begins_over_datasets_that_are_not_there(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers", "no"]):
        insert(storage, "numbers", 3)
        assert not storage.dataset_exists("no")
        with pytest.raises(DatasetNotFoundError):
            storage.count("no")
    assert values(storage) == [0, 1, 2, 3]
    with (
        failing(DatasetNotFoundError, "Transaction t failed: Dataset 'no' not found."),
        storage.transaction(["no"], "t"),
    ):
        insert(storage, "no", 5)
    assert values(storage) == [0, 1, 2, 3]


def test_a_dataset_can_be_created_and_filled_in_a_transaction(storage: TensorStorage) -> None:
    with storage.transaction(["new"]):
        storage.create_dataset("new", schema={"shape": (4,)})
        insert(storage, "new", 1)
        storage.batch_insert("new", [(torch.full((4,), 2.0), {"n": 2})])
        with pytest.raises(SchemaValidationError):
            storage.insert("new", torch.ones(3))
        assert values(storage, "new") == [1, 2]
    assert values(storage, "new") == [1, 2]
    assert storage.get_schema("new") == {"shape": (4,)}


def test_a_dataset_of_a_transaction_that_fails_is_removed_again(storage: TensorStorage) -> None:
    with failing(), storage.transaction(["new"]):
        storage.create_dataset("new")
        insert(storage, "new", 1)
        1 / 0  # noqa: B018
    assert storage.list_datasets() == []


def test_a_dataset_is_removed_again_where_the_commit_fails(
    storage: TensorStorage, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise errors.StorageFullError("no space", reason="STORAGE_FULL")

    with failing(errors.StorageFullError), storage.transaction(["new", "numbers"]):
        storage.create_dataset("new")
        insert(storage, "new", 1)
        storage.update_tensor_metadata("numbers", ids[0], {"n": 10})
        monkeypatch.setattr(Client, "update_metadata", refuse)
    assert storage.list_datasets() == ["others", "numbers"]


def test_what_others_stored_in_a_dataset_of_a_transaction_that_fails_stays(storage: TensorStorage, opened: Any) -> None:
    with failing(), storage.transaction(["new"]):
        storage.create_dataset("new")
        insert(storage, "new", 1)
        # Past the transaction, as another process would.
        storage._client.insert("new", torch.full((4,), 9.0))
        1 / 0  # noqa: B018
    assert values(storage, "new") == [9]


def test_a_dataset_that_takes_no_part_is_created_for_good(storage: TensorStorage, ids: list[str]) -> None:
    with failing(), storage.transaction(["numbers"]):
        storage.create_dataset("new")
        insert(storage, "new", 1)
        1 / 0  # noqa: B018
    assert values(storage, "new") == [1]


def test_a_deleted_dataset_takes_its_changes_with_it(storage: TensorStorage, ids: list[str]) -> None:
    with storage.transaction(["numbers", "others"]):
        insert(storage, "others", 7)
        insert(storage, "numbers", 3)
        storage.delete_tensor("numbers", ids[0])
        assert storage.delete_dataset("numbers") is True
        assert storage.list_datasets() == ["others"]
        storage.create_dataset("numbers")
        insert(storage, "numbers", 4)
    assert values(storage) == [4]
    assert values(storage, "others") == [7]


def test_a_deleted_dataset_does_not_come_back_where_the_transaction_fails(
    storage: TensorStorage, ids: list[str]
) -> None:
    with failing(), storage.transaction(["numbers", "others"]):
        storage.delete_dataset("numbers")
        storage.create_dataset("numbers")
        1 / 0  # noqa: B018
    assert storage.list_datasets() == ["others"]
