"""Datasets and records: what the original's tests of storage in memory asked for, and the exceptions of the table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import tensorus
from support.client import facts_of
from support.storages import filled, first_values
from tensorus import errors
from tensorus._arrays import canonical
from tensorus.tensor_storage import (
    DatasetNotFoundError,
    NameTakenError,
    SchemaValidationError,
    TensorNotFoundError,
    TensorStorage,
    TransactionError,
)
from tensorus.tensor_storage._errors import storage_error

# ---- Datasets -----------------------------------------------------------------------------------------------------------


def test_datasets_are_listed_in_order_of_creation(storage: TensorStorage) -> None:
    for name in ("b", "a", "with/slash", "c"):
        assert storage.create_dataset(name) is None
    assert storage.list_datasets() == ["b", "a", "with/slash", "c"]
    assert storage.dataset_exists("a")
    assert not storage.dataset_exists("d")


def test_a_dataset_that_exists_cannot_be_created(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    with pytest.raises(ValueError, match=r"^Dataset 'images' already exists\.$"):
        storage.create_dataset("images")
    storage.create_dataset("../images")
    with pytest.raises(errors.AlreadyExistsError, match=r"^Dataset '\.\./images' already exists\.$") as raised:
        storage.create_dataset("../images")
    assert raised.value.reason == "ALREADY_EXISTS"


def test_a_deleted_dataset_is_gone_with_its_records(storage: TensorStorage) -> None:
    filled(storage)
    assert storage.delete_dataset("numbers") is True
    assert storage.list_datasets() == []
    storage.create_dataset("numbers")
    assert storage.count("numbers") == 0


@pytest.mark.parametrize(
    "name",
    [
        "../../escape",
        "/absolute",
        "..",
        "a//b",
        "line\nbreak",
        "100%",
        "%..%2Fa",
        "%%..%252Fa",
        "ünï",
        "%..",
        "tab\there/..",
        " ",
    ],
)
def test_a_dataset_has_any_name(storage: TensorStorage, name: str) -> None:
    storage.create_dataset(name)
    record_id = storage.insert(name, torch.ones(2))
    assert storage.list_datasets() == [name]
    assert storage.dataset_exists(name)
    assert storage.get_tensor_by_id(name, record_id)["tensor"].tolist() == [1, 1]
    storage.delete_dataset(name)
    assert storage.list_datasets() == []


def test_names_that_are_written_otherwise_never_meet(storage: TensorStorage) -> None:
    names = ["../a", "%..%2Fa", "%%25..%252Fa", "..", "%..", "%%25.."]
    for name in names:
        storage.create_dataset(name)
    assert storage.list_datasets() == names


@pytest.mark.parametrize(("name", "error"), [("", ValueError), ("a\0b", ValueError), (7, TypeError)])
def test_what_is_no_name_is_refused(storage: TensorStorage, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="name of a dataset"):
        storage.create_dataset(name)


OF_A_DATASET: dict[str, Any] = {
    "count": lambda storage: storage.count("no"),
    "insert": lambda storage: storage.insert("no", torch.ones(1)),
    "insert with an id": lambda storage: storage.insert("no", torch.ones(1), {"record_id": "r"}),
    "get_dataset": lambda storage: storage.get_dataset("no"),
    "get_dataset_with_metadata": lambda storage: storage.get_dataset_with_metadata("no"),
    "get_tensor_by_id": lambda storage: storage.get_tensor_by_id("no", "r"),
    "query": lambda storage: storage.query("no", lambda _tensor, _metadata: True),
    "sample_dataset": lambda storage: storage.sample_dataset("no", 1),
    "sample_dataset of none": lambda storage: storage.sample_dataset("no", 0),
    "get_records_paginated": lambda storage: storage.get_records_paginated("no"),
    "update_tensor_metadata": lambda storage: storage.update_tensor_metadata("no", "r", {}),
    "delete_tensor": lambda storage: storage.delete_tensor("no", "r"),
    "delete_dataset": lambda storage: storage.delete_dataset("no"),
    "get_tensor_by_id of what is no id": lambda storage: storage.get_tensor_by_id("no", None),
    "delete_tensor of what is no id": lambda storage: storage.delete_tensor("no", None),
    "query_where": lambda storage: storage.query_where("no", "n = 1"),
    "tensor_sum": lambda storage: storage.tensor_sum("no", "r"),
    "get_compression_stats": lambda storage: storage.get_compression_stats("no"),
    "query_by_metadata": lambda storage: storage.query_by_metadata("no", "n", 1),
    "query_by_metadata of what has no filter": lambda storage: storage.query_by_metadata("no", "n", None),
    "query_by_tensor_shape": lambda storage: storage.query_by_tensor_shape("no", (1,)),
    "create_index": lambda storage: storage.create_index("no", "index", "n"),
    "rebuild_indexes": lambda storage: storage.rebuild_indexes("no"),
    "get_index_stats": lambda storage: storage.get_index_stats("no"),
}


def test_no_method_finds_a_dataset_that_is_not_there(storage: TensorStorage) -> None:
    for name, call in OF_A_DATASET.items():
        with pytest.raises(DatasetNotFoundError, match=r"^Dataset 'no' not found\.$") as raised:
            call(storage)
        assert isinstance(raised.value, ValueError), name
        assert isinstance(raised.value, tensorus.errors.DatasetNotFoundError), name
        assert raised.value.reason == "DATASET_NOT_FOUND", name
        assert facts_of(raised.value) == {"dataset": "no"}, name


def test_datasets_is_a_read_only_mapping_that_reads_when_asked(storage: TensorStorage) -> None:
    filled(storage, 2)
    storage.create_dataset("other", schema={"dtype": "torch.int8"})
    datasets = storage.datasets
    assert list(datasets) == ["numbers", "other"]
    assert "numbers" in datasets
    assert 7 not in datasets
    assert set(datasets["numbers"]) == {"tensors", "metadata", "schema"}
    assert [tensor.tolist() for tensor in datasets["numbers"]["tensors"]] == [[0] * 4, [1] * 4]
    assert [metadata["n"] for metadata in datasets["numbers"]["metadata"]] == [0, 1]
    assert datasets["other"]["schema"] == {"dtype": "torch.int8"}
    storage.insert("numbers", torch.ones(1))
    assert len(datasets["numbers"]["tensors"]) == 3
    with pytest.raises(KeyError):
        datasets["no"]
    with pytest.raises(TypeError):
        datasets["numbers"] = {}  # type: ignore[index]


# ---- Schemas ------------------------------------------------------------------------------------------------------------

SCHEMA = {
    "shape": (2, 3),
    "dtype": "torch.float32",
    "metadata": {"count": "int", "rate": "float", "label": "str", "any": "datetime", "shape": "list"},
}
FITTING = {"count": 1, "rate": 0.5, "label": "x", "any": None}

MISFITS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "shape": (torch.ones(3, 2), FITTING, "shape"),
    "dtype": (torch.ones(2, 3, dtype=torch.float64), FITTING, "dtype"),
    "a field is missing": (torch.ones(2, 3), {"count": 1, "rate": 0.5, "any": 1}, "label"),
    "a type": (torch.ones(2, 3), {**FITTING, "label": 7}, "label"),
    "an int is no float": (torch.ones(2, 3), {**FITTING, "rate": 1}, "rate"),
    "a float is no int": (torch.ones(2, 3), {**FITTING, "count": 1.0}, "count"),
}


def test_a_schema_lets_in_what_fits(storage: TensorStorage) -> None:
    storage.create_dataset("images", schema=SCHEMA)
    storage.insert("images", torch.ones(2, 3), FITTING)
    assert storage.count("images") == 1


@pytest.mark.parametrize("case", MISFITS)
def test_a_schema_refuses_what_does_not_fit(storage: TensorStorage, case: str) -> None:
    tensor, metadata, named = MISFITS[case]
    storage.create_dataset("images", schema=SCHEMA)
    with pytest.raises(SchemaValidationError, match=named) as raised:
        storage.insert("images", tensor, metadata)
    assert isinstance(raised.value, ValueError)
    assert storage.count("images") == 0


def test_an_update_of_metadata_has_to_fit_the_schema(storage: TensorStorage) -> None:
    storage.create_dataset("images", schema=SCHEMA)
    record_id = storage.insert("images", torch.ones(2, 3), FITTING)
    with pytest.raises(SchemaValidationError, match="label"):
        storage.update_tensor_metadata("images", record_id, {**FITTING, "label": 7})
    assert storage.get_tensor_by_id("images", record_id)["metadata"]["label"] == "x"


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ([], TypeError),
        ({"metadata": ["a"]}, TypeError),
        ({"dtype": "float33"}, ValueError),
    ],
)
def test_what_is_no_schema_is_refused(storage: TensorStorage, schema: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        storage.create_dataset("images", schema=schema)
    assert storage.list_datasets() == []


def test_parts_that_a_schema_does_not_have_are_ignored_with_a_warning(storage: TensorStorage) -> None:
    with pytest.warns(UserWarning, match="schema's 'description', 'version' is ignored") as warned:
        storage.create_dataset("images", schema={"description": "photos", "version": "1.0", "dtype": "torch.float32"})
    assert warned[0].filename == __file__
    assert storage.get_schema("images") == {"dtype": "torch.float32"}
    assert storage.datasets["images"]["schema"] == {"dtype": "torch.float32"}
    with pytest.warns(UserWarning, match="'description' is ignored"):
        storage.create_dataset("others", schema={"description": "anything"})
    assert storage.get_schema("others") is None
    storage.insert("others", torch.ones(1))


# ---- Insert and get -----------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_inserted(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    tensor = torch.rand(3, 5, 7)
    metadata = {"label": "cat", "score": 0.5, "one": 1, "float one": 1.0, "nested": {"a": [1, None]}, "pair": (1, 2)}
    record_id = storage.insert("images", tensor, metadata)
    record = storage.get_tensor_by_id("images", record_id)
    assert set(record) == {"tensor", "metadata"}
    assert torch.equal(record["tensor"], tensor)
    found = record["metadata"]
    assert {key: found[key] for key in metadata} == {**metadata, "pair": [1, 2]}
    assert (type(found["one"]), type(found["float one"])) == (int, float)


def test_nan_and_infinity_are_values_of_metadata(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    metadata = {"nan": float("nan"), "infinity": float("inf"), "record_id": "r"}
    assert storage.insert("images", torch.ones(2), metadata) == "r"
    (other,) = storage.batch_insert("images", [(torch.ones(2), {"nan": float("nan")})])
    for record_id in ("r", other):
        assert math.isnan(storage.get_tensor_by_id("images", record_id)["metadata"]["nan"])
    assert len(storage.query_by_metadata("images", "infinity", float("inf"))) == 1
    assert storage.query_by_metadata("images", "nan", float("nan")) == []


def test_the_system_s_metadata_are_complete(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    record_id = storage.insert("images", torch.zeros(2, 3, dtype=torch.int16))
    metadata = storage.get_tensor_by_id("images", record_id)["metadata"]
    assert isinstance(metadata.pop("timestamp_utc"), float)
    assert metadata == {
        "record_id": record_id,
        "shape": (2, 3),
        "dtype": "torch.int16",
        "version": 1,
        "compressed": False,
    }


def test_a_user_gives_id_and_time_and_no_other_key_of_the_system(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    given = {"record_id": "r", "timestamp_utc": 5, "shape": (9,), "dtype": object(), "version": 9, "compressed": True}
    assert storage.insert("images", torch.ones(2), given) == "r"
    metadata = storage.get_tensor_by_id("images", "r")["metadata"]
    assert metadata == {
        "record_id": "r",
        "timestamp_utc": 5,
        "shape": (2,),
        "dtype": "torch.float32",
        "version": 1,
        "compressed": False,
    }


@pytest.mark.parametrize("metadata", [{"record_id": True}, {"timestamp_utc": True}, ["a"], {7: 1}])
def test_metadata_of_the_wrong_type_are_refused(storage: TensorStorage, metadata: Any) -> None:
    storage.create_dataset("images")
    with pytest.raises(TypeError, match="metadata"):
        storage.insert("images", torch.ones(2), metadata)
    assert storage.count("images") == 0


@pytest.mark.parametrize("value", [[1.0, 2.0], "text", None, 1.0])
def test_what_is_no_tensor_is_refused(storage: TensorStorage, value: Any) -> None:
    storage.create_dataset("images")
    with pytest.raises(TypeError, match="is not a tensor"):
        storage.insert("images", value)


def test_numpy_arrays_are_tensors_too(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    record_id = storage.insert("images", np.arange(6, dtype=np.int32).reshape(2, 3).T)
    found = storage.get_tensor_by_id("images", record_id)["tensor"]
    assert isinstance(found, torch.Tensor)
    assert found.is_contiguous()
    assert found.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_without_torch_arrays_come_back(storage: TensorStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.create_dataset("images")
    monkeypatch.setattr(canonical, "_has_torch", lambda: False)
    with storage.transaction(["images"]):
        record_id = storage.insert("images", np.ones((2, 3), np.float32))
        assert isinstance(storage.get_tensor_by_id("images", record_id)["tensor"], np.ndarray)
    found = storage.get_tensor_by_id("images", record_id)
    assert isinstance(found["tensor"], np.ndarray)
    assert found["metadata"]["dtype"] == "torch.float32"


def test_what_is_changed_after_an_insert_is_not_changed_in_the_store(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    tensor, metadata = torch.zeros(3), {"list": [1]}
    record_id = storage.insert("images", tensor, metadata)
    tensor += 1
    metadata["list"].append(2)
    record = storage.get_tensor_by_id("images", record_id)
    assert record["tensor"].tolist() == [0, 0, 0]
    assert record["metadata"]["list"] == [1]


def test_lists_are_in_order_of_insertion(storage: TensorStorage) -> None:
    ids = filled(storage)
    assert [tensor[0].item() for tensor in storage.get_dataset("numbers")] == [0, 1, 2, 3, 4]
    assert [record["metadata"]["record_id"] for record in storage.get_dataset_with_metadata("numbers")] == ids
    assert storage.count("numbers") == 5


@pytest.mark.parametrize("record_id", ["r", "", "line\nbreak", None, 7, 7.5, ["r"], {}])
def test_an_id_that_is_not_there_is_not_found(storage: TensorStorage, record_id: Any) -> None:
    (existing,) = filled(storage, 1)
    calls = (
        lambda: storage.get_tensor_by_id("numbers", record_id),
        lambda: storage.update_tensor_metadata("numbers", record_id, {}),
        lambda: storage.delete_tensor("numbers", record_id),
        lambda: storage.tensor_sum("numbers", record_id),
    )
    for call in calls:
        with pytest.raises(TensorNotFoundError) as raised:
            call()
        assert str(raised.value) == f"Tensor {record_id} not found in dataset numbers."
        assert facts_of(raised.value) == {"dataset": "numbers", "tensor": str(record_id)}
        assert isinstance(raised.value, ValueError)
        assert isinstance(raised.value, tensorus.errors.TensorNotFoundError)
    with storage.transaction(["numbers"]):
        for call in calls:
            with pytest.raises(TensorNotFoundError):
                call()
    for batch in (
        lambda: storage.batch_delete_tensors("numbers", [existing, record_id]),
        lambda: storage.batch_update_metadata("numbers", [(existing, {}), (record_id, {})]),
    ):
        with pytest.raises(TransactionError) as failed:
            batch()
        assert isinstance(failed.value.__cause__, TensorNotFoundError)
    assert storage.count("numbers") == 1


def test_a_list_of_ids_deletes_nothing(storage: TensorStorage) -> None:
    ids = filled(storage, 2)
    with pytest.raises(TensorNotFoundError):
        storage.delete_tensor("numbers", ids)  # type: ignore[arg-type]
    assert storage.count("numbers") == 2


def test_an_id_that_is_taken_is_refused_whatever_the_values(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    given = {"record_id": "r", "timestamp_utc": 1}
    storage.insert("images", torch.ones(2), given)
    for tensor, metadata in ((torch.ones(2), given), (torch.ones(2), {"record_id": "r"}), (torch.zeros(2), given)):
        with pytest.raises(NameTakenError, match="tensor=r"):
            storage.insert("images", tensor, metadata)
    assert storage.count("images") == 1


# ---- Change and delete --------------------------------------------------------------------------------------------------


def test_an_update_replaces_all_but_the_system_s_keys(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    storage.insert("images", torch.ones(2), {"record_id": "r", "old": 1, "kept": 1})
    before = storage.get_tensor_by_id("images", "r")["metadata"]
    update = {"kept": 2, "new": 3, "record_id": "other", "timestamp_utc": 0, "version": 9}
    assert storage.update_tensor_metadata("images", "r", update) is True
    after = storage.get_tensor_by_id("images", "r")["metadata"]
    del before["old"]
    assert after == {**before, "kept": 2, "new": 3}


def test_a_deleted_record_is_gone(storage: TensorStorage) -> None:
    ids = filled(storage, 3)
    assert storage.delete_tensor("numbers", ids[1]) is True
    assert first_values(storage.get_dataset_with_metadata("numbers")) == [0, 2]
    assert storage.count("numbers") == 2


@pytest.mark.parametrize(
    "error", [errors.AlreadyExistsError, errors.StoredDifferentlyError], ids=lambda error: error.__name__
)
def test_an_id_that_was_taken_meanwhile_is_one_that_is_taken_whatever_has_it(error: type[errors.TensorusError]) -> None:
    raised = error('on_conflict="replace"', reason="x", facts={"dataset": "d", "tensor": "t"})
    found = storage_error(raised)
    assert type(found) is NameTakenError
    assert str(found) == "a record with this id already exists [dataset=d, tensor=t]"
