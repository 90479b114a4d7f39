"""Connections: pings in both directions, idle ones, and more of them than there are descriptors."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

import tensorus
from support.arrays import random_bits
from support.http2 import Http2Client
from support.interrupted import wait_until
from support.servers import ServerProcess, running_server
from tensorus_server.processes import descriptors
from tensorus_server.processes import server as server_module
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.timeout(120)

LARGE = random_bits("uint8", (4 << 20,))


@contextmanager
def server_with(folder: Path, channel_options: dict[str, int], **settings: float) -> Iterator[Server]:
    """A server some of whose channel options are others."""
    options = tuple({**dict(server_module._CHANNEL_OPTIONS), **channel_options}.items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_module, "_CHANNEL_OPTIONS", options)
        with running_server(folder, **settings) as server:
            yield server


def test_a_client_may_ping_as_often_as_it_is_told(tmp_path: Path) -> None:
    # A fiftieth of the times of a server as it is: pings every 0.2 s instead of 10 s, where 0.1 s are allowed instead of 5 s.
    with server_with(tmp_path / "store", {"grpc.http2.min_ping_interval_without_data_ms": 100}) as server:
        with Http2Client(server.address) as client:
            for _ in range(6):
                client.ping()
                assert client.is_open(0.2), client.farewell
        # The control: one that pings without end is sent away.
        with Http2Client(server.address) as client:
            client.ping(15)
            assert not client.is_open(5)
            assert client.farewell == b"too_many_pings"


def test_the_server_allows_a_ping_every_ten_seconds() -> None:
    options = dict(server_module._CHANNEL_OPTIONS)
    # Twice as often, since pings may arrive closer together than they were sent.
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 5_000
    assert options["grpc.keepalive_permit_without_calls"] == 1


QUICK_TIMEOUTS = {"grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 500}


def test_a_peer_that_does_not_answer_pings_is_disconnected_and_one_that_does_stays(tmp_path: Path) -> None:
    with (
        server_with(tmp_path / "store", QUICK_TIMEOUTS, keepalive_s=0.5) as server,
        Http2Client(server.address, answers_pings=False) as dead,
        Http2Client(server.address) as alive,
    ):
        while dead.is_open(0.05):
            assert alive.is_open(0.05)
        assert alive.is_open(1)
        assert min(dead.pings, alive.pings) >= 1


def test_a_connection_that_never_speaks_http2_is_closed(tmp_path: Path) -> None:
    with server_with(tmp_path / "store", {"grpc.server_handshake_timeout_ms": 300}) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=10) as silent:
            while silent.recv(1000):
                pass


def test_a_connection_without_calls_is_closed_and_its_client_does_not_notice(tmp_path: Path) -> None:
    with server_with(tmp_path / "store", {"grpc.max_connection_idle_ms": 300}) as server:
        with Http2Client(server.address) as idle:
            assert not idle.is_open(10)
        with tensorus.connect(server.address, retry_timeout_s=0) as client:
            for _ in range(2):
                assert client.datasets() == []
                time.sleep(0.6)


@contextmanager
def idle_sockets(address: str, count: int) -> Iterator[None]:
    """Be connected so often, and say nothing."""
    host, _, port = address.rpartition(":")
    with ExitStack() as opened:
        for _ in range(count):
            opened.enter_context(socket.create_connection((host, int(port)), timeout=10))
        yield


def test_connections_leave_descriptors_for_files(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", descriptors_max=200)
    try:
        with tensorus.connect(server.address) as client:
            client.create_dataset("d", preset="none")
            with idle_sockets(server.address, 400):
                for number in range(5):
                    client.insert("d", LARGE, id=f"t{number}")
                    assert np.array_equal(client.get("d", f"t{number}", as_="numpy"), LARGE)
                assert psutil.Process(server.process.pid).num_fds() < 150
    finally:
        assert server.terminate() == 0


def test_connections_beyond_their_number_are_closed_and_the_others_go_on(tmp_path: Path) -> None:
    with running_server(tmp_path / "store", connections_max=2) as server, ExitStack() as opened:
        clients = [opened.enter_context(tensorus.connect(server.address, retry_timeout_s=0)) for _ in range(2)]
        for client in clients:
            client.datasets()
        with tensorus.connect(server.address, retry_timeout_s=0, timeout_s=5) as third:
            with pytest.raises(tensorus.errors.UnavailableError):
                third.datasets()
            clients[0].close()
            clients[1].datasets()

            def has_room() -> bool:
                try:
                    return third.datasets() == []
                except tensorus.errors.UnavailableError:
                    return False

            wait_until(has_room)


def test_a_server_raises_its_soft_limit(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(hard, soft, 1024)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        server = ServerProcess(tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        found, _ = psutil.Process(server.process.pid).rlimit(resource.RLIMIT_NOFILE)
    finally:
        server.terminate()
    assert found == min(hard if hard != resource.RLIM_INFINITY else descriptors._WANTED, descriptors._WANTED)


@pytest.mark.parametrize("kind", ["info", "get", "slice", "get_many", "list", "broken off", "insert"])
def test_a_client_that_is_closed_leaves_no_connection(fresh_server: Server, kind: str) -> None:
    port = int(fresh_server.address.rpartition(":")[2])

    def connections() -> int:
        found = psutil.Process().net_connections(kind="tcp")
        return sum(one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED for one in found)

    with tensorus.connect(fresh_server.address) as client:
        client.create_dataset("d", preset="none")
        client.insert_many("d", [(name, LARGE) for name in "abc"])
        if kind == "info":
            client.info("d", "a")
        elif kind == "get":
            client.get("d", "a")
        elif kind == "slice":
            client.get("d", "a", index=slice(10))
        elif kind == "get_many":
            assert len(list(client.get_many("d", list("abc")))) == 3
        elif kind == "list":
            assert len(list(client.list("d"))) == 3
        elif kind == "broken off":
            records = client.get_many("d", list("abc"))
            next(records)
            records.close()
        assert connections() > 0
    # Nothing waits for a garbage collection, either.
    wait_until(lambda: connections() == 0)
