"""Many transfers at once: those that there is no memory for wait their turn, and short calls do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tensorus
from support.arrays import random_bits
from support.servers import running_server
from support.wire import open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.limits import INSERT_STREAM_BYTES
from tensorus_server.processes.server import Server
from tensorus_server.rpc import admission as admission_module

STREAMS = 24
ARRAY = random_bits("uint8", (2_500_000,))


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that has memory for two inserts at a time, and whose silent streams make no room."""
    monkeypatch.setattr(admission_module, "_PAUSE_S", 600.0)
    monkeypatch.setattr(admission_module, "_GIVE_WAY_S", 600.0)
    with running_server(tmp_path / "store", streams_max=STREAMS, memory_budget_bytes=2 * INSERT_STREAM_BYTES) as server:
        yield server


def test_all_of_many_inserts_and_gets_have_their_turn(crowded: Server) -> None:
    with tensorus.connect(crowded.address) as client, ThreadPoolExecutor(STREAMS) as threads:
        client.create_dataset("d", preset="none")

        def transfer(number: int) -> bool:
            client.insert("d", ARRAY, id=f"t{number}")
            return np.array_equal(client.get("d", f"t{number}", as_="numpy"), ARRAY)

        assert all(threads.map(transfer, range(STREAMS)))
        assert client.stats("d").tensors == STREAMS


class Held:
    """Inserts that are open, and send nothing until they are let go; the first two are at work."""

    def __init__(self, stub: TensorServiceStub, count: int) -> None:
        self._may_end = threading.Event()
        self._calls: list[Any] = []
        for number in range(count):
            self._calls.append(stub.Insert(self._messages(), timeout=60))
            if number < 2:
                assert next(self._calls[number]).HasField("opened")

    def _messages(self) -> Iterator[pb.InsertRequest]:
        yield open_insert("d")
        self._may_end.wait(30)
        yield pb.InsertRequest(finish=True)

    def end(self) -> None:
        self._may_end.set()
        for call in self._calls:
            list(call)


def test_short_calls_and_health_are_answered_while_streams_wait(crowded: Server) -> None:
    with grpc.insecure_channel(crowded.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        held = Held(stub, STREAMS)
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        assert stub.GetDataset(pb.GetDatasetRequest(name="d"), timeout=10).dataset.name == "d"
        held.end()


def test_one_stream_too_many_is_told_when_to_come_again(crowded: Server) -> None:
    with grpc.insecure_channel(crowded.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        held = Held(stub, STREAMS)
        while len(crowded._admission._places) < STREAMS:
            threading.Event().wait(0.01)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Get(pb.GetRequest(dataset="d"), timeout=10))
        held.end()
    trailers = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, retry.retry_delay.ToMilliseconds()) == ("TOO_MANY_STREAMS", 1000)
    assert trailers["grpc-retry-pushback-ms"] == "1000"


def test_a_client_waits_where_there_are_too_many_streams(crowded: Server) -> None:
    with (
        grpc.insecure_channel(crowded.address) as channel,
        tensorus.connect(crowded.address, retry_timeout_s=30) as client,
    ):
        client.create_dataset("d", preset="none")
        held = Held(TensorServiceStub(channel), STREAMS)
        while len(crowded._admission._places) < STREAMS:
            threading.Event().wait(0.01)
        threading.Timer(0.3, held.end).start()
        assert client.insert("d", ARRAY, id="t").id == "t"


def test_streams_whose_callers_go_away_while_they_wait_leave_nothing(crowded: Server) -> None:
    with grpc.insecure_channel(crowded.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        held = Held(stub, 2)
        gone = [stub.Insert(iter([open_insert("d")]), timeout=30) for _ in range(STREAMS - 2)]
        admission = crowded._admission
        while len(admission._places) < STREAMS:
            threading.Event().wait(0.01)
        for call in gone:
            call.cancel()
        with admission._changed:
            assert admission._changed.wait_for(lambda: len(admission._places) == 2, 10)
            assert not admission._waiting
        held.end()
