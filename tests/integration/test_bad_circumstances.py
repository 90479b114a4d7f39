"""What a stranger meets when things go wrong that are not its fault: a specific code and reason, and nothing left behind.

The stranger has the generated stub and messages, and nothing of ours.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from support.servers import running_server
from support.wire import announced, bytes_of, call_error, insert, insert_message, item_error, open_insert, read_all
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.processes.server import Server

DATA = bytes_of(4)


def test_a_client_that_vanishes_in_mid_stream_leaves_nothing(fresh_server: Server, tmp_path: Path) -> None:
    with grpc.insecure_channel(fresh_server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d", policy=pb.StoragePolicy(preset="none")))
        sent = threading.Event()

        def half() -> Iterator[pb.InsertRequest]:
            yield open_insert("d")
            yield insert_message(DATA, item=0, tensor=announced("whole"))
            size = 10 * 1024 * 1024
            for offset in range(0, size // 2, 1024 * 1024):
                first = announced("torn", [size]) if offset == 0 else None
                yield insert_message(bytes(1024 * 1024), item=1, offset=offset, tensor=first, last=False)
            sent.set()
            gone.wait(60)

        gone = threading.Event()
        call = stub.Insert(half(), timeout=60)
        seen = next(response for response in call if response.results)
        assert seen.results[0].tensor.id == "whole"
        assert sent.wait(60)
        call.cancel()
        gone.set()
        # The slot of the stream is free again when its rest has been cleared away.
        fresh_server.stop()
    assert [path.name for path in (tmp_path / "store" / "tmp").iterdir()] == []
    with running_server(tmp_path / "store") as again, grpc.insecure_channel(again.address) as channel:
        stub = TensorServiceStub(channel)
        assert [tensor.id for tensor in stub.ListTensors(pb.ListTensorsRequest(dataset="d")).tensors] == ["whole"]
        assert read_all(stub, "d", "whole") == DATA


def test_a_full_disk_refuses_inserts_and_serves_reads(tmp_path: Path) -> None:
    with running_server(tmp_path / "store") as first, grpc.insecure_channel(first.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        insert(stub, [open_insert("d"), insert_message(DATA, tensor=announced("kept"))])
    # A reserve of the whole disk: as if nothing were left.
    with (
        running_server(tmp_path / "store", reserve_share=0.999999) as full,
        grpc.insecure_channel(full.address) as channel,
    ):
        stub = TensorServiceStub(channel)
        (status,) = insert(stub, [open_insert("d"), insert_message(DATA, tensor=announced("new"))])
        found = item_error(status)
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
        assert re.search(r"free space is \d+ bytes, the reserve is \d+ bytes \(reserve_bytes\)", found.message)
        assert read_all(stub, "d", "kept") == DATA
        assert stub.DeleteTensors(pb.DeleteTensorsRequest(dataset="d", ids=["kept"])).deleted == 1


def test_more_streams_than_admitted_are_refused(tmp_path: Path) -> None:
    with running_server(tmp_path / "store", streams_max=1) as server, grpc.insecure_channel(server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        release = threading.Event()

        def held() -> Iterator[pb.InsertRequest]:
            yield open_insert("d")
            release.wait(60)

        first = stub.Insert(held(), timeout=60)
        assert next(first).HasField("opened")
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.Get(pb.GetRequest(dataset="d"), timeout=60))
        found = call_error(raised.value)
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_STREAMS")
        assert found.message == "1 streams are open, limit is 1 (streams_max)"
        # Short calls and health checks have threads of their own.
        assert len(stub.ListDatasets(pb.ListDatasetsRequest(), timeout=60).datasets) == 1
        release.set()
        list(first)
