"""Fixtures that several files share: of the command line, of transfers that are interrupted, of bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorus
from support.interrupted import KIB, PRESETS
from support.marks import mark_tensors
from support.proxy import FaultProxy
from support.wire import KEPT, announced, insert, insert_message, open_insert, read_all
from tensorus._grpc import insert_stream
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.processes.server import Server


@pytest.fixture
def place(server: Server) -> list[str]:
    """The options that name the shared server to a command."""
    return ["--server", server.address]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run."""
    made = tmp_path / "files"
    made.mkdir()
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark tensors of a megabyte as if they were large."""
    mark_tensors(monkeypatch, above_bytes=256 * KIB, every_bytes=128 * KIB)
    monkeypatch.setattr(insert_stream, "_KEPT_BYTES_MIN", 256 * KIB)
    monkeypatch.setattr(insert_stream, "_BLOCK_BYTES", 64 * KIB)


@pytest.fixture
def proxy(fresh_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(fresh_server.address) as running:
        yield running


@pytest.fixture
def direct(fresh_server: Server) -> Iterator[tensorus.Client]:
    """A client that nothing comes between, with a dataset for each preset."""
    with tensorus.connect(fresh_server.address, retry_timeout_s=0) as client:
        for preset in PRESETS:
            client.create_dataset(preset, policy=tensorus.Policy(preset=preset, chunk_bytes=64 * KIB))
        yield client


@pytest.fixture
def kept(stub: TensorServiceStub, dataset: str) -> Iterator[str]:
    """A dataset with one tensor, which must be all that is in it when the test is over, and must still be readable."""
    stub.CreateDataset(pb.CreateDatasetRequest(name=dataset, policy=pb.StoragePolicy(preset="lossless")))
    insert(stub, [open_insert(dataset), insert_message(KEPT, item=0, tensor=announced("kept", [100]))])
    yield dataset
    listed = stub.ListTensors(pb.ListTensorsRequest(dataset=dataset))
    assert [tensor.id for tensor in listed.tensors] == ["kept"]
    assert read_all(stub, dataset, "kept") == KEPT
