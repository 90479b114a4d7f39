"""Servers and clients of stores that are open for reading only: every writing call is refused alike, and all others work."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tensorus
from support.aio import run
from support.client import run_command
from support.read_only import state_of, unprivileged, unwritable
from support.servers import running_server
from support.stores import few_shards
from tensorus.errors import ReadOnlyError
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.access.rights import Role
from tensorus_server.processes.server import Server
from tensorus_server.rpc.rights import NEEDS

VALUES = np.arange(1000, dtype=np.float32)

WRITES: dict[str, Callable[[Any], Any]] = {
    "append": lambda client: client.append("weights", "a", VALUES),
    "copy": lambda client: client.copy("weights", "a", "b"),
    "copy_dataset": lambda client: client.copy_dataset("weights", "other"),
    "copy_many": lambda client: client.copy_many("weights", {"a": "b"}),
    "create_dataset": lambda client: client.create_dataset("weights", exist_ok=True),
    "delete": lambda client: client.delete("weights", "a"),
    "delete_dataset": lambda client: client.delete_dataset("weights"),
    "drop_snapshot": lambda client: client.drop_snapshot("weights", "before"),
    "insert": lambda client: client.insert("weights", VALUES),
    "insert_many": lambda client: client.insert_many("weights", [("b", VALUES)]),
    "move": lambda client: client.move("weights", "a", "b"),
    "move_many": lambda client: client.move_many("weights", {"a": "b"}),
    "rename": lambda client: client.rename("weights", "a", "b"),
    "rename_dataset": lambda client: client.rename_dataset("weights", "other"),
    "restore": lambda client: client.restore("weights", "before"),
    "snapshot": lambda client: client.snapshot("weights", "after"),
    "update_dataset": lambda client: client.update_dataset("weights", preset="fast"),
    "update_metadata": lambda client: client.update_metadata("weights", "a", {"layer": 2}),
    "write": lambda client: client.write("weights", "a", 0, VALUES[0]),
}

READS = frozenset(
    {
        "close",
        "dataset",
        "datasets",
        "explain",
        "get",
        "get_many",
        "info",
        "list",
        "query",
        "server_status",
        "snapshots",
        "stats",
        "status",
        "store_stats",
        "verify",
    }
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("read-only") / "store"
    with few_shards(), tensorus.open(folder) as client:
        client.create_dataset("weights")
        client.insert("weights", VALUES, id="a", metadata={"layer": 1})
        client.snapshot("weights", "before")
    return folder


@pytest.fixture(scope="module")
def served(store: Path) -> Iterator[Server]:
    before = state_of(store)
    with running_server(store, read_only=True) as server:
        yield server
    assert state_of(store) == before


def test_every_method_of_the_client_is_known_to_read_or_to_write() -> None:
    public = {name for name, _ in inspect.getmembers(tensorus.Client, inspect.isfunction) if not name.startswith("_")}
    assert public <= READS | WRITES.keys(), "decide whether it reads or writes"


@pytest.mark.parametrize("name", sorted(WRITES))
def test_a_writing_call_is_refused_alike_by_every_client(name: str, served: Server, store: Path) -> None:
    refusals = []
    with tensorus.connect(served.address) as remote, tensorus.open(store, read_only=True) as embedded:
        for client in (remote, embedded):
            with pytest.raises(ReadOnlyError) as raised:
                WRITES[name](client)
            refusals.append((raised.value.reason, str(raised.value)))
    with pytest.raises(ReadOnlyError) as raised:
        run(WRITES[name], served.address)
    refusals.append((raised.value.reason, str(raised.value)))
    assert refusals == [("READ_ONLY", "the store is open for reading only")] * 3


def test_every_call_that_needs_the_right_to_write_is_refused(served: Server) -> None:
    values = {"name": "weights", "dataset": "weights", "source_dataset": "weights", "new_name": "other", "id": "a"}
    methods = {method.name: method for method in pb.DESCRIPTOR.services_by_name["TensorService"].methods}
    with grpc.insecure_channel(served.address) as channel:
        stub = TensorServiceStub(channel)
        refused = set()
        for name, method in methods.items():
            kind = getattr(pb, method.input_type.name)
            request = kind(
                **{field: value for field, value in values.items() if field in kind.DESCRIPTOR.fields_by_name}
            )
            writes = any(role is not Role.READER for role, _ in NEEDS[name](request))
            if not writes:
                continue
            if name == "CreateSnapshot":
                request.name = "after"
            elif name == "RestoreDataset":
                request.at.snapshot = "before"
            with pytest.raises(grpc.RpcError) as raised:
                getattr(stub, name)(request)
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION, name
            refused.add(name)
    assert {"CreateDataset", "DeleteTensors", "CopyTensors", "InsertKnown", "RestoreDataset"} <= refused


def test_clients_are_told_and_health_checks_pass(served: Server) -> None:
    with grpc.insecure_channel(served.address) as channel:
        stub = TensorServiceStub(channel)
        assert "read_only" in stub.GetCapabilities(pb.GetCapabilitiesRequest()).features
        status = stub.GetServerStatus(pb.GetServerStatusRequest())
        assert status.read_only
        assert status.healthy
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_a_server_that_writes_does_not_say_that_it_is_read_only(tmp_path: Path) -> None:
    with running_server(tmp_path / "other") as server, grpc.insecure_channel(server.address) as channel:
        stub = TensorServiceStub(channel)
        assert "read_only" not in stub.GetCapabilities(pb.GetCapabilitiesRequest()).features
        assert not stub.GetServerStatus(pb.GetServerStatusRequest()).read_only


def test_several_workers_serve_a_folder_that_cannot_be_written(store: Path) -> None:
    with unwritable(store):
        before = state_of(store)
        command = ["-m", "tensorus", "serve", "--read-only", "--data-dir", str(store), "--listen", "127.0.0.1:0"]
        server = subprocess.Popen(unprivileged([*command, "--workers", "2"]), stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert "for reading only, 2 workers" in line
            address = line.partition(" on ")[2].partition(",")[0]
            for _ in range(4):
                with tensorus.connect(address) as client:
                    np.testing.assert_array_equal(client.get("weights", "a", as_="numpy"), VALUES)
                    with pytest.raises(ReadOnlyError):
                        client.insert("weights", VALUES)
        finally:
            server.terminate()
            server.communicate(timeout=30)
        assert server.returncode == 0
        assert state_of(store) == before


def test_a_start_for_reading_only_is_checked_as_such(store: Path, tmp_path: Path) -> None:
    before = state_of(store)
    found = run_command("check-store", "--read-only", "--data-dir", store, "--listen", "127.0.0.1:0")
    assert "can be opened for reading only" in found.output, found
    assert found.exit_code == 0
    assert state_of(store) == before
    missing = run_command("check-store", "--read-only", "--data-dir", tmp_path / "none", "--listen", "127.0.0.1:0")
    assert "there is no store in" in missing.output
    assert missing.exit_code != 0
