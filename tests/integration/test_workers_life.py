"""A server of several processes begins and ends as one of a single process does."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest

import tensorus
from support.client import run_process
from support.interrupted import WAIT_S
from support.servers import ServerProcess
from support.wire import announced, call_error, insert_message
from support.workers import HandInsert, channels, clients, of_each_worker, worker_pids
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

pytestmark = pytest.mark.timeout(120)


def first_refusal(channel: grpc.Channel) -> str:
    """Call until the worker refuses, and return its reason."""
    while True:
        try:
            TensorServiceStub(channel).ListDatasets(pb.ListDatasetsRequest(), timeout=WAIT_S)
        except grpc.RpcError as error:
            return call_error(error).reason


def test_terminate_finishes_what_goes_on_at_every_worker(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", workers=2)
    with of_each_worker(server, channels(server)) as found:
        one, other = found.values()
        TensorServiceStub(one).CreateDataset(pb.CreateDatasetRequest(name="d"), timeout=WAIT_S)
        streams = [HandInsert(channel, "d", f"request-{number}") for number, channel in enumerate((one, other))]
        for number, stream in enumerate(streams):
            stream.opened()
            stream.send(insert_message(b"abcd", item=0, tensor=announced(f"before-{number}")))
            next(response for response in stream.call if response.results)
        server.process.terminate()
        # Once a call is refused, its worker is on its way out; the open stream still has its grace.
        assert [first_refusal(channel) for channel in (one, other)] == ["DRAINING", "DRAINING"]
        for number, stream in enumerate(streams):
            stream.send(insert_message(b"efgh", item=1, tensor=announced(f"after-{number}")))
            (result,) = stream.finish()
            assert result.status.code == 0
    _, said = server.process.communicate(timeout=WAIT_S)
    assert server.process.returncode == 0
    assert "Traceback" not in said
    with tensorus.open(tmp_path / "store") as client:
        assert {info.id for info in client.list("d")} == {"before-0", "before-1", "after-0", "after-1"}
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_second_signal_ends_every_process_at_once(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", workers=2)
    workers = [psutil.Process(pid) for pid in worker_pids(server)]
    with of_each_worker(server, channels(server)) as found:
        channel = next(iter(found.values()))
        TensorServiceStub(channel).CreateDataset(pb.CreateDatasetRequest(name="d"), timeout=WAIT_S)
        # For its sake they would have stayed for half a minute.
        stream = HandInsert(channel, "d", "request")
        stream.opened()
        server.process.terminate()
        next(response for response in stream.call if response.HasField("draining"))
        server.process.terminate()
        server.process.communicate(timeout=WAIT_S / 4)
        _, alive = psutil.wait_procs(workers, timeout=WAIT_S / 4)
    assert (server.process.returncode, alive) == (-15, [])


def test_a_store_that_fails_under_one_worker_ends_the_server(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", workers=2)
    with of_each_worker(server, clients(server)) as found:
        (pid, client), (_, other) = found.items()
        client.create_dataset("d", preset="none")
        client.insert("d", np.arange(3), id="kept")
        # From now on its disk fails: no file can be written to beyond its first byte.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        with pytest.raises(tensorus.errors.UnavailableError):
            client.insert("d", np.arange(3), id="lost")
        assert [info.id for info in other.list("d")] == ["kept"]
    _, said = server.process.communicate(timeout=WAIT_S)
    assert server.process.returncode == 4
    assert "\ntensorus: the catalogue failed and takes no more writes until a restart: " in said
    with tensorus.open(tmp_path / "store") as reopened:
        assert [info.id for info in reopened.list("d")] == ["kept"]


def test_a_store_that_cannot_be_opened_is_told_as_a_single_process_tells_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    command = [sys.executable, "-m", "tensorus", "serve", "--listen", "127.0.0.1:0", "--data-dir"]
    ran = run_process([*command, str(tmp_path / "file" / "store"), "--workers", "2"])
    assert (ran.returncode, ran.stdout) == (4, "")
    assert ran.stderr.count(f"tensorus: cannot open a store in {tmp_path / 'file' / 'store'}: Not a directory\n") == 1
    assert "Traceback" not in ran.stderr
