"""The certificate, the key and the client CA of a server: reads the PEM files, and refuses what no client could connect to.

The checks are stricter than those of gRPC, which takes files without a look at them and logs an error for each handshake that
fails. What passes here works there. This module must not import gRPC: the supervisor of several workers uses it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.config import TlsConfig

__all__ = ["Certificates", "PemFiles", "check_tls", "check_usable", "parse", "read", "read_certificates"]

_FILE_BYTES_MAX = 4 * 1024**2
"""Largest file that is read. The CA bundles of Linux distributions have 250 KB."""

_RSA_BITS_MIN = 2048
"""What OpenSSL 3 asks of servers by default (security level 2)."""

_CURVES = ("secp256r1", "secp384r1")
"""The curves whose certificates gRPC's clients and servers both take (measured with gRPC 1.85: P-521 and Ed25519 fail)."""


@dataclass(frozen=True, repr=False)
class PemFiles:
    """The bytes of the files at one time. Its repr has no part of them."""

    cert: bytes
    """The certificate of the server, then those between it and the CA."""
    key: bytes
    """The key of the first certificate."""
    client_ca: bytes | None
    """CAs whose certificates clients must show; None: clients show none."""


@dataclass(frozen=True)
class Certificates:
    """Files that belong together and that gRPC can use."""

    files: PemFiles
    """What was parsed."""
    subject: str
    """Subject of the certificate, such as "CN=tensors.example"."""
    begins: datetime
    """When the certificate becomes valid."""
    expires: datetime
    """When it ceases to be valid."""


def read(config: TlsConfig) -> PemFiles:
    """Read the files, whatever they hold.

    Raises:
        StoreUnavailableError: a file cannot be read; names it.
    """
    ca = None if config.client_ca is None else _read("client CA", config.client_ca)
    return PemFiles(_read("certificate", config.cert), _read("key", config.key), ca)


def parse(config: TlsConfig, files: PemFiles) -> Certificates:
    """Check that the certificate and the key are a pair of a kind that gRPC can use, and that the client CA has certificates.

    Raises:
        StoreUnavailableError: they are not; names the file and the reason.
    """
    chain = _certificates("certificate", config.cert, files.cert)
    public = _public_key(config.key, files.key)
    if public != _public_bytes(chain[0]):
        found = next((n for n, one in enumerate(chain, 1) if _public_bytes(one) == public), None)
        where = (
            "" if found is None else f"; it belongs to certificate {found} of {len(chain)} there, which must be first"
        )
        raise _refusal("key", config.key, f"does not belong to the certificate in {config.cert}{where}")
    if files.client_ca is not None:
        assert config.client_ca is not None
        _certificates("client CA", config.client_ca, files.client_ca)
    first = chain[0]
    try:
        subject = first.subject.rfc4514_string()
    except ValueError as error:
        raise _refusal("certificate", config.cert, "has a malformed subject") from error
    return Certificates(files, subject, first.not_valid_before_utc, first.not_valid_after_utc)


def check_usable(config: TlsConfig, certificates: Certificates) -> None:
    """Check that the certificate has not expired.

    Raises:
        StoreUnavailableError: it has.
    """
    if certificates.expires <= datetime.now(UTC):
        raise _refusal("certificate", config.cert, f"expired on {certificates.expires:%Y-%m-%d %H:%M} UTC")


def check_tls(config: TlsConfig) -> Certificates:
    """Read, parse and check the files.

    Raises:
        StoreUnavailableError: a server cannot use them; one line that names the file and the reason.
    """
    certificates = parse(config, read(config))
    check_usable(config, certificates)
    return certificates


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a file, at least one.

    Raises:
        StoreUnavailableError: it cannot be read, or has none.
    """
    return _certificates("certificate", path, _read("certificate", path))


def _refusal(what: str, path: Path, reason: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"the TLS {what} {path} {reason}")


def _read(what: str, path: Path) -> bytes:
    try:
        # Reading a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refusal(what, path, "is not a regular file")
        with path.open("rb") as file:
            found = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise _refusal(what, path, f"cannot be read: {error.strerror}") from error
    if len(found) > _FILE_BYTES_MAX:
        raise _refusal(what, path, f"is larger than {_FILE_BYTES_MAX} bytes")
    return found


def _certificates(what: str, path: Path, pem: bytes) -> list[x509.Certificate]:
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise _refusal(what, path, "has no certificate in PEM form")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise _refusal(what, path, "has a malformed certificate") from error


def _public_key(path: Path, pem: bytes) -> bytes:
    """Return the public key of a private one.

    Raises:
        StoreUnavailableError: it cannot be parsed, or gRPC cannot use it. The message has no part of the key.
    """
    if b"PRIVATE KEY-----" not in pem:
        raise _refusal("key", path, "has no private key in PEM form")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise _refusal("key", path, "is encrypted; a server needs it without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refusal("key", path, "is malformed") from error
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _RSA_BITS_MIN:
            raise _refusal("key", path, f"is RSA with {key.key_size} bits, must have at least {_RSA_BITS_MIN}")
    elif not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        raise _refusal("key", path, "must be RSA, or EC with the curve P-256 or P-384")
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_bytes(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        # A certificate whose key cannot be parsed belongs to no key.
        return b""
