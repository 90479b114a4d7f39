"""Certificates for tests: a CA, and what it signs."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tensorus_server.config import TlsConfig

LOCAL = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
"""The alternative names of a server of these tests."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    private: Any

    @property
    def cert(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def encrypted_key(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))

    @property
    def serial(self) -> int:
        return self.certificate.serial_number


def signed(
    *common_names: str,
    by: Pair | None = None,
    names: Sequence[x509.GeneralName] = (),
    is_ca: bool = False,
    key: Any = None,
    begins: timedelta = timedelta(minutes=-5),
    lasts: timedelta = timedelta(days=90),
) -> Pair:
    """Return a certificate that another one signs, or it itself.

    Args:
        begins: when it becomes valid, from now.
        lasts: when it expires, from now.
    """
    private = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now + begins, now + lasts - timedelta(days=1)))
        .not_valid_after(now + lasts)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_names)
    signer = by.private if by else private
    algorithm = hashes.SHA256() if hasattr(signer, "curve") or hasattr(signer, "key_size") else None
    return Pair(builder.sign(signer, algorithm), private)


def make_ca() -> Pair:
    """Return a CA that no other test has."""
    return signed(f"CA {next(_numbers)}", is_ca=True)


@cache
def the_ca() -> Pair:
    """Return the CA of tests that need any."""
    return make_ca()


def server_pair(by: Pair | None = None, **settings: Any) -> Pair:
    """Return a certificate of a server on loopback, signed by `the_ca` or another one."""
    return signed("the server", by=by or the_ca(), names=LOCAL, **settings)


def write_tls(folder: Path, pair: Pair, *, client_ca: bytes | None = None) -> TlsConfig:
    """Write the files of a server into a folder, and return its settings."""
    folder.mkdir(exist_ok=True)
    config = TlsConfig(folder / "cert.pem", folder / "key.pem", None if client_ca is None else folder / "ca.pem")
    config.cert.write_bytes(pair.cert)
    config.key.write_bytes(pair.key)
    if config.client_ca is not None:
        config.client_ca.write_bytes(client_ca or b"")
    return config


def secure_channel(address: str, ca: Pair, client: Pair | None = None) -> grpc.Channel:
    """Return a channel that trusts one CA, perhaps with a certificate of the client's."""
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(ca.cert, client and client.key, client and client.cert),
        # Channels of one process to one address otherwise share a connection, with the certificates of the first.
        options=[("grpc.use_local_subchannel_pool", 1)],
    )


class Authority:
    """A CA that signs for names, as clients' tests need it."""

    def __init__(self, name: str = "authority") -> None:
        self._pair = signed(name, is_ca=True)
        self.cert = self._pair.cert

    @classmethod
    @cache
    def shared(cls) -> Self:
        """Return the one that servers of tests have their certificates from."""
        return cls()

    def pair(self, subject: str, *names: str) -> Pair:
        """Return a certificate of host names and IP addresses, or of a client."""
        return signed(subject, by=self._pair, names=tuple(map(_host, names)))


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
