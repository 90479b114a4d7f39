"""A record that was read can be inserted as it is: metadata with all keys of a record make a copy of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from support.storages import filled
from tensorus.tensor_storage import NameTakenError, TensorStorage, TransactionError

PARTS = ["record_id", "timestamp_utc", "shape", "dtype", "version"]


@pytest.fixture
def record(storage: TensorStorage) -> dict[str, Any]:
    """The record "r" of the dataset "images"; the dataset "others" is empty."""
    storage.create_dataset("images")
    storage.create_dataset("others")
    storage.insert("images", torch.arange(4.0), {"record_id": "r", "label": "cat", "timestamp_utc": 5.5})
    return storage.get_tensor_by_id("images", "r")


def assert_copied(storage: TensorStorage, name: str, record_id: str, record: dict[str, Any]) -> None:
    copied = storage.get_tensor_by_id(name, record_id)
    assert torch.equal(copied["tensor"], record["tensor"])
    unlike = {"record_id": record_id, "version": copied["metadata"]["version"]}
    assert copied["metadata"] == record["metadata"] | unlike


def test_a_copy_within_a_dataset_gets_an_id_of_its_own(storage: TensorStorage, record: dict[str, Any]) -> None:
    ids = [storage.insert("images", record["tensor"], record["metadata"]) for _ in range(2)]
    assert len({"r", *ids}) == 3
    for record_id in ids:
        assert_copied(storage, "images", record_id, record)


def test_a_copy_keeps_its_id_where_that_is_free(storage: TensorStorage, record: dict[str, Any]) -> None:
    assert storage.insert("others", record["tensor"], record["metadata"]) == "r"
    assert_copied(storage, "others", "r", record)
    storage.delete_tensor("images", "r")
    assert storage.insert("images", record["tensor"], record["metadata"]) == "r"


def test_fields_that_were_added_to_a_copy_are_kept(storage: TensorStorage, record: dict[str, Any]) -> None:
    record_id = storage.insert("images", record["tensor"] + 1, {**record["metadata"], "step": 2})
    metadata = storage.get_tensor_by_id("images", record_id)["metadata"]
    assert (metadata["label"], metadata["step"], metadata["version"]) == ("cat", 2, 2)


def test_a_compressed_record_is_copied_without_what_was_said_of_its_bytes(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    storage.set_compression_preset("fp16_only")
    first = storage.get_tensor_by_id("images", storage.insert("images", torch.rand(64, 64)))
    storage.set_compression_config(None)
    second = storage.get_tensor_by_id("images", storage.insert("images", first["tensor"], first["metadata"]))
    assert first["metadata"]["compressed"]
    assert not second["metadata"]["compressed"]
    assert torch.equal(first["tensor"], second["tensor"])


@pytest.mark.parametrize("in_transaction", [False, True])
def test_a_batch_copies_whole_datasets_and_records_twice(
    storage: TensorStorage, record: dict[str, Any], *, in_transaction: bool
) -> None:
    filled(storage, 3)
    records = storage.get_dataset_with_metadata("numbers")
    batch = [(one["tensor"], one["metadata"]) for one in records]
    if in_transaction:
        with storage.transaction(["others", "numbers"]):
            ids = storage.batch_insert("others", batch + batch)
            again = storage.batch_insert("others", batch)
            assert storage.insert("others", *batch[0]) not in ids
    else:
        ids = storage.batch_insert("others", batch + batch)
        again = storage.batch_insert("others", batch)
        assert storage.insert("others", *batch[0]) not in ids
    assert ids[:3] == [one["metadata"]["record_id"] for one in records]
    assert len({*ids, *again}) == 9
    for record_id, one in zip(ids + again, records * 3, strict=True):
        assert_copied(storage, "others", record_id, one)


def test_in_a_transaction_an_id_is_taken_by_what_it_has_inserted(
    storage: TensorStorage, record: dict[str, Any]
) -> None:
    with storage.transaction(["images", "others"]):
        assert storage.insert("others", record["tensor"], record["metadata"]) == "r"
        other = storage.insert("others", record["tensor"], record["metadata"])
        storage.delete_tensor("images", "r")
        assert storage.insert("images", record["tensor"], record["metadata"]) == "r"
    assert other != "r"
    assert_copied(storage, "others", other, record)
    assert_copied(storage, "images", "r", record)


@pytest.mark.parametrize("left_out", PARTS[1:])
def test_metadata_without_all_keys_of_a_record_are_a_user_s(
    storage: TensorStorage, record: dict[str, Any], left_out: str
) -> None:
    given = {key: value for key, value in record["metadata"].items() if key != left_out}
    with pytest.raises(NameTakenError, match="tensor=r"):
        storage.insert("images", record["tensor"], given)
    with pytest.raises(TransactionError) as raised:
        storage.batch_insert("images", [(record["tensor"], given)])
    assert isinstance(raised.value.__cause__, NameTakenError)
    assert storage.count("images") == 1
