"""Strangers who connect and call as much as they can, and clients that go away: others go on, and nothing is left."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tensorus
from support.arrays import random_bits
from support.certificates import server_pair, the_ca, write_tls
from support.http2 import Http2Client
from support.interrupted import wait_until
from support.servers import running_server
from support.wire import announced, insert_message, open_insert
from tensorus.access import Quota
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.access.rights import Grant, Role, Scope
from tensorus_server.processes.server import Server
from tensorus_server.rpc import admission as admission_module
from tensorus_server.rpc import arrivals, open_services

pytestmark = pytest.mark.timeout(120)

STREAMS = 4
THREADS = STREAMS + 16
LARGE = random_bits("uint8", (4 << 20,))
METHOD = "/tensorus.v1.TensorService/"


def token_of(server: Server, name: str, role: Role = Role.ADMIN) -> str:
    access = server._engine.access
    access.add_grant(Grant(f"token:{name}", Scope(role, "*")))
    return access.create_token(name)[1]


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with few threads that asks who calls, and looks for late requests every 50 ms instead of every second."""
    monkeypatch.setattr(admission_module, "_WATCH_S", 0.05)
    with running_server(tmp_path / "store", streams_max=STREAMS, authenticates=True) as server:
        yield server


def never(until: threading.Event) -> Iterator[bytes]:
    until.wait(60)
    yield from ()


@contextmanager
def half_calls(address: str, methods: list[str], *, metadata: Any = ()) -> Iterator[list[Any]]:
    """Begin more calls than the server has threads, and send none of their messages."""
    until = threading.Event()
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        calls = [
            channel.stream_stream(method)(never(until), metadata=metadata)
            for method in methods
            for _ in range(3 * THREADS)
        ]
        try:
            yield calls
        finally:
            until.set()
            for call in calls:
                call.cancel()


class TestHalfCalls:
    """Calls whose headers come, and whose messages do not."""

    @pytest.mark.parametrize(
        "method",
        [
            f"{METHOD}GetDataset",
            f"{METHOD}Get",
            f"{METHOD}Insert",
            f"{METHOD}ExplainPolicy",
            "/tensorus.v1.AccessService/ListTokens",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ],
    )
    def test_those_of_strangers_stop_nobody(
        self, guarded: Server, method: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Also if they never end: some have threads of their own, and the others are refused before.
        monkeypatch.setattr(open_services, "_HEALTH_ARRIVES_S", 600.0)
        monkeypatch.setattr(arrivals, "_ARRIVES_S", 600.0)
        token = token_of(guarded, "one")
        with half_calls(guarded.address, [method]) as calls:
            if "tensorus" in method:
                assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
            with tensorus.connect(guarded.address, token=token, timeout_s=20, retry_timeout_s=0) as client:
                for number in range(5):
                    client.create_dataset(f"d{number}")
                    client.insert(f"d{number}", LARGE, id="t")

    def test_those_of_whom_the_server_knows_end(self, guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(arrivals, "_ARRIVES_S", 0.1)
        metadata = (("authorization", f"Bearer {token_of(guarded, 'one')}"),)
        with half_calls(guarded.address, [f"{METHOD}GetDataset", f"{METHOD}Get"], metadata=metadata) as calls:
            assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
            with tensorus.connect(guarded.address, token=token_of(guarded, "two"), retry_timeout_s=0) as client:
                client.create_dataset("d")
        assert guarded._admission.arrivals._waiting == {}

    def test_health_checks_are_answered_again_at_once(self, guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(open_services, "_HEALTH_ARRIVES_S", 0.1)
        with half_calls(guarded.address, ["/grpc.health.v1.Health/Check"]) as calls:
            assert {call.code() for call in calls} == {grpc.StatusCode.CANCELLED}
            with grpc.insecure_channel(guarded.address) as channel:
                check = health_pb2_grpc.HealthStub(channel).Check
                assert check(health_pb2.HealthCheckRequest(), timeout=20).status == 1

    def test_a_call_without_a_message_is_refused(self, server: Server) -> None:
        with grpc.insecure_channel(server.address) as channel:
            for method in ("GetDataset", "Get"):
                with pytest.raises(grpc.RpcError) as caught:
                    list(channel.stream_stream(METHOD + method)(iter(()), timeout=20))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert "no message" in caught.value.details()


class TestOpenServices:
    """What anybody may call."""

    def test_health_is_checked_and_watched_and_reflection_answers(self, guarded: Server) -> None:
        with grpc.insecure_channel(guarded.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "tensorus.v1.TensorService"):
                assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == 1
                watching = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=20)
                assert next(watching).status == 1
                watching.cancel()
            with pytest.raises(grpc.RpcError) as caught:
                health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=20)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
            (answer,) = reflect(iter(asked), timeout=20)
            assert "tensorus.v1.AccessService" in {found.name for found in answer.list_services_response.service}

    def test_nothing_is_kept_of_services_that_do_not_exist(self, guarded: Server) -> None:
        with grpc.insecure_channel(guarded.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for number in range(20):
                watching = health.Watch(health_pb2.HealthCheckRequest(service=f"{number}" * 1000), timeout=20)
                assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                watching.cancel()
        assert all(len(name) < 100 for name in guarded._health._send_response_callbacks)

    def test_a_message_that_is_none_is_refused(self, guarded: Server) -> None:
        with grpc.insecure_channel(guarded.address) as channel:
            for method in ("Check", "Watch"):
                call: Any = channel.stream_stream(f"/grpc.health.v1.Health/{method}")
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(iter([b"\xff"]), timeout=20))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_one_connection_has_a_limited_number_of_calls(guarded: Server) -> None:
    with Http2Client(guarded.address) as client:
        client.is_open(0.1)
        wait_until(lambda: client.is_open(0.1) and bool(client.settings))
        # SETTINGS_MAX_CONCURRENT_STREAMS; without it there is no limit.
        assert client.settings[3] == 1000


# ---- Connections ---------------------------------------------------------------------------------------------------------


def silent(_: socket.socket) -> None:
    """Connect, and say nothing; with TLS, a handshake that never begins."""


def garbage(opened: socket.socket) -> None:
    opened.sendall(random.Random(0).randbytes(4096))


def http1(opened: socket.socket) -> None:
    opened.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")


def half_handshake(opened: socket.socket) -> None:
    """Send the beginning of a TLS handshake: a record that promises more than comes."""
    opened.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40))


def preface(opened: socket.socket) -> None:
    opened.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
def test_a_flood_of_connections_stops_no_client_that_is_there_and_new_ones_get_in_after_it(
    tmp_path: Path, *, encrypted: bool
) -> None:
    kinds: list[Callable[[socket.socket], None]] = [silent, garbage, http1, half_handshake, preface]
    ca = tmp_path / "ca.pem"
    ca.write_bytes(the_ca().cert)
    settings: dict[str, Any] = {"tls": write_tls(tmp_path / "tls", server_pair())} if encrypted else {}
    with (
        running_server(tmp_path / "store", authenticates=True, connections_max=20, **settings) as server,
        ExitStack() as opened,
    ):
        host, _, port = server.address.rpartition(":")
        options: dict[str, Any] = {"ca": ca} if encrypted else {}
        address = f"{'grpcs' if encrypted else 'grpc'}://{server.address}"
        token = token_of(server, "one")
        client = opened.enter_context(tensorus.connect(address, token=token, retry_timeout_s=0, **options))
        client.create_dataset("d", preset="none")
        with ExitStack() as flood:
            for number in range(100):
                one = flood.enter_context(socket.create_connection((host, int(port)), timeout=10))
                # The server may have closed it already.
                with suppress(OSError):
                    kinds[number % len(kinds)](one)
                if number % 10 == 0:
                    client.insert("d", LARGE[:100_000], id=f"t{number}")
            assert np.array_equal(client.get("d", "t90", as_="numpy"), LARGE[:100_000])
        with tensorus.connect(address, token=token, retry_timeout_s=30, **options) as late:
            assert late.server_status().principal == "token:one"


# ---- Clients that go away, and slow ones ---------------------------------------------------------------------------------


def begin_insert(stub: TensorServiceStub, number: int, metadata: Any) -> Any:
    may_end = threading.Event()

    def messages() -> Iterator[Message]:
        yield open_insert("d", request_id=f"r{number}")
        yield insert_message(bytes(1 << 16), tensor=announced(f"t{number}", [8 << 20]), last=False)
        may_end.wait(60)

    call = stub.Insert(messages(), timeout=60, metadata=metadata)
    call.add_done_callback(lambda _: may_end.set())
    return call


def begin_get(stub: TensorServiceStub, _: int, metadata: Any) -> Any:
    return stub.Get(pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="large")]), timeout=60, metadata=metadata)


def begin_query(stub: TensorServiceStub, _: int, metadata: Any) -> Any:
    return stub.Query(pb.QueryRequest(dataset="d"), timeout=60, metadata=metadata)


def leftovers(server: Server, folder: Path) -> dict[str, int]:
    """Return what is there of calls: places, memory, sessions, waits, quotas, and files on their way in."""
    return {
        "places": len(server._admission._places) + len(server._admission._leaving),
        "memory": server._admission._borrowed_bytes,
        "waits": len(server._admission.arrivals._waiting),
        "sessions": len(server._engine.sessions._holders),
        "files": sum(1 for name in ("tmp", "uploads") for path in (folder / name).rglob("*") if path.is_file()),
    }


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_streams_that_are_cancelled_at_any_point_leave_nothing(tmp_path: Path, count: int) -> None:
    folder, begins, process = tmp_path / "store", (begin_insert, begin_get, begin_query), psutil.Process()
    with running_server(folder, authenticates=True, streams_max=64) as server:
        token = token_of(server, "one")
        metadata = (("authorization", f"Bearer {token}"),)
        with tensorus.connect(server.address, token=token) as client:
            client.create_dataset("d", preset="none")
            client.insert("d", LARGE, id="large")
            client.access.set_quota(Quota("token:one", streams=1000))
        with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(16) as threads:
            stub = TensorServiceStub(channel)

            def cancelled(number: int) -> None:
                call = begins[number % 3](stub, number, metadata)
                # At once, after the first answer, or some time in between.
                if number % 4 == 0:
                    with suppress(grpc.RpcError, StopIteration):
                        next(call)
                elif number % 4 != 1:
                    time.sleep(random.Random(number).random() * 0.02)
                call.cancel()

            def is_quiet() -> bool:
                return not any(leftovers(server, folder).values())

            list(threads.map(cancelled, range(200)))
            wait_until(is_quiet)
            descriptors, tasks = process.num_fds(), threading.active_count()
            list(threads.map(cancelled, range(200, 200 + count)))
            wait_until(is_quiet)
            # The catalogue may open more of its 8 connections meanwhile, of 3 files each, and pools start more threads.
            assert process.num_fds() <= descriptors + 24
            assert threading.active_count() <= tasks + 64
        with tensorus.connect(server.address, token=token) as client:
            assert [info.id for info in client.list("d")] == ["large"]
            assert np.array_equal(client.get("d", "large", as_="numpy"), LARGE)
            (usage,) = client.access.quotas()
            assert usage.streams == 0


def test_slow_readers_and_writers_over_tls_stop_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a quota slows down hold their places, so it also says how many; the others are silent, and give way."""
    monkeypatch.setattr(admission_module, "_GIVE_WAY_S", 0.3)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(the_ca().cert)
    tls = write_tls(tmp_path / "tls", server_pair())
    with (
        running_server(tmp_path / "store", authenticates=True, streams_max=8, tls=tls) as server,
        ExitStack() as opened,
    ):
        address = f"grpcs://{server.address}"
        with tensorus.connect(address, token=token_of(server, "admin"), ca=ca) as admin:
            admin.create_dataset("d", preset="none")
            admin.insert("d", random_bits("uint8", (32 << 20,)), id="large")
            admin.access.set_quota(Quota("token:slow", streams=4, bytes_per_second=100_000))
        secrets = [token_of(server, name) for name in ("slow", "silent")]
        for number in range(16):
            credentials = grpc.ssl_channel_credentials(the_ca().cert)
            options = [("grpc.use_local_subchannel_pool", 1)]
            stub = TensorServiceStub(
                opened.enter_context(grpc.secure_channel(server.address, credentials, options=options))
            )
            metadata = (("authorization", f"Bearer {secrets[number % 2]}"),)
            call = (begin_get, begin_insert)[number // 2 % 2](stub, number, metadata)
            opened.callback(call.cancel)
        healthy = opened.enter_context(
            tensorus.connect(address, token=token_of(server, "healthy"), ca=ca, retry_timeout_s=20)
        )
        healthy.server_status()
        for number in range(4):
            healthy.insert("d", LARGE, id=f"healthy {number}")
            assert np.array_equal(healthy.get("d", f"healthy {number}", as_="numpy"), LARGE)
