"""Queries, samples, pages, equality and indexes, in every place."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from support.storages import filled, first_values
from tensorus._reading_client import ReadingClient
from tensorus.errors import InvalidFilterError
from tensorus.tensor_storage import TensorStorage, TransactionError

# ---- Queries, samples, pages --------------------------------------------------------------------------------------------


def test_a_query_sees_tensor_and_metadata(storage: TensorStorage) -> None:
    filled(storage)
    found = storage.query("numbers", lambda tensor, metadata: tensor[0] > 1 and metadata["odd"])
    assert first_values(found) == [3]


def test_a_query_that_raises_leaves_out_and_warns(storage: TensorStorage) -> None:
    filled(storage)

    def picky(tensor: torch.Tensor, metadata: dict[str, Any]) -> bool:
        if metadata["odd"]:
            raise KeyError("odd one")
        return True

    with pytest.warns(RuntimeWarning, match="2 of 5 records of 'numbers'; the first: KeyError: 'odd one'"):
        found = storage.query("numbers", picky)
    assert first_values(found) == [0, 2, 4]


def test_a_query_that_always_raises_raises(storage: TensorStorage) -> None:
    filled(storage)
    with pytest.raises(RuntimeError, match="5 of 5 records") as raised:
        storage.query("numbers", lambda tensor, metadata: metadata["no such key"])
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_query_of_what_cannot_be_called_is_refused(storage: TensorStorage) -> None:
    filled(storage)
    with pytest.raises(TypeError, match="callable"):
        storage.query("numbers", "n > 1")  # type: ignore[arg-type]


def test_a_sample_has_no_record_twice(storage: TensorStorage) -> None:
    filled(storage)
    found = first_values(storage.sample_dataset("numbers", 3))
    assert len(set(found)) == 3
    assert set(found) <= {0, 1, 2, 3, 4}


def test_a_sample_of_more_than_there_are_is_all_of_them_shuffled(storage: TensorStorage) -> None:
    filled(storage)
    samples = [first_values(storage.sample_dataset("numbers", 99, seed=seed)) for seed in range(10)]
    assert all(sorted(sample) == [0, 1, 2, 3, 4] for sample in samples)
    assert len(set(map(tuple, samples))) > 1


@pytest.mark.parametrize("count", [0, -1])
def test_a_sample_of_none_is_empty(storage: TensorStorage, count: int) -> None:
    filled(storage)
    assert storage.sample_dataset("numbers", count) == []


def test_a_seed_gives_the_same_sample(storage: TensorStorage) -> None:
    filled(storage)
    assert first_values(storage.sample_dataset("numbers", 3, seed=7)) == first_values(
        storage.sample_dataset("numbers", 3, seed=7)
    )
    random.seed(7)
    first = first_values(storage.sample_dataset("numbers", 3))
    random.seed(7)
    assert first_values(storage.sample_dataset("numbers", 3)) == first


@pytest.mark.parametrize(
    ("offset", "limit", "expected"),
    [
        (0, 2, [0, 1]),
        (3, 100, [3, 4]),
        (1, None, [1, 2, 3, 4]),
        (5, 2, []),
        (99, None, []),
        (2, 0, []),
    ],
)
def test_a_page_has_these_records(storage: TensorStorage, offset: int, limit: int | None, expected: list[int]) -> None:
    filled(storage)
    assert first_values(storage.get_records_paginated("numbers", offset=offset, limit=limit)) == expected


@pytest.mark.parametrize(("offset", "limit"), [(-1, 1), (0, -1)])
def test_a_negative_page_is_refused(storage: TensorStorage, offset: int, limit: int) -> None:
    filled(storage)
    with pytest.raises(ValueError, match="must not be negative"):
        storage.get_records_paginated("numbers", offset, limit)


# ---- Equality -----------------------------------------------------------------------------------------------------------

VALUES: list[Any] = [1, 1.0, True, "1", None, [1, 2], {"a": 1}, 2**60, "x" * 2000, "nul\0", -0.5, [], "", {"n": "1"}]


@pytest.mark.parametrize("key", ["n", "a.b", "a key", "back`tick", "@id", "back\\slash"])
def test_equal_metadata_are_found_as_python_compares(storage: TensorStorage, key: str) -> None:
    storage.create_dataset("values")
    storage.batch_insert("values", [(torch.tensor(float(n)), {key: value}) for n, value in enumerate(VALUES)])
    storage.insert("values", torch.tensor(-1.0), {"other": 1, "a": {"b": 1}})
    for value in [*VALUES, (1, 2), 3, "no", 2, float("nan")]:
        expected = [n for n, found in enumerate(VALUES) if found == (list(value) if value == (1, 2) else value)]
        found = [int(record["tensor"]) for record in storage.query_by_metadata("values", key, value)]
        assert found == expected, value


def test_the_system_s_keys_can_be_asked_for(storage: TensorStorage) -> None:
    ids = filled(storage, 3)
    storage.insert("numbers", torch.ones(2, dtype=torch.int8))
    first = storage.get_tensor_by_id("numbers", ids[0])["metadata"]
    assert first_values(storage.query_by_metadata("numbers", "record_id", ids[2])) == [2]
    assert first_values(storage.query_by_metadata("numbers", "version", 2)) == [1]
    assert first_values(storage.query_by_metadata("numbers", "dtype", "torch.int8")) == [1]
    assert first_values(storage.query_by_metadata("numbers", "shape", (4,))) == [0, 1, 2]
    assert first_values(storage.query_by_metadata("numbers", "shape", [2])) == [1]
    assert first_values(storage.query_by_metadata("numbers", "timestamp_utc", first["timestamp_utc"])) == [0]
    assert len(storage.query_by_metadata("numbers", "compressed", False)) == 4


def test_a_shape_is_found_exactly(storage: TensorStorage) -> None:
    storage.create_dataset("images")
    shapes = [(2, 3), (6,), (3, 2), (2, 3), (), (0, 3)]
    for shape in shapes:
        storage.insert("images", torch.ones(shape))
    for shape in shapes:
        found = [record["metadata"]["shape"] for record in storage.query_by_tensor_shape("images", shape)]
        assert found == [other for other in shapes if other == shape]
    assert len(storage.query_by_tensor_shape("images", torch.Size([2, 3]))) == 2


# ---- Filters ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ('n >= 1 AND kind = "x"', [2, 4]),
        ({"n": [1, 2], "kind": "y"}, [1]),
        ("@dtype = 'float32' AND NOT n < 4".replace("'", '"'), [4]),
        ("inner.a = 3", [3]),
        ("timestamp_utc > 1e12", []),
        (None, [0, 1, 2, 3, 4]),
    ],
)
def test_a_filter_finds_records(storage: TensorStorage, where: Any, expected: list[int]) -> None:
    storage.create_dataset("numbers")
    storage.batch_insert(
        "numbers",
        [(torch.full((4,), float(n)), {"n": n, "kind": "xy"[n % 2], "inner": {"a": n}}) for n in range(5)],
    )
    found = storage.query_where("numbers", where)
    assert first_values(found) == expected
    assert [record["metadata"]["n"] for record in storage.iter_query_where("numbers", where)] == expected
    with storage.transaction(["numbers"]):
        assert first_values(storage.query_where("numbers", where)) == expected


def test_what_is_no_filter_names_the_position(storage: TensorStorage) -> None:
    filled(storage, 1)
    with pytest.raises(InvalidFilterError, match="at character 4") as raised:
        storage.query_where("numbers", "n >=")
    assert isinstance(raised.value, ValueError)


def test_a_filter_is_refused_where_a_transaction_has_changes_that_it_does_not_see(storage: TensorStorage) -> None:
    ids = filled(storage)
    storage.create_dataset("others")
    with storage.transaction(["numbers", "others"]):
        storage.delete_tensor("numbers", ids[0])
        with pytest.raises(TransactionError, match="filter does not see the changes of this transaction"):
            storage.query_where("numbers", "n = 0")
        assert storage.query_where("others", "n = 0") == []
    assert storage.query_where("numbers", "n = 0") == []


# ---- Indexes ------------------------------------------------------------------------------------------------------------


def test_an_index_has_a_name_a_type_and_a_size(storage: TensorStorage) -> None:
    filled(storage, 1)
    storage.insert("numbers", torch.ones(1), {"n": {"a": 1}})
    storage.insert("numbers", torch.ones(1), {"n": []})
    storage.insert("numbers", torch.ones(1), {"other": 1})
    assert storage.create_index("numbers", "by_n", "n") is True
    assert storage.create_index("numbers", "by_time", "timestamp_utc", index_type="range") is True
    assert storage.create_index("numbers", "by_n", "n") is True
    assert storage.create_index("numbers", "by_n", "other") is False
    assert storage.rebuild_indexes("numbers") is True
    stats = storage.get_index_stats("numbers")
    assert {"by_n": stats["by_n"], "by_time": stats["by_time"]} == {
        "by_n": {"type": "HashIndex", "size": 3, "name": "by_n"},
        "by_time": {"type": "RangeIndex", "size": 4, "name": "by_time"},
    }


def test_statistics_have_the_indexes_that_are_always_there(
    storage: TensorStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(storage, 3)
    monkeypatch.delattr(ReadingClient, "list")
    stats = storage.get_index_stats("numbers")
    assert (stats.pop("indexing_enabled"), stats.pop("dataset_name")) == (True, "numbers")
    assert {name: index["type"] for name, index in stats.items()} == {
        "record_id": "HashIndex",
        "timestamp_utc": "RangeIndex",
        "dtype": "HashIndex",
        "version": "RangeIndex",
        "tensor_shape": "TensorPropertyIndex",
        "tensor_ndim": "TensorPropertyIndex",
        "tensor_dtype": "TensorPropertyIndex",
    }
    assert all((index["name"], index["size"]) == (name, 3) for name, index in stats.items())
    with storage.transaction(["numbers"]):
        storage.insert("numbers", torch.ones(1))
        assert storage.get_index_stats("numbers")["record_id"]["size"] == 4


def test_a_type_of_index_that_there_is_not_is_refused(storage: TensorStorage) -> None:
    filled(storage, 1)
    with pytest.raises(ValueError, match=r"^Unknown index type: tree; it must be one of hash, range$"):
        storage.create_index("numbers", "by_n", "n", "tree")
