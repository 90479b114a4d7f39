"""What the files of TLS must be: a refusal names the file and the reason, and nothing of a key."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from support.certificates import Pair, server_pair, the_ca, write_tls
from tensorus_server.config import EngineConfig, ServerConfig, TlsConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.certificates import check_tls

Change = Callable[[TlsConfig, Pair], Any]


def write(name: str, content: Callable[[Pair], bytes]) -> Change:
    return lambda config, pair: getattr(config, name).write_bytes(content(pair))


def pair_of(make: Callable[[], Any]) -> Change:
    return lambda config, _: write_tls(config.cert.parent, server_pair(key=make()), client_ca=the_ca().cert)


def directory(config: TlsConfig, _: Pair) -> None:
    config.cert.unlink()
    config.cert.mkdir()


def pipe(config: TlsConfig, _: Pair) -> None:
    config.key.unlink()
    os.mkfifo(config.key)


REFUSALS = [
    pytest.param(lambda config, _: config.cert.unlink(), "certificate", "cannot be read: No such file", id="missing"),
    pytest.param(lambda config, _: config.key.unlink(), "key", "cannot be read: No such file", id="missing key"),
    pytest.param(directory, "certificate", "is not a regular file", id="a directory"),
    pytest.param(pipe, "key", "is not a regular file", id="a pipe"),
    pytest.param(write("cert", lambda _: b""), "certificate", "has no certificate in PEM form", id="empty"),
    pytest.param(
        write("cert", lambda p: p.key), "certificate", "has no certificate in PEM form", id="key as certificate"
    ),
    pytest.param(write("cert", lambda p: p.cert[:200]), "certificate", "has a malformed certificate", id="half"),
    pytest.param(write("cert", lambda _: b"x" * 5_000_000), "certificate", "is larger than 4194304 bytes", id="huge"),
    pytest.param(write("key", lambda _: b""), "key", "has no private key in PEM form", id="empty key"),
    pytest.param(write("key", lambda p: p.cert), "key", "has no private key in PEM form", id="certificate as key"),
    pytest.param(write("key", lambda p: p.key.replace(b"\nM", b"\nN")), "key", "is malformed", id="damaged key"),
    pytest.param(write("key", lambda p: p.encrypted_key), "key", "is encrypted", id="encrypted key"),
    pytest.param(write("key", lambda _: server_pair().key), "key", "does not belong to the certificate", id="mismatch"),
    pytest.param(
        write("cert", lambda p: the_ca().cert + p.cert),
        "key",
        "certificate 2 of 2 there, which must be first",
        id="order",
    ),
    pytest.param(
        lambda config, _: write_tls(config.cert.parent, server_pair(lasts=timedelta(seconds=-5))),
        "certificate",
        r"expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC",
        id="expired",
    ),
    pytest.param(write("client_ca", lambda _: b""), "client CA", "has no certificate in PEM form", id="empty CA"),
    pytest.param(lambda config, _: config.client_ca.unlink(), "client CA", "cannot be read", id="missing CA"),
    pytest.param(pair_of(ed25519.Ed25519PrivateKey.generate), "key", "must be RSA, or EC", id="Ed25519"),
    pytest.param(pair_of(lambda: ec.generate_private_key(ec.SECP521R1())), "key", "must be RSA, or EC", id="P-521"),
    pytest.param(pair_of(lambda: rsa.generate_private_key(65537, 1024)), "key", "RSA with 1024 bits", id="a short key"),
]


@pytest.fixture
def config(tmp_path: Path) -> TlsConfig:
    return write_tls(tmp_path / "tls", server_pair(), client_ca=the_ca().cert)


@pytest.mark.parametrize(("change", "what", "reason"), REFUSALS)
def test_a_file_that_no_client_could_connect_with_is_refused(
    tmp_path: Path, change: Change, what: str, reason: str
) -> None:
    pair = server_pair()
    config = write_tls(tmp_path / "tls", pair, client_ca=the_ca().cert)
    change(config, pair)
    with pytest.raises(StoreUnavailableError) as caught:
        check_tls(config)
    path = {"certificate": config.cert, "key": config.key, "client CA": config.client_ca}[what]
    assert re.match(rf"the TLS {what} {re.escape(str(path))} .*{reason}", str(caught.value))
    assert "\n" not in str(caught.value)
    assert pair.key.splitlines()[1].decode() not in repr(caught.getrepr())


def test_a_file_that_may_not_be_read_is_refused(config: TlsConfig) -> None:
    config.key.chmod(0)
    if os.access(config.key, os.R_OK):
        pytest.skip("this user may read anything")
    with pytest.raises(StoreUnavailableError, match=r"key .* cannot be read: Permission denied"):
        check_tls(config)


@pytest.mark.parametrize(
    "make",
    [lambda: ec.generate_private_key(ec.SECP384R1()), lambda: rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "RSA"],
)
def test_other_kinds_of_keys_that_grpc_takes_are_taken(tmp_path: Path, make: Callable[[], Any]) -> None:
    assert check_tls(write_tls(tmp_path / "tls", server_pair(key=make()))).subject == "CN=the server"


def test_the_form_of_openssl_s_older_commands_is_taken(config: TlsConfig, tmp_path: Path) -> None:
    # Parameters in front of the key, and a text in front of the certificate.
    made = tmp_path / "made.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", made], check=True)
    subject = ["-subj", "/CN=by openssl", "-days", "2"]
    command = ["openssl", "req", "-x509", "-new", "-key", made, *subject, "-text", "-out", config.cert]
    subprocess.run(command, check=True, capture_output=True)
    config.key.write_bytes(made.read_bytes())
    assert check_tls(config).subject == "CN=by openssl"


def test_a_file_with_both_serves_as_both(config: TlsConfig) -> None:
    pair = server_pair()
    config.cert.write_bytes(pair.key + pair.cert + the_ca().cert)
    assert check_tls(TlsConfig(config.cert, config.cert)).files.client_ca is None


def test_no_repr_has_the_key(config: TlsConfig) -> None:
    shown = repr(check_tls(config))
    assert "PRIVATE" not in shown
    assert config.key.read_text().splitlines()[1] not in shown


@pytest.mark.parametrize("tls", [None, TlsConfig(Path("c"), Path("k")), TlsConfig(Path("c"), Path("k"), Path("a"))])
def test_the_settings_arrive_at_a_worker(tls: TlsConfig | None) -> None:
    config = ServerConfig(EngineConfig(Path("data")), tls=tls).of_worker("127.0.0.1:1")
    assert ServerConfig.from_json(config.to_json()) == config
