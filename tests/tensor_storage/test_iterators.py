"""Iterators: what memory does not hold can still be read."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tensorus.tensor_storage import DatasetNotFoundError, TensorStorage

COUNT = 40
ELEMENTS = 256 * 1024
TENSOR_BYTES = ELEMENTS * 4

ITERATORS: dict[str, Callable[[TensorStorage], Iterator[Any]]] = {
    "iter_dataset": lambda storage: storage.iter_dataset("large"),
    "iter_dataset_with_metadata": lambda storage: storage.iter_dataset_with_metadata("large"),
    "iter_query": lambda storage: storage.iter_query("large", lambda *_: True),
    "iter_records": lambda storage: storage.iter_records("large"),
    "iter_sample": lambda storage: storage.iter_sample("large", COUNT),
    "iter_query_by_metadata": lambda storage: storage.iter_query_by_metadata("large", "label", "x"),
    "iter_query_by_metadata of what has no filter": lambda storage: storage.iter_query_by_metadata(
        "large", "none", None
    ),
    "iter_query_by_tensor_shape": lambda storage: storage.iter_query_by_tensor_shape("large", (ELEMENTS,)),
}


def fill(storage: TensorStorage, count: int = COUNT) -> None:
    """Make a dataset of 1 MiB tensors."""
    storage.create_dataset("large")
    for n in range(count):
        storage.insert("large", np.full(ELEMENTS, n, np.float32), {"n": n, "label": "x", "none": None})


def test_an_iterator_holds_few_tensors_at_a_time(storage: TensorStorage) -> None:
    fill(storage)
    for name, iterate in ITERATORS.items():
        tracemalloc.start()
        try:
            assert sum(1 for _ in iterate(storage)) == COUNT, name
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # A server reads ahead by up to 12 MiB, a client by some chunks.
        assert peak_bytes < 30 * TENSOR_BYTES, name


def test_an_iterator_yields_what_its_list_has(storage: TensorStorage) -> None:
    fill(storage, 3)
    pairs: list[tuple[Any, Any]] = [
        (storage.iter_dataset_with_metadata("large"), storage.get_dataset_with_metadata("large")),
        (storage.iter_records("large", 1, 1), storage.get_records_paginated("large", 1, 1)),
        (storage.iter_sample("large", 2, seed=1), storage.sample_dataset("large", 2, seed=1)),
    ]
    for iterator, listed in pairs:
        assert [record["metadata"] for record in iterator] == [record["metadata"] for record in listed]


@pytest.mark.parametrize("name", ITERATORS)
def test_an_iterator_raises_at_its_first_record(storage: TensorStorage, name: str) -> None:
    iterator = ITERATORS[name](storage)
    with pytest.raises(DatasetNotFoundError):
        next(iterator)


def test_a_record_that_is_deleted_while_it_is_waited_for_is_left_out(storage: TensorStorage) -> None:
    storage.create_dataset("small")
    ids = storage.batch_insert("small", [(np.full(2, n, np.float32), {"n": n, "none": None}) for n in range(4)])
    stored = storage._stored
    for deleted in ([ids[0]], [ids[1], ids[3]]):
        storage.batch_delete_tensors("small", deleted)
        found = [record.info.metadata["n"] for record in stored.named("small", ids)]
        assert found == [
            n for n, record_id in enumerate(ids) if storage.query_by_metadata("small", "record_id", record_id)
        ]
