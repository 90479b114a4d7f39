"""The start-up rule: no network reaches a server without TLS and authentication unless somebody says so."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from support.cases import each
from tensorus_server.config import EngineConfig, ServerConfig, TlsConfig
from tensorus_server.processes import exposure
from tensorus_server.processes.exposure import is_loopback, refusal_to_start, settled

OPEN = "0.0.0.0:7733"
LOCAL = "127.0.0.1:7733"


FILES = TlsConfig(Path("cert.pem"), Path("key.pem"))


def config_of(listen: str, *, tls: bool, authenticates: bool | None, insecure: bool = False) -> ServerConfig:
    return ServerConfig(
        EngineConfig(Path("data")),
        listen=listen,
        tls=FILES if tls else None,
        authenticates=authenticates,
        insecure=insecure,
    )


@each(
    ("listen", "insecure", "asked", "expected"),
    [
        (LOCAL, False, None, False),
        (LOCAL, False, True, True),
        (LOCAL, True, None, False),
        (OPEN, False, None, True),
        (OPEN, False, False, False),
        (OPEN, True, None, False),
        (OPEN, True, True, True),
    ],
)
def test_callers_are_asked_on_networks_unless_somebody_decides(
    listen: str, *, asked: bool | None, insecure: bool, expected: bool
) -> None:
    config = config_of(listen, tls=False, authenticates=asked, insecure=insecure)
    assert settled(config).authenticates is expected


def test_a_client_certificate_counts_as_authentication() -> None:
    config = config_of(OPEN, tls=True, authenticates=False)
    assert refusal_to_start(config) is not None
    assert refusal_to_start(replace(config, tls=replace(FILES, client_ca=Path("ca.pem")))) is None


@each(
    ("listen", "tls", "authenticates", "insecure", "lacks"),
    [
        (LOCAL, False, False, False, None),
        (LOCAL, True, False, False, None),
        (LOCAL, False, True, False, None),
        ("[::1]:7733", False, False, False, None),
        ("localhost:7733", False, False, False, None),
        (OPEN, False, False, False, "TLS and authentication"),
        (OPEN, True, False, False, "authentication"),
        (OPEN, False, True, False, "TLS"),
        (OPEN, True, True, False, None),
        (OPEN, False, False, True, None),
        (OPEN, True, False, True, None),
        (OPEN, False, True, True, None),
        (OPEN, True, True, True, None),
        ("[::]:7733", False, False, False, "TLS and authentication"),
        ("10.0.0.1:7733", True, False, False, "authentication"),
        ("gpu-17.example:7733", False, True, False, "TLS"),
    ],
)
def test_off_loopback_a_server_has_both_or_is_told_that_it_is_open(
    listen: str, lacks: str | None, *, tls: bool, authenticates: bool, insecure: bool
) -> None:
    found = refusal_to_start(config_of(listen, tls=tls, authenticates=authenticates, insecure=insecure))
    assert (found is None) == (lacks is None)
    if found is not None:
        assert found.startswith(f"listening on {listen} without {lacks} exposes the store: ")
        assert ("--tls-cert" in found) == (not tls)
        assert ("--no-auth" in found) == (not authenticates)
        assert "--insecure" in found


@each(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.255.3.4", True),
        ("127.1", True),
        ("0x7f000001", True),
        ("::1", True),
        ("[::1]", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("0", False),
        ("::", False),
        ("[::]", False),
        ("::ffff:0.0.0.0", False),
        ("128.0.0.1", False),
        ("192.168.1.1", False),
        ("fe80::1", False),
        ("", False),
        ("*", False),
        ("127.0.0.1.example", False),
        ("no such host", False),
        ("x" * 300, False),
        ("ä" * 70, False),
    ],
)
def test_any_spelling_of_a_loopback_address_is_loopback_and_nothing_else(host: str, *, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.mark.parametrize(
    ("addresses", "expected"), [(["127.0.0.1", "::1"], True), (["127.0.0.1", "10.0.0.1"], False), ([], False)]
)
def test_localhost_is_loopback_if_all_its_addresses_are(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], *, expected: bool
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(exposure.socket, "getaddrinfo", lambda *_, **__: found)
    assert is_loopback("LocalHost") is expected


def test_no_other_name_is_loopback_whatever_it_resolves_to(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, *args: object, flags: int = 0, **kwargs: object) -> object:
        return real(host if flags & socket.AI_NUMERICHOST else "127.0.0.1", *args, flags=flags, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(exposure.socket, "getaddrinfo", resolve)
    assert not is_loopback("gpu-17.example")
