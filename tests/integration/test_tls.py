"""A server with TLS: who can connect, what changes while it runs, and what it says of the rest."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from support.certificates import Pair, make_ca, secure_channel, server_pair, signed, the_ca, write_tls
from support.client import run_command
from support.interrupted import wait_until
from support.servers import ServerProcess, running_server
from support.wire import announced, bytes_of, insert, insert_message, open_insert, read_all
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.config import TlsConfig
from tensorus_server.processes.server import Server


def health(channel: grpc.Channel) -> int:
    with channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
    return int(answer.status)


def refused(channel: grpc.Channel) -> bool:
    """Return whether no call reaches the server."""
    with pytest.raises(grpc.RpcError) as caught:
        health(channel)
    return caught.value.code() is grpc.StatusCode.UNAVAILABLE


def options_of(tls: TlsConfig) -> list[str]:
    found = ["--tls-cert", str(tls.cert), "--tls-key", str(tls.key)]
    return found if tls.client_ca is None else [*found, "--tls-client-ca", str(tls.client_ca)]


def messages_of(data: bytes, *, halfway: Callable[[], None] = lambda: None) -> Iterator[pb.InsertRequest]:
    """Yield an insert of one tensor, 1 MiB in each message, and do something when half of it is sent."""
    yield open_insert("d")
    size = 1 << 20
    for start in range(0, len(data), size):
        if start == len(data) // (2 * size) * size:
            halfway()
        tensor = announced("t", [len(data)]) if start == 0 else None
        last = start + size >= len(data)
        yield insert_message(data[start : start + size], offset=start, last=last, tensor=tensor)


def shown_serial(address: str, ca: Pair) -> int:
    """Return the serial number of the certificate that a server shows at a new handshake."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=ca.cert.decode())
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        der = secured.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
def tls(tmp_path: Path) -> TlsConfig:
    return write_tls(tmp_path / "tls", server_pair())


@pytest.fixture
def secured(tmp_path: Path, tls: TlsConfig) -> Iterator[Server]:
    """A server that asks nobody for a certificate."""
    with running_server(tmp_path / "store", tls=tls) as running:
        yield running


@pytest.fixture
def mutual(tmp_path: Path) -> Iterator[Server]:
    """A server that lets in whom `the_ca` knows."""
    with running_server(
        tmp_path / "store", tls=write_tls(tmp_path / "tls", server_pair(), client_ca=the_ca().cert)
    ) as running:
        yield running


def test_everything_works_over_tls(secured: Server) -> None:
    data = bytes_of(3 << 20)
    assert health(secure_channel(secured.address, the_ca())) == health_pb2.HealthCheckResponse.SERVING
    with secure_channel(secured.address, the_ca()) as channel:
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d"))
        (status,) = insert(stub, messages_of(data))
        assert status.status.code == 0
        assert read_all(stub, "d", "t") == data
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter(asked))
        assert "tensorus.v1.TensorService" in [found.name for found in answer.list_services_response.service]


def test_a_client_that_speaks_no_tls_and_one_that_does_not_trust_the_server_are_refused(secured: Server) -> None:
    assert refused(grpc.insecure_channel(secured.address))
    assert refused(secure_channel(secured.address, make_ca()))
    assert health(secure_channel(secured.address, the_ca())) == health_pb2.HealthCheckResponse.SERVING


def test_a_client_that_speaks_tls_is_refused_by_a_server_without(server: Server) -> None:
    assert refused(secure_channel(server.address, the_ca()))


def test_older_versions_of_tls_are_refused(secured: Server) -> None:
    host, _, port = secured.address.rpartition(":")
    context = ssl.create_default_context(cadata=the_ca().cert.decode())
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), timeout=20) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="localhost")


def test_with_a_client_ca_only_its_clients_are_let_in(mutual: Server) -> None:
    ca = the_ca()
    assert refused(secure_channel(mutual.address, ca))
    assert refused(secure_channel(mutual.address, ca, signed("gpu-17", by=make_ca())))
    assert refused(secure_channel(mutual.address, ca, signed("gpu-17")))
    assert refused(secure_channel(mutual.address, ca, signed("gpu-17", by=ca, lasts=timedelta(days=-1))))
    assert refused(grpc.insecure_channel(mutual.address))
    assert health(secure_channel(mutual.address, ca, signed("gpu-17", by=ca))) == health_pb2.HealthCheckResponse.SERVING


def test_a_new_certificate_is_shown_at_the_next_handshake_while_streams_go_on(tmp_path: Path, tls: TlsConfig) -> None:
    data = bytes_of(64 << 20)
    rotations = []

    def rotate() -> None:
        new = server_pair()
        write_tls(tls.cert.parent, new)
        wait_until(lambda: shown_serial(server.address, the_ca()) == new.serial)
        rotations.append(new.serial)

    with (
        running_server(tmp_path / "store", tls=tls) as server,
        secure_channel(server.address, the_ca()) as channel,
    ):
        stub = TensorServiceStub(channel)
        stub.CreateDataset(pb.CreateDatasetRequest(name="d", policy=pb.StoragePolicy(preset="none")))
        (status,) = insert(stub, messages_of(data, halfway=rotate))
        assert status.status.code == 0
        stream = stub.Get(pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="t")]), timeout=60)
        received = [next(stream)]
        # Far more is left than the connection buffers.
        rotate()
        received.extend(stream)
        assert b"".join(message.payload for message in received) == data
        assert len(rotations) == 2
        # The connection is still the first one.
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20)


def test_a_new_client_ca_holds_from_the_next_handshake_on(tmp_path: Path) -> None:
    old, new = make_ca(), make_ca()
    tls = write_tls(tmp_path / "tls", server_pair(), client_ca=old.cert)
    assert tls.client_ca is not None
    with running_server(tmp_path / "store", tls=tls) as server:
        known = secure_channel(server.address, the_ca(), signed("a", by=old))
        call = known.unary_unary("/grpc.health.v1.Health/Check")
        assert call(b"", timeout=20)
        tls.client_ca.write_bytes(new.cert)
        wait_until(lambda: accepts(server.address, signed("b", by=new)))
        assert refused(secure_channel(server.address, the_ca(), signed("a", by=old)))
        assert call(b"", timeout=20)
        known.close()


def test_a_session_of_a_client_that_is_no_longer_accepted_cannot_be_resumed(tmp_path: Path) -> None:
    old, new = make_ca(), make_ca()
    tls = write_tls(tmp_path / "tls", server_pair(), client_ca=old.cert)
    assert tls.client_ca is not None
    client = signed("a", by=old)
    (tmp_path / "client.pem").write_bytes(client.cert + client.key)
    context = ssl.create_default_context(cadata=the_ca().cert.decode())
    context.load_cert_chain(tmp_path / "client.pem")
    context.set_alpn_protocols(["h2"])
    with running_server(tmp_path / "store", tls=tls) as server:

        def connect(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None, bytes]:
            with (
                socket.create_connection(("127.0.0.1", server.port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as secured,
            ):
                # The first bytes of HTTP/2, if the server goes on after the handshake.
                received = secured.recv(9)
                return secured.session, secured.session_reused, received

        session, reused, received = connect(None)
        assert (reused, len(received)) == (False, 9)
        assert connect(session)[1:] == (True, received)
        tls.client_ca.write_bytes(new.cert)
        wait_until(lambda: accepts(server.address, signed("b", by=new)))
        assert connect(session)[1:] == (False, b"")


def accepts(address: str, client: Pair) -> bool:
    try:
        return bool(health(secure_channel(address, the_ca(), client)))
    except grpc.RpcError:
        return False


def test_a_wrong_pair_keeps_the_one_before(secured: Server, tls: TlsConfig, caplog: pytest.LogCaptureFixture) -> None:
    serial = shown_serial(secured.address, the_ca())
    tls.key.write_bytes(server_pair().key)
    wait_until(lambda: shown_serial(secured.address, the_ca()) == serial and "does not belong" in caplog.text)
    assert shown_serial(secured.address, the_ca()) == serial
    assert len([record for record in caplog.records if "does not belong" in record.getMessage()]) == 1


def strangers(address: str, ca: Pair) -> None:
    """Do what scanners of ports do, and what clients with wrong settings do."""
    host, _, port = address.rpartition(":")
    for sent in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(500), b"\x16\x03\x01\x02\x00\x01\x00", b""):
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR)
            plain.recv(1000)
    assert refused(grpc.insecure_channel(address))
    assert refused(secure_channel(address, make_ca()))
    assert refused(secure_channel(address, ca))
    assert refused(secure_channel(address, ca, signed("x", by=make_ca())))


def log_of(process: ServerProcess) -> list[str]:
    process.process.terminate()
    _, log = process.process.communicate(timeout=30)
    assert process.process.returncode == 0
    return [str(line) for line in log.splitlines()]


QUIET = re.compile(r" INFO .*(serves|stopping)$")
"""What a server says of itself, whoever connects."""


@pytest.mark.slow
def test_strangers_leave_no_line_in_the_log(tmp_path: Path) -> None:
    ca = the_ca()
    process = ServerProcess(
        tmp_path / "store", options=options_of(write_tls(tmp_path / "tls", server_pair(), client_ca=ca.cert))
    )
    assert ", TLS with client certificates, reserve 0 B" in process.said
    strangers(process.address, ca)
    client = signed("gpu-17", by=ca)
    assert health(secure_channel(process.address, ca, client)) == health_pb2.HealthCheckResponse.SERVING
    assert [line for line in log_of(process) if not QUIET.search(line)] == []


@pytest.mark.slow
def test_workers_take_new_certificates_too_and_are_as_quiet(tmp_path: Path) -> None:
    ca = the_ca()
    tls = write_tls(tmp_path / "tls", server_pair(), client_ca=ca.cert)
    process = ServerProcess(tmp_path / "store", workers=2, options=options_of(tls))
    strangers(process.address, ca)
    new = server_pair()
    write_tls(tls.cert.parent, new, client_ca=ca.cert)
    # Connections come to either at random.
    wait_until(lambda: all(shown_serial(process.address, ca) == new.serial for _ in range(24)))
    log = [line for line in log_of(process) if not QUIET.search(line)]
    assert len(log) == 2
    assert all("new TLS certificate: CN=the server" in line for line in log)


OPEN = ["--listen", "0.0.0.0:0"]


def pair(cert: str, key: str) -> list[str]:
    return ["--tls-cert", f"{cert}.pem", "--tls-key", f"{key}.pem"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--tls-cert", "cert.pem"], 2, "Error: tls_cert needs tls_key, which is not set"),
        (["--tls-client-ca", "ca.pem"], 2, "Error: tls_client_ca needs tls_cert, which is not set"),
        (pair("cert", "none"), 4, "the TLS key none.pem cannot be read: No such file or directory"),
        (["--tls-cert", ".", "--tls-key", "key.pem"], 2, "is a directory"),
        (pair("cert", "other"), 4, "the TLS key other.pem does not belong to the certificate in cert.pem"),
        (
            [*pair("cert", "key"), "--tls-client-ca", "empty.pem"],
            4,
            "the TLS client CA empty.pem has no certificate in PEM form",
        ),
        (OPEN, 2, "Error: listening on 0.0.0.0:0 without TLS exposes the store"),
        ([*OPEN, "--no-auth"], 2, "Error: listening on 0.0.0.0:0 without TLS and authentication exposes the store"),
        (
            [*OPEN, *pair("cert", "key"), "--no-auth"],
            2,
            "Error: listening on 0.0.0.0:0 without authentication exposes the store",
        ),
    ],
    ids=[
        "no key",
        "CA alone",
        "missing",
        "a directory",
        "mismatch",
        "empty CA",
        "open",
        "open and unasked",
        "open to all",
    ],
)
@pytest.mark.parametrize("workers", ["1", "3"])
def test_a_server_that_must_not_start_says_why_and_leaves_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, options: list[str], code: int, message: str, workers: str
) -> None:
    monkeypatch.chdir(tmp_path)
    made = server_pair()
    for name, content in {"cert": made.cert, "key": made.key, "other": server_pair().key, "empty": b""}.items():
        Path(f"{name}.pem").write_bytes(content)
    ran = run_command("serve", "--listen", "127.0.0.1:0", "--data-dir", "store", "--workers", workers, *options)
    assert (ran.exit_code, ran.output) == (code, "")
    if code == 4:
        assert ran.errors == f"tensorus: {message}\n"
    else:
        assert message in " ".join(ran.errors.split())
    assert not Path("store").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mutual", [False, True])
def test_a_server_for_a_network_starts_with_both_or_when_it_is_told(tmp_path: Path, *, mutual: bool) -> None:
    tls = write_tls(tmp_path / "tls", server_pair(), client_ca=the_ca().cert)
    options = options_of(tls) if mutual else ["--insecure"]
    process = ServerProcess(tmp_path / "store", host="0.0.0.0", options=options)
    address = f"127.0.0.1:{process.address.rpartition(':')[2]}"
    client = signed("gpu-17", by=the_ca())
    channel = secure_channel(address, the_ca(), client) if mutual else grpc.insecure_channel(address)
    assert health(channel) == health_pb2.HealthCheckResponse.SERVING
    assert process.terminate() == 0


class TestCommands:
    """`tensorus tls`."""

    def test_a_self_signed_certificate_serves_whoever_has_it_as_ca(self, tmp_path: Path) -> None:
        folder = tmp_path / "new" / "folder"
        ran = run_command("tls", "self-signed", "--out", str(folder))
        assert (ran.exit_code, ran.errors) == (0, "")
        cert, key = folder / "tls-cert.pem", folder / "tls-key.pem"
        assert key.stat().st_mode & 0o777 == 0o600
        assert f"tensorus serve --tls-cert {cert} --tls-key {key}\n" in ran.output
        assert f'tensorus.connect("grpcs://localhost:7733", ca="{cert}")\n' in ran.output
        ca = Pair(x509.load_pem_x509_certificate(cert.read_bytes()), None)
        with running_server(tmp_path / "store", tls=TlsConfig(cert, key)) as server:
            assert health(secure_channel(server.address, ca)) == health_pb2.HealthCheckResponse.SERVING
            port = server.address.rpartition(":")[2]
            assert health(secure_channel(f"localhost:{port}", ca)) == health_pb2.HealthCheckResponse.SERVING
            assert shown_serial(server.address, ca) == ca.serial

    def test_it_is_for_the_hosts_and_days_that_are_named(self, tmp_path: Path) -> None:
        options = ["--host", "gpu-17.example", "--host", "10.0.0.7", "--host", "::1", "--days", "7"]
        assert run_command("tls", "self-signed", "--out", str(tmp_path), *options).exit_code == 0
        ran = run_command("tls", "show", str(tmp_path / "tls-cert.pem"))
        assert ran.exit_code == 0
        assert re.search(r"^names +gpu-17\.example, 10\.0\.0\.7, ::1$", ran.output, re.MULTILINE)
        assert re.search(r"^valid until +\S+ \S+ UTC, 7\.0 days left$", ran.output, re.MULTILINE)

    def test_files_that_are_there_stay_unless_they_are_to_be_replaced(self, tmp_path: Path) -> None:
        key = tmp_path / "tls-key.pem"
        key.write_text("precious")
        key.chmod(0o644)
        ran = run_command("tls", "self-signed", "--out", str(tmp_path))
        assert (ran.exit_code, ran.output) == (2, "")
        assert "--force" in ran.errors
        assert [file.name for file in tmp_path.iterdir()] == ["tls-key.pem"]
        assert key.read_text() == "precious"
        assert run_command("tls", "self-signed", "--out", str(tmp_path), "--force").exit_code == 0
        assert b"PRIVATE KEY" in key.read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
        assert sorted(file.name for file in tmp_path.iterdir()) == ["tls-cert.pem", "tls-key.pem"]

    @pytest.mark.parametrize("host", ["host:7733", "a b", "", "a/b"])
    def test_a_host_that_no_certificate_can_name_is_refused(self, tmp_path: Path, host: str) -> None:
        ran = run_command("tls", "self-signed", "--out", str(tmp_path / "out"), "--host", host)
        assert ran.exit_code == 2
        assert "must be a name or an address without a port" in ran.errors
        assert not (tmp_path / "out").exists()

    def test_a_file_without_a_certificate_cannot_be_shown(self, tmp_path: Path) -> None:
        (tmp_path / "text").write_text("text")
        ran = run_command("tls", "show", str(tmp_path / "text"))
        assert (ran.exit_code, ran.output) == (1, "")
        assert ran.errors == f"tensorus: the TLS certificate {tmp_path / 'text'} has no certificate in PEM form\n"

    def test_what_a_certificate_says_does_not_control_the_terminal(self, tmp_path: Path) -> None:
        (tmp_path / "cert").write_bytes(signed("a\x1b[2Jb").cert)
        ran = run_command("tls", "show", str(tmp_path / "cert"))
        assert ran.exit_code == 0
        assert "\x1b" not in ran.output
