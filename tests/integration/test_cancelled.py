"""Calls that are cancelled, or run out of time, at any point leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from support.wire import announced, bytes_of, insert, insert_message, open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.engine import explain
from tensorus_server.processes.server import Server

CALLS = 60
DATA = bytes_of(1 << 20)


@pytest.fixture
def stub(fresh_server: Server) -> Iterator[TensorServiceStub]:
    """A stub of a server with one tensor that takes many messages to read."""
    with grpc.insecure_channel(fresh_server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d", policy=pb.StoragePolicy(preset="none")))
        pieces = [
            insert_message(DATA, offset=n << 20, last=n == 7, tensor=announced("large", [8 << 20]) if n == 0 else None)
            for n in range(8)
        ]
        assert insert(stub, [open_insert("d"), *pieces])[0].status.code == 0
        yield stub


def begin_insert(stub: TensorServiceStub, number: int) -> grpc.Call:
    may_end = threading.Event()

    def messages() -> Iterator[pb.InsertRequest]:
        yield open_insert("d")
        yield insert_message(DATA, tensor=announced(f"t{number}", [64 << 20]), last=False)
        may_end.wait(30)

    call = stub.Insert(messages(), timeout=30)
    call.add_done_callback(lambda _: may_end.set())
    return call


def begin_get(stub: TensorServiceStub, _: int) -> grpc.Call:
    return stub.Get(pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="large")] * 20), timeout=30)


def begin_query(stub: TensorServiceStub, _: int) -> grpc.Call:
    return stub.Query(pb.QueryRequest(dataset="d"), timeout=30)


def begin_verify(stub: TensorServiceStub, _: int) -> grpc.Call:
    """Begin what takes two hours at this rate."""
    return stub.Verify(pb.VerifyRequest(max_bytes_per_second=1024), timeout=30)


def begin_explain(stub: TensorServiceStub, _: int) -> grpc.Future:
    """Begin what takes hours: the whole sample is there, and what is left is work."""
    candidates = [pb.StoragePolicy(preset="archive", chunk_bytes=1 << 16)] * 32
    spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[32 << 20])
    opening = pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec, candidates=candidates))
    return stub.ExplainPolicy.future(iter([opening, *[pb.ExplainPolicyRequest(payload=DATA)] * 32]), timeout=30)


def leftovers(server: Server, folder: Path) -> dict[str, int]:
    """Return what is there of calls: streams, sessions, and files on their way in."""
    return {
        "streams": len(server._admission._places),
        "memory": server._admission._borrowed_bytes,
        "sessions": len(server._engine.sessions._holders),
        "files": sum(1 for name in ("tmp", "uploads") for path in (folder / name).rglob("*") if path.is_file()),
    }


@pytest.mark.parametrize("begin", [begin_insert, begin_get, begin_query, begin_verify])
@pytest.mark.parametrize("answers", [0, 1], ids=["at once", "after the first answer"])
def test_cancelled_calls_leave_nothing(
    stub: TensorServiceStub, fresh_server: Server, tmp_path: Path, begin: object, answers: int
) -> None:
    def cancelled(number: int) -> None:
        call = begin(stub, number)  # type: ignore[operator]
        for _ in range(answers):
            next(call)
        call.cancel()

    process = psutil.Process()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(cancelled, range(8)))
        descriptors = process.num_fds()
        list(threads.map(cancelled, range(8, CALLS)))
    nothing = {"streams": 0, "memory": 0, "sessions": 0, "files": 0}
    admission = fresh_server._admission
    with admission._changed:
        # Everything is given back within a second; ten are for machines that have other things to do.
        admission._changed.wait_for(lambda: leftovers(fresh_server, tmp_path / "store") == nothing, 10)
    while leftovers(fresh_server, tmp_path / "store") != nothing:
        threading.Event().wait(0.05)
    # The catalogue may open more of its 8 connections meanwhile, of 3 files each.
    assert process.num_fds() <= descriptors + 24
    assert [tensor.id for tensor in stub.ListTensors(pb.ListTensorsRequest(dataset="d")).tensors] == ["large"]


def test_work_that_nobody_waits_for_ends(stub: TensorServiceStub, fresh_server: Server, tmp_path: Path) -> None:
    working = threading.Event()
    encode_chunk = explain.encode_chunk

    def encode(*arguments: Any) -> Any:
        working.set()
        return encode_chunk(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explain, "encode_chunk", encode)
        call = begin_explain(stub, 0)
        assert working.wait(30)
        call.cancel()
        while any(leftovers(fresh_server, tmp_path / "store").values()):
            threading.Event().wait(0.05)


def test_a_sample_whose_sender_goes_away_leaves_nothing(
    stub: TensorServiceStub, fresh_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    half = threading.Event()
    may_end = threading.Event()

    def messages() -> Iterator[pb.ExplainPolicyRequest]:
        spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[32 << 20])
        yield pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec))
        yield pb.ExplainPolicyRequest(payload=DATA)
        half.set()
        may_end.wait(30)

    call = stub.ExplainPolicy.future(messages(), timeout=30)
    assert half.wait(30)
    call.cancel()
    may_end.set()
    while any(leftovers(fresh_server, tmp_path / "store").values()):
        threading.Event().wait(0.05)
    assert caplog.records == []


def test_a_call_that_runs_out_of_time_leaves_nothing(
    stub: TensorServiceStub, fresh_server: Server, tmp_path: Path
) -> None:
    may_end = threading.Event()

    def messages() -> Iterator[pb.InsertRequest]:
        yield open_insert("d")
        yield insert_message(DATA, tensor=announced("late", [64 << 20]), last=False)
        may_end.wait(30)

    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Insert(messages(), timeout=0.5))
    may_end.set()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while any(leftovers(fresh_server, tmp_path / "store").values()):
        threading.Event().wait(0.05)
