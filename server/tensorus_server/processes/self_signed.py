"""A key and a self-signed certificate for a first try with TLS."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["make_self_signed", "write_new"]

_EARLIER = timedelta(minutes=5)
"""How long ago the certificate became valid, for clients whose clock is late."""


def make_self_signed(hosts: Sequence[str], days: int) -> tuple[bytes, bytes]:
    """Return a certificate and its key, as PEM. The certificate is its own CA, and can sign no other.

    Args:
        hosts: names and addresses of the server, at least one.
        days: how long it is valid.

    Raises:
        ValueError: a host cannot be in a certificate.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    # Common names have at most 64 characters. Clients compare only the alternative names.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tensorus self-signed")])
    now = datetime.now(UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_alternative(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def write_new(path: Path, content: bytes, mode: int, *, replace: bool) -> None:
    """Write a file that has `mode` from its first moment on.

    Args:
        replace: whether it may replace a file that is there, whose mode and links are not kept.

    Raises:
        FileExistsError: it is there and `replace` is False.
    """
    target = path.with_name(f".{path.name}.new") if replace else path
    if replace:
        target.unlink(missing_ok=True)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 - of a descriptor
        file.write(content)
    if replace:
        target.replace(path)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    # Names with other characters are written in their ASCII form, as clients compare them.
    name = host if host.isascii() else host.encode("idna").decode("ascii")
    if not name or any(not (character.isalnum() or character in "-._*") for character in name):
        raise ValueError(f"host is {host!r}, must be a name or an address without a port")
    return x509.DNSName(name)
