"""What a channel over TLS needs: the authorities that the client trusts, and its own certificate."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from tensorus._connection import Tls

__all__ = ["credentials_of", "system_roots"]

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where Debian, Fedora, older ones of these, SUSE, and Alpine, macOS and the BSDs have the authorities that they trust."""


def credentials_of(tls: Tls) -> grpc.ChannelCredentials:
    """Return the credentials of a channel that is made now, from the files as they are now.

    Raises:
        UnavailableError: a file cannot be read, or is not PEM.
    """
    try:
        ca, cert, key = tls.read()
    except ValueError as error:
        raise UnavailableError(str(error), reason="UNAVAILABLE") from error
    return grpc.ssl_channel_credentials(system_roots() if ca is None else ca, key, cert)


def system_roots() -> bytes | None:
    """Return the authorities that this machine trusts; None: it has none, and gRPC uses those that it brings.

    gRPC for Python would always use those that it brings: then an authority that an administrator has added would not count.
    """
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    # `cafile` is where SSL_CERT_FILE says, or where OpenSSL was built to look.
    for path in (ssl.get_default_verify_paths().cafile, *_BUNDLES):
        try:
            if path and b"-----BEGIN CERTIFICATE" in (content := Path(path).read_bytes()):
                return content
        except OSError:
            continue
    # Windows has no file.
    found = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, found)).encode() or None
