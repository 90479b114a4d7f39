"""A server whose store fails says so and ends; one that hangs still stops."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tensorus
from support.servers import running_server
from tensorus import errors
from tensorus_server.engine.insert.committer import Committer
from tensorus_server.errors import StoreUnavailableError

LARGE = np.arange(200_000, dtype=np.int64)

_SERVE = """
import os, runpy, sys, threading
from pathlib import Path
from tensorus_server.processes import server
from tensorus_server.chunk_store.files import Files
from tensorus_server.engine.insert.committer import Committer
folder, fault = Path(sys.argv[1]), sys.argv[2]
server._ENDING_S = 0.3
if fault == "the committer ends":
    next_group = Committer._next_group
    def fail(committer):
        if (folder / "fail").exists():
            raise RuntimeError("injected")
        return next_group(committer)
    Committer._next_group = fail
if fault == "the disk hangs":
    sync_data = Files.sync_data
    def hang(files, descriptor):
        if not (folder / "fail").exists():
            return sync_data(files, descriptor)
        (folder / "hangs").touch()
        threading.Event().wait()
    Files.sync_data = hang
sys.argv = ["tensorus", "serve", "--reserve-bytes", "0", "--grace", "0.2", "--listen", "127.0.0.1:0"]
sys.argv += ["--data-dir", str(folder / "store")]
runpy.run_module("tensorus", run_name="__main__", alter_sys=True)
"""


@contextmanager
def serving(folder: Path, fault: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server with a fault in a process of its own; yield it and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder), fault], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r" on (\S+),", line)
        assert found is not None, (line, process.poll())
        yield process, found.group(1)
    finally:
        process.kill()
        process.communicate()


def health_of(address: str) -> health_pb2.HealthCheckResponse.ServingStatus:
    with grpc.insecure_channel(address) as channel:
        return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status


def test_a_committer_that_ends_turns_health_and_fails_inserts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next_group, broken = Committer._next_group, list[Committer]()

    def fail(committer: Committer) -> object:
        # Other tests' servers are in this process, too.
        if committer in broken:
            raise RuntimeError("injected")
        return next_group(committer)

    monkeypatch.setattr(Committer, "_next_group", fail)
    with running_server(tmp_path / "store") as server, tensorus.connect(server.address, retry_timeout_s=0.0) as client:
        client.create_dataset("d", preset="none")
        client.insert("d", LARGE, id="acknowledged")
        server.check()
        assert health_of(server.address) == health_pb2.HealthCheckResponse.SERVING
        broken.append(server._engine._committer)
        with pytest.raises(StoreUnavailableError, match="the committer ended with RuntimeError"):
            server.watch(threading.Event())
        assert health_of(server.address) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(errors.UnavailableError, match="takes no more writes until a restart") as caught:
            client.insert("d", LARGE, id="late")
        assert caught.value.reason == "STORE_UNAVAILABLE"
        assert np.array_equal(client.get("d", "acknowledged", as_="numpy"), LARGE)


def test_a_server_whose_committer_ends_exits_with_code_4_and_its_cause_in_the_log(tmp_path: Path) -> None:
    with serving(tmp_path, "the committer ends") as (process, address):
        with tensorus.connect(address) as client:
            client.create_dataset("d", preset="none")
            client.insert("d", LARGE, id="acknowledged")
        (tmp_path / "fail").touch()
        _, log = process.communicate(timeout=60)
    assert process.returncode == 4
    assert log.count("RuntimeError: injected") == 1
    assert "the store has failed and takes no more writes until a restart: the committer ended with RuntimeError" in log
    with running_server(tmp_path / "store") as server, tensorus.connect(server.address) as client:
        assert np.array_equal(client.get("d", "acknowledged", as_="numpy"), LARGE)


def test_a_server_whose_disk_hangs_still_ends_at_sigterm(tmp_path: Path) -> None:
    failed: list[Exception] = []
    with (
        serving(tmp_path, "the disk hangs") as (process, address),
        tensorus.connect(address, retry_timeout_s=0.0) as client,
    ):
        client.create_dataset("d", preset="none")
        (tmp_path / "fail").touch()

        def insert() -> None:
            try:
                client.insert("d", LARGE, id="t")
            except errors.TensorusError as error:
                failed.append(error)

        inserting = threading.Thread(target=insert)
        inserting.start()
        while not (tmp_path / "hangs").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
        _, log = process.communicate(timeout=60)
        inserting.join(60)
    assert process.returncode == 4
    assert len(failed) == 1
    # The stack of what hangs.
    assert "has not ended after" in log
    assert "in hang" in log
