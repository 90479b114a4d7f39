"""The principal that a client's certificate names."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_server.access.rights import require_principal
from tensorus_server.errors import InvalidNameError

if TYPE_CHECKING:
    import grpc
    from cryptography.x509 import Certificate

__all__ = ["certificate_principal"]

_NAME_CHARACTERS_MAX = 128
"""Longest name. RFC 5280 allows common names 64 characters; a SPIFFE id is longer."""


def certificate_principal(context: grpc.ServicerContext) -> str | None:
    """Return "cert:NAME" of the client's certificate, which gRPC has verified; None if there is none, or none with a fit name.

    NAME is the common name of the subject. If it has none, NAME is the first URI of the alternative names, or else the first
    DNS name. A name is refused, and no other is looked for, if it is longer than 128 characters, has a space at an end, or
    makes a principal that breaks the rules of `require_principal`. So is a certificate with several common names.
    """
    # gRPC's own `x509_common_name` ends at a NUL byte, so that "admin\0.example" would be "admin".
    found = context.auth_context().get("x509_pem_cert")
    return _principal(bytes(found[0])) if found else None


@lru_cache(1024)  # A certificate is parsed once, not at each call: that takes 0.1 ms.
def _principal(pem: bytes) -> str | None:
    # Servers without TLS do not need the library, which takes 11 MiB.
    from cryptography import x509  # noqa: PLC0415

    try:
        name = _name(x509.load_pem_x509_certificate(pem))
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    # A space at the beginning would be in the middle of the principal.
    if not name or len(name) > _NAME_CHARACTERS_MAX or name != name.strip():
        return None
    principal = f"cert:{name}"
    try:
        require_principal(principal)
    except InvalidNameError:
        return None
    return principal


def _name(certificate: Certificate) -> str | None:
    from cryptography import x509  # noqa: PLC0415 - as above
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if common:
        value = common[0].value
        return value if len(common) == 1 and isinstance(value, str) else None
    try:
        others = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    names = [
        *others.get_values_for_type(x509.UniformResourceIdentifier),
        *others.get_values_for_type(x509.DNSName),
    ]
    return names[0] if names else None
