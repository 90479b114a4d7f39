"""Any sequence of changes, in transactions within transactions or not, against dicts that are the truth."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tensorus.tensor_storage import NameTakenError, TensorNotFoundError, TensorStorage, TransactionError

NAMES = ("a", "../b")
IDS = st.sampled_from(["r1", "r2", "r3", "r4"])
LABELS = st.sampled_from(["x", "y", 1, 2.0, None])

Model = dict[str, dict[str, tuple[float, Any]]]
"""By dataset and record's id, in order of insertion: value and label."""


class StorageMachine(RuleBasedStateMachine):
    """Two datasets, four ids, one thread."""

    @initialize()
    def open(self) -> None:
        self.storage = TensorStorage(None)
        self.model: Model = {name: {} for name in NAMES}
        self.open_transactions: list[tuple[ExitStack, Model]] = []
        """From the outermost to the innermost, each with the truth before it."""
        self.number = 0.0
        for name in NAMES:
            self.storage.create_dataset(name)

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            while self.open_transactions:
                self.rollback()
            self.storage.close()

    def tensor(self) -> np.ndarray[Any, Any]:
        self.number += 1
        return np.full(2, self.number, np.float32)

    @rule(name=st.sampled_from(NAMES), record_id=IDS, label=LABELS)
    def insert(self, name: str, record_id: str, label: Any) -> None:
        tensor, metadata = self.tensor(), {"record_id": record_id, "label": label}
        if record_id in self.model[name]:
            with pytest.raises(NameTakenError):
                self.storage.insert(name, tensor, metadata)
        else:
            self.storage.insert(name, tensor, metadata)
            self.model[name][record_id] = (self.number, label)

    @rule(name=st.sampled_from(NAMES), record_ids=st.lists(IDS, max_size=4), label=LABELS)
    def batch_insert(self, name: str, record_ids: list[str], label: Any) -> None:
        batch = [(self.tensor(), {"record_id": record_id, "label": label}) for record_id in record_ids]
        if len(set(record_ids)) < len(record_ids) or set(record_ids) & set(self.model[name]):
            with pytest.raises(TransactionError):
                self.storage.batch_insert(name, batch)
        else:
            assert self.storage.batch_insert(name, batch) == record_ids
            self.model[name] |= {
                record_id: (float(tensor[0]), label) for record_id, (tensor, _) in zip(record_ids, batch, strict=True)
            }

    @rule(name=st.sampled_from(NAMES), record_id=IDS, label=LABELS)
    def update(self, name: str, record_id: str, label: Any) -> None:
        if record_id in self.model[name]:
            self.storage.update_tensor_metadata(name, record_id, {"label": label})
            self.model[name][record_id] = (self.model[name][record_id][0], label)
        else:
            with pytest.raises(TensorNotFoundError):
                self.storage.update_tensor_metadata(name, record_id, {"label": label})

    @rule(name=st.sampled_from(NAMES), record_id=IDS)
    def delete(self, name: str, record_id: str) -> None:
        if self.model[name].pop(record_id, None) is not None:
            self.storage.delete_tensor(name, record_id)
        else:
            with pytest.raises(TensorNotFoundError):
                self.storage.delete_tensor(name, record_id)

    @rule(name=st.sampled_from(NAMES), record_ids=st.lists(IDS, max_size=3))
    def batch_delete(self, name: str, record_ids: list[str]) -> None:
        if len(set(record_ids)) == len(record_ids) and set(record_ids) <= set(self.model[name]):
            self.storage.batch_delete_tensors(name, record_ids)
            for record_id in record_ids:
                del self.model[name][record_id]
        else:
            with pytest.raises(TransactionError):
                self.storage.batch_delete_tensors(name, record_ids)

    @precondition(lambda self: len(self.open_transactions) < 3)
    @rule()
    def begin(self) -> None:
        transaction = ExitStack()
        transaction.enter_context(self.storage.transaction(NAMES))
        self.open_transactions.append((transaction, copy.deepcopy(self.model)))

    @precondition(lambda self: self.open_transactions)
    @rule()
    def commit(self) -> None:
        transaction, _ = self.open_transactions.pop()
        transaction.close()

    @precondition(lambda self: self.open_transactions)
    @rule()
    def rollback(self) -> None:
        transaction, self.model = self.open_transactions.pop()

        def fail() -> None:
            with transaction:
                raise RuntimeError("rolled back")

        with pytest.raises(TransactionError):
            fail()

    @invariant()
    def every_read_agrees(self) -> None:
        if not hasattr(self, "storage"):
            return
        for name in NAMES:
            truth = self.model[name]
            found = {
                record["metadata"]["record_id"]: (float(record["tensor"][0]), record["metadata"]["label"])
                for record in self.storage.get_dataset_with_metadata(name)
            }
            assert list(found.items()) == list(truth.items())
            assert self.storage.count(name) == len(truth)
            with_x = [record["metadata"]["record_id"] for record in self.storage.query_by_metadata(name, "label", "x")]
            assert with_x == [record_id for record_id, (_, label) in truth.items() if label == "x"]
            page = [record["metadata"]["record_id"] for record in self.storage.get_records_paginated(name, 1, 2)]
            assert page == list(truth)[1:3]


StorageMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
TestStorageMachine = StorageMachine.TestCase
