"""The server as a process among others: health, reflection, capabilities, its port, its memory, its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tensorus
from support.servers import ServerProcess, engine_config, running_server
from support.wire import WireError, announced, call_error, insert, insert_message, open_insert
from tensorus_codecs.presets import PRESETS
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server import limits
from tensorus_server.catalogue.sqlite.database import Database
from tensorus_server.config import ServerConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.server import Server
from tensorus_server.rpc.service import SERVICE_NAME

MIB = 1024 * 1024

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def health_of(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status


@pytest.mark.parametrize("service", ["", SERVICE_NAME], ids=["the whole server", "the service"])
def test_health_says_serving(server: Server, service: str) -> None:
    assert health_of(server.address, service) == SERVING


def test_a_store_that_failed_takes_no_writes_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tmp_path / "store") as server, grpc.insecure_channel(server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        insert(stub, [open_insert("d"), insert_message(b"kept", tensor=announced("kept"))])
        server.check()

        def fail(_: Database) -> None:
            raise apsw.IOError("the disk is gone")

        monkeypatch.setattr(Database, "_commit", fail)
        (status,) = insert(stub, [open_insert("d"), insert_message(b"lost", tensor=announced("lost"))])
        assert status.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        monkeypatch.undo()

        with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart"):
            server.check()
        assert health_of(server.address, "") == NOT_SERVING
        with pytest.raises(grpc.RpcError, match="takes no more writes until a restart"):
            insert(stub, [open_insert("d")])
        assert [tensor.id for tensor in stub.ListTensors(pb.ListTensorsRequest(dataset="d")).tensors] == ["kept"]


def test_reflection_knows_the_service_and_the_file_that_the_repository_has(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE_NAME),
            reflection_pb2.ServerReflectionRequest(file_by_filename="google/rpc/status.proto"),
        ]
        listed, described, imported = stub.ServerReflectionInfo(iter(requests), timeout=30)
    assert SERVICE_NAME in [service.name for service in listed.list_services_response.service]
    files = map(FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    assert {"tensorus/v1/tensorus.proto", "google/rpc/status.proto"} <= {file.name for file in files}
    assert imported.file_descriptor_response.file_descriptor_proto


def test_capabilities_announce_what_there_is(stub: TensorServiceStub) -> None:
    found = stub.GetCapabilities(pb.GetCapabilitiesRequest())
    assert found.version == tensorus.__version__
    assert [preset.id for preset in found.presets] == list(PRESETS)
    assert found.default_preset == "lossless"
    assert {codec.id for codec in found.codecs} >= {"fp16", "int8_block", "planes", "gzip", "lz4", "zstd"}
    assert found.limits.payload_bytes == limits.PAYLOAD_BYTES_MAX
    assert 0 not in [value for _, value in found.limits.ListFields()]
    assert len(found.limits.ListFields()) == len(pb.Limits.DESCRIPTOR.fields)
    assert {"get.slices", "explain_policy"} <= set(found.features)


def test_a_port_that_is_taken_is_refused(server: Server, tmp_path: Path) -> None:
    # grpcio would otherwise share the port in silence, and connections with it.
    with pytest.raises(StoreUnavailableError, match=rf"cannot listen on {server.address}: is another server there\?"):
        Server(ServerConfig(engine_config(tmp_path / "other"), listen=server.address))


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:", ":80", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(listen: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        ServerConfig(engine_config(tmp_path), listen=listen)


@pytest.mark.parametrize("preset", ["none", "lossless"])
def test_a_large_tensor_passes_through_in_little_memory(tmp_path: Path, preset: str) -> None:
    values = np.random.default_rng(0).standard_normal(96 * MIB // 4, dtype=np.float32)
    server = ServerProcess(tmp_path / "store")
    try:
        with tensorus.connect(server.address, tune_allocator=False, retry_timeout_s=0) as client:
            client.create_dataset("d", preset=preset)
            process = psutil.Process(server.process.pid)
            before = process.memory_info().rss
            with peak_memory(process) as peak:
                client.insert("d", values, id="t")
                found = client.get("d", "t", as_="numpy")
            assert np.array_equal(found, values)
            assert max(peak) - before < 64 * MIB
        assert server.terminate() == 0
    finally:
        server.process.kill()


class peak_memory:  # noqa: N801 - reads as the function that it is
    """Watch a process's resident memory while the block runs."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stopped = threading.Event()
        self._seen: list[int] = []
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> list[int]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self._seen.append(self._process.memory_info().rss)
            if self._stopped.wait(0.01):
                return


def first_refusal(stub: TensorServiceStub) -> WireError:
    """Call until the server refuses, and return how."""
    while True:
        try:
            stub.ListDatasets(pb.ListDatasetsRequest(), timeout=30)
        except grpc.RpcError as error:
            return call_error(error)


def test_terminate_finishes_what_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    with grpc.insecure_channel(server.address) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        stopping = threading.Event()

        def messages() -> Iterator[pb.InsertRequest]:
            yield open_insert("d")
            yield insert_message(b"abcd", item=0, tensor=announced("before"))
            stopping.wait(30)
            yield insert_message(b"efgh", item=1, tensor=announced("after"))
            yield pb.InsertRequest(finish=True)

        call = stub.Insert(messages(), timeout=60)
        next(response for response in call if response.results)
        server.process.terminate()
        # Once a new call is refused, the server is on its way out; the open stream still has its grace.
        refusal = first_refusal(stub)
        assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "DRAINING")
        stopping.set()
        responses = list(call)
    rest = [result.tensor.id for response in responses for result in response.results]
    (grace,) = [response.draining.grace for response in responses if response.HasField("draining")]
    assert 0 < grace.ToSeconds() <= 30
    server.process.communicate(timeout=60)
    assert (rest, server.process.returncode) == (["after"], 0)
    with tensorus.open(tmp_path / "store") as client:
        assert [info.id for info in client.list("d")] == ["before", "after"]
