"""Which server a call goes to: the first that works, in an order that all clients share."""

from __future__ import annotations

import collections
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.servers import black_hole
from tensorus._grpc import servers as module
from tensorus._grpc.patience import Patience
from tensorus._grpc.servers import Servers, is_servers_fault
from tensorus._grpc.steps import Driver, Pause
from tensorus.errors import TensorusError, UnavailableError

UNAVAILABLE = TensorusError("it broke", reason="UNAVAILABLE")


@pytest.fixture
def listening() -> Iterator[list[str]]:
    """Three addresses that accept connections."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    yield [f"127.0.0.1:{opened.getsockname()[1]}" for opened in sockets]
    for opened in sockets:
        opened.close()


@pytest.fixture
def refusing() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return f"127.0.0.1:{opened.getsockname()[1]}"


def order(servers: Servers, key: str) -> list[str]:
    return [server.target for server in module._in_order(key, servers._servers)]


def key_of_first(servers: Servers, target: str) -> str:
    """Return a key whose first server is this one."""
    return next(key for key in map(str, range(1000)) if order(servers, key)[0] == target)


@given(st.integers(2, 8), st.integers(0, 7))
def test_only_what_a_server_takes_over_moves(count: int, removed: int) -> None:
    names = [f"10.0.0.{number}:7733" for number in range(count)]
    gone = names[removed % count]
    every, fewer = Servers(",".join(names)), Servers(",".join(name for name in names if name != gone) or names[0])
    for key in map(str, range(50)):
        before = order(every, key)
        assert order(fewer, key) == [name for name in before if name != gone]


@pytest.mark.parametrize("count", [2, 3, 8])
def test_keys_are_spread_evenly_and_the_order_of_the_address_does_not_matter(count: int) -> None:
    names = [f"replica-{number}:7733" for number in range(count)]
    servers, turned = Servers(",".join(names)), Servers(",".join(reversed(names)))
    keys = [f"dataset\0layer.{number}.weight" for number in range(4000)]
    firsts = collections.Counter(order(servers, key)[0] for key in keys)
    # Six standard deviations of a binomial distribution.
    expected = len(keys) / count
    assert all(abs(firsts[name] - expected) < 6 * (expected * (1 - 1 / count)) ** 0.5 for name in names)
    assert all(order(servers, key) == order(turned, key) for key in keys[:100])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("127.0.0.1:1", [("127.0.0.1:1", ("127.0.0.1", 1))], id="one"),
        pytest.param(
            "127.0.0.1:1, [::1]:2", [("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:2", ("::1", 2))], id="several"
        ),
        pytest.param("127.0.0.1:1,127.0.0.1:1", [("127.0.0.1:1", ("127.0.0.1", 1))], id="twice"),
        pytest.param("ipv4:127.0.0.1:1,127.0.0.1:2", [("ipv4:127.0.0.1:1,127.0.0.1:2", None)], id="a list of gRPC"),
        pytest.param("unix:/run/x.sock", [("unix:/run/x.sock", None)], id="a socket file"),
        pytest.param("host", [("host", None)], id="no port"),
        pytest.param("dns:///name:7733", [("dns:///name:7733", ("name", 7733))], id="a name for gRPC"),
    ],
)
def test_an_address_names_servers(address: str, expected: list[tuple[str, Any]]) -> None:
    assert [(server.target, server.endpoint) for server in Servers(address)._servers] == expected


@pytest.mark.parametrize("address", ["", ",", "a:1,", "a:1,,b:1", "a:1,\n"])
def test_an_address_without_a_server_is_refused(address: str) -> None:
    with pytest.raises(UnavailableError, match="must be such as 'localhost:7733' or 'a:7733,b:7733'"):
        Servers(address)


def resolving(monkeypatch: pytest.MonkeyPatch, *found: str) -> list[str]:
    """Let names resolve to these addresses; return what is asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        kinds = [socket.AF_INET6 if ":" in ip else socket.AF_INET for ip in found]
        return [(kind, 1, 6, "", (ip, port)) for kind, ip in zip(kinds, found, strict=True)]

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(["10.0.0.1"], [("name:7733", None)], id="of one address"),
        pytest.param(["::1", "127.0.0.1"], [("name:7733", None)], id="of one of each kind"),
        pytest.param(
            ["10.0.0.1", "10.0.0.2", "10.0.0.1"],
            [("10.0.0.1:7733", "name:7733"), ("10.0.0.2:7733", "name:7733")],
            id="of two",
        ),
        pytest.param(
            ["::1", "10.0.0.1", "::2", "10.0.0.2"],
            [("10.0.0.1:7733", "name:7733"), ("10.0.0.2:7733", "name:7733")],
            id="of two of each kind",
        ),
        pytest.param(
            ["10.0.0.1", "::1", "::2"],
            [("[::1]:7733", "name:7733"), ("[::2]:7733", "name:7733")],
            id="of more of the second kind",
        ),
    ],
)
def test_a_name_is_all_its_servers(
    monkeypatch: pytest.MonkeyPatch, found: list[str], expected: list[tuple[str, str | None]]
) -> None:
    for address in ("name:7733", "dns:///name:7733"):
        asked = resolving(monkeypatch, *found)
        servers = Servers(address)
        assert asked == []
        assert servers.pick_at_once("key") is None
        servers._resolve()
        servers._resolve()
        assert asked == ["name"]
        if expected == [("name:7733", None)]:
            assert [server.target for server in servers._servers] == [address]
        else:
            assert [(server.target, server.authority) for server in servers._servers] == expected


def test_a_name_is_resolved_again_after_a_failure_but_not_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, "127.0.0.1", "127.0.0.2")
    servers = Servers("name:1")
    servers._resolve()
    first, second = servers._servers
    servers.failed(first, UNAVAILABLE)
    servers._resolve()
    assert len(asked) == 1
    servers._resolved_s = time.monotonic() - 11.0
    resolving(monkeypatch, "127.0.0.2", "127.0.0.3")
    servers.failed(first, UNAVAILABLE)
    servers._resolve()
    assert [server.target for server in servers._servers] == ["127.0.0.2:1", "127.0.0.3:1"]
    # What is known of a server that stays is kept.
    assert servers._servers[0] is second


def test_a_name_that_cannot_be_resolved_is_left_to_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(module.socket, "getaddrinfo", fails)
    assert Servers("name:7733").pick("key").target == "name:7733"


def test_a_name_server_that_does_not_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(module, "_RESOLVE_S", 0.05)
    monkeypatch.setattr(module.socket, "getaddrinfo", lambda *_, **__: answered.wait(30) and [])
    assert Servers("name:7733").pick("key").target == "name:7733"
    answered.set()


def test_the_first_in_the_order_is_taken(listening: list[str]) -> None:
    servers = Servers(",".join(listening))
    for key in map(str, range(20)):
        assert servers.pick(key).target == order(servers, key)[0]
    assert servers.pick_at_once("key") is servers.pick("key")


def test_one_that_refuses_is_passed_over_and_left(listening: list[str], refusing: str) -> None:
    servers = Servers(f"{refusing},{listening[0]}")
    key = key_of_first(servers, refusing)
    assert servers.pick(key).target == listening[0]
    left = next(server for server in servers._servers if server.target == refusing)
    assert (left.failures, left.is_up) == (1, False)
    left.left_until_s = time.monotonic() + 60
    for _ in range(10):
        assert servers.pick(key).target == listening[0]
    assert left.failures == 1


def test_one_that_never_answers_costs_one_wait(listening: list[str]) -> None:
    with black_hole() as silent:
        servers = Servers(f"{silent},{listening[0]}")
        key = key_of_first(servers, silent)
        began_s = time.monotonic()
        assert servers.pick(key).target == listening[0]
        # Not the two minutes of TCP, nor the 20 s of gRPC.
        assert time.monotonic() - began_s < 10
        left = next(server for server in servers._servers if server.target == silent)
        # Its time has come again, but a thread looks, and nobody waits.
        left.left_until_s = 0.0
        assert servers.pick_at_once(key) is not None
        assert left.is_probed


def test_one_that_works_again_takes_its_calls_back(listening: list[str]) -> None:
    servers = Servers(",".join(listening))
    first = servers.pick("key")
    servers.failed(first, UNAVAILABLE)
    second = servers.pick("key")
    assert second is not first
    assert second.target == order(servers, "key")[1]
    first.left_until_s = 0.0
    give_up_s = time.monotonic() + 30
    while servers.pick("key") is not first:
        assert time.monotonic() < give_up_s
    # It only took a connection.
    assert first.failures == 1
    servers.answered(first, 0)
    assert first.failures == 1
    servers.answered(first, 1)
    assert first.failures == 0


def test_it_is_left_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.random, "uniform", lambda _, high: high)
    servers = Servers("127.0.0.1:1,127.0.0.1:2")
    server = servers._servers[0]
    waits_s = []
    for _ in range(9):
        servers.failed(server, UNAVAILABLE)
        waits_s.append(round(server.left_until_s - time.monotonic(), 1))
    assert waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_if_none_works_all_are_named(refusing: str) -> None:
    other = refusing.replace("127.0.0.1", "127.0.0.2")
    servers = Servers(f"{refusing},{other}")
    for _ in range(2):
        with pytest.raises(UnavailableError) as caught:
            servers.pick("key")
        assert f"no server can be reached: {refusing} (Connection refused), {other} (Connection refused)" in str(
            caught.value
        )
    assert servers.pick_at_once("key") is None


def test_if_none_works_the_first_to_come_back_is_found_at_once(refusing: str) -> None:
    other = refusing.replace("127.0.0.1", "127.0.0.2")
    servers = Servers(f"{refusing},{other}")
    with pytest.raises(UnavailableError):
        servers.pick("key")
    for server in servers._servers:
        server.left_until_s = time.monotonic() + 60
    host, port = other.split(":")
    with socket.create_server((host, int(port))):
        assert servers.pick("key").target == other


def test_a_thread_that_cannot_be_started_is_a_server_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread:
        def __init__(self, **_: Any) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    servers = Servers("127.0.0.1:1,127.0.0.1:2")
    monkeypatch.setattr(module.threading, "Thread", NoThread)
    with pytest.raises(UnavailableError, match="can't start new thread"):
        servers.pick("key")


@pytest.mark.parametrize(
    ("reason", "facts", "expected"),
    [
        pytest.param("UNAVAILABLE", {}, True, id="away"),
        pytest.param("DEADLINE_EXCEEDED", {}, True, id="too slow"),
        pytest.param("DRAINING", {}, True, id="draining"),
        pytest.param("STORE_UNAVAILABLE", {}, True, id="without its store"),
        pytest.param("INTERNAL", {}, True, id="a broken connection"),
        pytest.param("INTERNAL", {"number": "7"}, False, id="an error of its own"),
        pytest.param("STORE_BUSY", {}, False, id="busy"),
        pytest.param("TOO_MANY_STREAMS", {}, False, id="overloaded"),
        pytest.param("STREAM_STALLED", {}, False, id="stalled"),
        pytest.param("TENSOR_NOT_FOUND", {}, False, id="not there"),
    ],
)
def test_some_errors_are_the_servers_fault(reason: str, facts: dict[str, str], expected: bool) -> None:  # noqa: FBT001
    error = TensorusError("it broke", reason=reason, facts=facts)
    assert is_servers_fault(error) == expected
    servers = Servers("127.0.0.1:1,127.0.0.1:2")
    servers.failed(servers._servers[0], error)
    assert servers._servers[0].failures == expected


def test_a_forked_child_knows_nothing_of_the_servers(listening: list[str]) -> None:
    servers = Servers(",".join(listening))
    servers.pick("key")
    servers._changed.acquire()
    servers._servers[0].is_probed = True
    servers.after_fork()
    assert not any(server.is_up or server.is_probed for server in servers._servers)
    assert servers.pick("key").target == order(servers, "key")[0]


# ---- When the next server is asked --------------------------------------------------------------------------------------


class OfSeveral:
    """A client of three servers."""

    def __init__(self, *, heard: bool) -> None:
        self.servers = Servers("127.0.0.1:1,127.0.0.1:2,127.0.0.1:3")
        self.heard = heard
        self.closed = False


def driver(*, heard: bool = True) -> Driver[OfSeveral, None, None]:
    found = Driver[OfSeveral, None, None](OfSeveral(heard=heard), (step for step in ()))
    found.patience = Patience(60.0, lambda _: None)
    return found


def test_each_server_is_asked_once_without_a_wait_at_each_place() -> None:
    call = driver()
    at_start = [call._wait_s(Pause(UNAVAILABLE, (0,))) > 0 for _ in range(4)]
    further = [call._wait_s(Pause(UNAVAILABLE, (1,))) > 0 for _ in range(3)]
    back = call._wait_s(Pause(UNAVAILABLE, (0,))) > 0
    assert (at_start, further, back) == ([False, False, True, True], [False, False, True], True)
    assert call.patience.interruptions == 8


def test_what_another_server_cannot_do_better_is_waited_for() -> None:
    assert driver()._wait_s(Pause(TensorusError("busy", reason="STORE_BUSY"), (0,))) > 0


def test_until_a_server_has_answered_each_is_asked_once() -> None:
    call = driver(heard=False)
    assert [call._wait_s(Pause(UNAVAILABLE, (0,))) for _ in range(2)] == [0.0, 0.0]
    with pytest.raises(TensorusError) as caught:
        call._wait_s(Pause(UNAVAILABLE, (0,)))
    assert caught.value is UNAVAILABLE
