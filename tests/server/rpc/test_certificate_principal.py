"""The principal of a client's certificate, as a handler finds it behind a real handshake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from cryptography import x509

from support.certificates import Pair, make_ca, secure_channel, server_pair, signed
from tensorus_server.rpc.certificate_principal import certificate_principal

URI = x509.UniformResourceIdentifier("spiffe://example/trainer")
DNS = x509.DNSName("gpu-17.example")


@dataclass(frozen=True)
class Asked:
    """A server that answers with the principal of whoever asks, encoded; nothing if there is none."""

    address: str
    ca: Pair

    def principal(self, client: Pair | None) -> str | None:
        with secure_channel(self.address, self.ca, client) as channel:
            found: bytes = channel.unary_unary("/test/Who")(b"", timeout=20)
        return found.decode() or None


@pytest.fixture(scope="module")
def asked() -> Iterator[Asked]:
    ca = make_ca()
    pair = server_pair(ca)
    yield from serving(ca, grpc.ssl_server_credentials([(pair.key, pair.cert)], ca.cert, require_client_auth=True))


@pytest.fixture(scope="module")
def without_client_ca() -> Iterator[Asked]:
    ca = make_ca()
    pair = server_pair(ca)
    yield from serving(ca, grpc.ssl_server_credentials([(pair.key, pair.cert)]))


def serving(ca: Pair, credentials: grpc.ServerCredentials) -> Iterator[Asked]:
    def who(_: bytes, context: grpc.ServicerContext) -> bytes:
        return (certificate_principal(context) or "").encode()

    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        handlers = {"Who": grpc.unary_unary_rpc_method_handler(who)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield Asked(f"127.0.0.1:{port}", ca)
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("common_names", "others", "expected"),
    [
        pytest.param(["gpu-17"], [], "cert:gpu-17", id="common name"),
        pytest.param(["gpu-17"], [URI, DNS], "cert:gpu-17", id="common name first"),
        pytest.param(["Zoë Ångström"], [], "cert:Zoë Ångström", id="letters of any language"),
        pytest.param([], [DNS, URI], "cert:spiffe://example/trainer", id="URI before DNS name"),
        pytest.param([], [DNS], "cert:gpu-17.example", id="DNS name"),
        pytest.param(
            [], [x509.UniformResourceIdentifier("x:" + "a" * 126)], "cert:x:" + "a" * 126, id="128 characters"
        ),
        pytest.param([], [x509.UniformResourceIdentifier("x:" + "a" * 127), DNS], None, id="129 characters"),
        pytest.param([], [x509.RFC822Name("a@example.org")], None, id="an e-mail address alone"),
        pytest.param([], [], None, id="no name"),
        pytest.param(["admin\0.example"], [DNS], None, id="NUL"),
        pytest.param(["a\nb"], [DNS], None, id="line feed"),
        pytest.param(["a\x1b[2Jb"], [], None, id="escape"),
        pytest.param(["nimda\u202e"], [], None, id="right to left"),
        pytest.param([" admin"], [], None, id="space in front"),
        pytest.param(["admin "], [], None, id="space behind"),
        pytest.param(["user", "admin"], [DNS], None, id="two common names"),
    ],
)
def test_it_is_the_common_name_or_the_first_alternative_one(
    asked: Asked, common_names: Sequence[str], others: Sequence[x509.GeneralName], expected: str | None
) -> None:
    assert asked.principal(signed(*common_names, by=asked.ca, names=others)) == expected


def test_a_certificate_that_nobody_checked_is_no_principal(without_client_ca: Asked) -> None:
    assert without_client_ca.principal(signed("admin", by=without_client_ca.ca)) is None
    assert without_client_ca.principal(None) is None
