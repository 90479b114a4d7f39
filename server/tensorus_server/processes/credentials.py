"""gRPC's credentials of a server whose certificates are read again when their files change.

gRPC asks for new certificates before each handshake. The files are read then, and by the server's own rounds, but at most once
a second, and their bytes are compared: neither times nor inodes tell reliably whether a file changed, and symbolic links may
lead elsewhere at any moment (Kubernetes, certbot). Open connections keep the certificates of their handshake.

    files unchanged              nothing to do
    changed, and a valid pair    used from the next handshake on
    changed, and not valid       the pair before stays; an error is logged if they are the same a round later, so that files
                                 which are being replaced one after the other are given time
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.certificates import check_tls, check_usable, parse, read

if TYPE_CHECKING:
    from tensorus_server.config import TlsConfig
    from tensorus_server.processes.certificates import Certificates, PemFiles

__all__ = ["WatchedCertificates"]

_ROUND_S = 1.0
"""Minimum time between two looks at the files. Reading them takes about 0.1 ms."""

_WARN_DAYS = 14.0
"""How long before its end a certificate is warned about. Renewal usually begins 30 days before."""

_WARN_EVERY_S = 86_400.0

_log = logging.getLogger(__name__)


class WatchedCertificates:
    """The certificates of one server, and its credentials. Thread-safe."""

    def __init__(self, config: TlsConfig) -> None:
        """Read the files.

        Raises:
            StoreUnavailableError: the server cannot use them; names the file and the reason.
        """
        self._config = config
        self._lock = threading.Lock()
        self._current = check_tls(config)
        self._refused: PemFiles | str | None = None
        """What could not be used at the last look: the files, or why they could not be read."""
        self._reported = False
        """Whether that was logged."""
        self._looked_s = time.monotonic()
        self._warned_s: float | None = None
        self._served = self._current
        """What gRPC has."""
        if self._current.begins > datetime.now(UTC):
            _log.warning("the TLS certificate %s is not valid before %s", config.cert, _when(self._current.begins))
        self._warn()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials for one port."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._current),
            self._next_configuration,  # type: ignore[arg-type]  # None is documented to mean: as before
            require_client_authentication=self._config.client_ca is not None,
        )

    @property
    def expires_s(self) -> float:
        """When the certificate that is used expires, in seconds since 1970."""
        return self._current.expires.timestamp()

    @property
    def days_left(self) -> float:
        """Days until the certificate that is used expires; negative if it has."""
        return (self._current.expires - datetime.now(UTC)).total_seconds() / 86_400

    def look(self) -> None:
        """Read the files again if the last look was a second ago, and warn once a day if the certificate is about to expire."""
        # A handshake must not wait for another one's look: it uses what is there.
        if not self._lock.acquire(blocking=False):
            return
        try:
            now_s = time.monotonic()
            if now_s - self._looked_s < _ROUND_S:
                return
            self._looked_s = now_s
            self._read_again()
            self._warn()
        finally:
            self._lock.release()

    def _next_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what gRPC should use from now on; None: what it has. gRPC calls it before each handshake."""
        self.look()
        current = self._current
        if current is self._served:
            return None
        self._served = current
        return _configuration(current)

    def _read_again(self) -> None:
        found: PemFiles | str
        try:
            found = read(self._config)
        except StoreUnavailableError as error:
            self._refuse(str(error), error)
            return
        if found == self._current.files:
            self._refused = None
            return
        if found == self._refused and self._reported:
            return
        try:
            certificates = parse(self._config, found)
            check_usable(self._config, certificates)
        except StoreUnavailableError as error:
            self._refuse(found, error)
            return
        self._current, self._refused, self._warned_s = certificates, None, None
        _log.info("new TLS certificate: %s, valid until %s", certificates.subject, _when(certificates.expires))

    def _refuse(self, found: PemFiles | str, error: StoreUnavailableError) -> None:
        if found != self._refused:
            self._refused, self._reported = found, False
        elif not self._reported:
            self._reported = True
            _log.error("%s: the server continues with the certificates that it has", error)

    def _warn(self) -> None:
        days = self.days_left
        now_s = time.monotonic()
        if days > _WARN_DAYS or (self._warned_s is not None and now_s - self._warned_s < _WARN_EVERY_S):
            return
        self._warned_s = now_s
        if days > 0:
            _log.warning("the TLS certificate %s expires in %.1f days", self._config.cert, days)
        else:
            _log.error("the TLS certificate %s has expired: clients refuse to connect", self._config.cert)


def _configuration(certificates: Certificates) -> grpc.ServerCertificateConfiguration:
    files = certificates.files
    return grpc.ssl_server_certificate_configuration([(files.key, files.cert)], root_certificates=files.client_ca)


def _when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
