"""What an Insert says while it goes on: every word about progress is the latest, and there is none where nothing happens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest

from support.marks import mark_tensors
from support.wire import announced, bytes_of, insert_message, open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

PIECE = bytes_of(1 << 20)


@pytest.fixture
def created(stub: TensorServiceStub, dataset: str) -> str:
    stub.CreateDataset(pb.CreateDatasetRequest(name=dataset, policy=pb.StoragePolicy(preset="none")))
    return dataset


def test_a_stream_on_which_nothing_happens_is_silent(stub: TensorServiceStub, created: str) -> None:
    def messages() -> Iterator[pb.InsertRequest]:
        yield open_insert(created)
        # Several times as long as the server waits before it acknowledges what there is.
        threading.Event().wait(0.5)
        yield pb.InsertRequest(finish=True)

    found = [[field.name for field, _ in response.ListFields()] for response in stub.Insert(messages(), timeout=30)]
    assert found == [["opened"], ["finished"]]


def test_an_insert_in_one_message_is_answered_in_one(stub: TensorServiceStub, created: str) -> None:
    message = insert_message(b"abcd", item=3, tensor=announced("t"))
    message.MergeFrom(open_insert(created))
    message.finish = True
    (response,) = stub.Insert(iter([message]), timeout=30)
    assert response.opened.max_unacknowledged_bytes > 0
    assert response.progress.acknowledged_payload_bytes == 4
    assert [(result.item, result.tensor.id, result.status.code) for result in response.results] == [(3, "t", 0)]
    assert (response.finished.succeeded, response.finished.failed) == (1, 0)


def test_progress_always_says_what_was_acknowledged_and_never_goes_back(
    stub: TensorServiceStub, created: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark_tensors(monkeypatch, above_bytes=1 << 20, every_bytes=2 << 20)
    credit: queue.SimpleQueue[int] = queue.SimpleQueue()

    def messages() -> Iterator[pb.InsertRequest]:
        yield open_insert(created)
        for number in range(24):
            tensor = announced("t", [24 << 20]) if number == 0 else None
            yield insert_message(PIECE, offset=number << 20, last=number == 23, tensor=tensor)
            if number % 4 == 3:
                # Slow enough that marks and acknowledgements are told apart.
                credit.get(timeout=30)
        yield pb.InsertRequest(finish=True)

    acknowledged, committed = 0, 0
    for response in stub.Insert(messages(), timeout=60):
        if response.HasField("progress"):
            assert response.progress.acknowledged_payload_bytes >= max(acknowledged, 1)
            if response.progress.acknowledged_payload_bytes > acknowledged:
                credit.put(0)
            acknowledged = response.progress.acknowledged_payload_bytes
            for item in response.progress.items:
                assert item.committed_bytes > committed
                committed = item.committed_bytes
    assert committed >= 16 << 20
