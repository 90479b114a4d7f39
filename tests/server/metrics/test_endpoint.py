"""The endpoint serves two paths to a few readers at a time, and none for longer than its limit."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator

import pytest

from support.interrupted import wait_until
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.metrics import endpoint as endpoint_module
from tensorus_server.metrics.board import Board
from tensorus_server.metrics.endpoint import Endpoint
from tensorus_server.metrics.exposition import Exposition

HEALTH = {"is_good": True}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(endpoint_module, "_LOOK_S", 0.05)
    exposition = Exposition()
    exposition.add(1, Board())
    endpoint = Endpoint("127.0.0.1:0", exposition)
    endpoint.start(lambda: HEALTH["is_good"])
    yield endpoint
    endpoint.close()
    endpoint.close()


def ask(endpoint: Endpoint, path: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection(endpoint.address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def raw(endpoint: Endpoint) -> socket.socket:
    host, _, port = endpoint.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_metrics_are_there(endpoint: Endpoint) -> None:
    status, text = ask(endpoint, "/metrics")
    assert status == 200
    assert "# HELP tensorus_inserted_bytes_total " in text


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_a_probe_gets_the_health(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, *, healthy: bool, status: int
) -> None:
    monkeypatch.setitem(HEALTH, "is_good", healthy)
    assert ask(endpoint, "/healthz")[0] == status


@pytest.mark.parametrize("path", ["/", "/metrics/", "/../etc/passwd", "/debug", "/-/reload"])
def test_nothing_else_is_there(endpoint: Endpoint, path: str) -> None:
    assert ask(endpoint, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(endpoint: Endpoint, method: str) -> None:
    assert ask(endpoint, "/metrics", method)[0] == 501


def test_a_client_that_sends_its_request_slowly_is_cut_off(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_REQUEST_S", 0.2)
    with raw(endpoint) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\nA: ")
        assert slow.recv(1) == b""


def test_more_clients_than_the_limit_are_closed_and_others_served_later(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = [raw(endpoint) for _ in range(endpoint_module._REQUESTS_MAX)]
    wait_until(lambda: len(endpoint._server._open) == endpoint_module._REQUESTS_MAX)
    with raw(endpoint) as refused:
        assert refused.recv(1) == b""
    monkeypatch.setattr(endpoint_module, "_REQUEST_S", 0.0)
    wait_until(lambda: not endpoint._server._open)
    monkeypatch.setattr(endpoint_module, "_REQUEST_S", 10.0)
    assert ask(endpoint, "/metrics")[0] == 200
    for client in silent:
        client.close()


def test_a_port_that_is_taken_is_an_error_that_names_it(endpoint: Endpoint) -> None:
    with pytest.raises(StoreUnavailableError, match=rf"cannot listen on {endpoint.address} for metrics .*in use"):
        Endpoint(endpoint.address, Exposition())
