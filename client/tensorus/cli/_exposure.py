"""The options of `tensorus serve` that decide who can connect: TLS, and whether a network may reach an open server.

The files of TLS and the rule for networks are in `tensorus_server.processes`, `certificates.py` and `exposure.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorus._missing import engine_missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.config import ServerConfig, TlsConfig

__all__ = ["ExposureParts", "check_exposure", "exposure_options", "quiet_grpc"]

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class ExposureParts:
    """The values of the options."""

    tls_cert: Path | None
    tls_key: Path | None
    tls_client_ca: Path | None
    insecure: bool

    @property
    def tls(self) -> TlsConfig | None:
        """The settings of TLS; None: no TLS.

        Raises:
            ValueError: an option is missing.
        """
        from tensorus_server.config import TlsConfig  # noqa: PLC0415 - not part of the thin client

        return TlsConfig.of(self.tls_cert, self.tls_key, self.tls_client_ca)


_OPTIONS = (
    click.option(
        "--tls-cert",
        type=_FILE,
        metavar="FILE",
        help="Encrypt connections with this certificate, followed by those between it and its CA (PEM). Read again when it "
        "changes, like the other files of TLS.",
    ),
    click.option("--tls-key", type=_FILE, metavar="FILE", help="Key of the certificate (PEM), without a password."),
    click.option(
        "--tls-client-ca",
        type=_FILE,
        metavar="FILE",
        help="Accept only clients with a certificate of one of these CAs (PEM).",
    ),
    click.option(
        "--insecure",
        is_flag=True,
        help="Allow networks to reach the server although it lacks TLS or authentication.",
    ),
)


def exposure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as one argument, `exposure`."""

    @wraps(command)
    def with_parts(
        *args: Any,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_client_ca: Path | None,
        insecure: bool,
        **options: Any,
    ) -> Any:
        return command(*args, exposure=ExposureParts(tls_cert, tls_key, tls_client_ca, insecure), **options)

    for option in reversed(_OPTIONS):
        with_parts = option(with_parts)
    return with_parts


def check_exposure(config: ServerConfig, *, insecure: bool) -> None:
    """Check, before anything is opened, that the files of TLS can be used, and that no network reaches an open server.

    Args:
        insecure: whether one may.

    Raises:
        click.UsageError: one would.
        StoreUnavailableError: a file cannot be used; names it and the reason.
        ImportError: the library for certificates is not installed.
    """
    from tensorus_server.processes.exposure import refusal_to_start  # noqa: PLC0415 - not part of the thin client

    has_client_ca = config.tls is not None and config.tls.client_ca is not None
    refusal = refusal_to_start(
        config.listen,
        tls=config.tls is not None,
        # Who cannot connect without a certificate is known by it.
        authenticates=config.authenticates or has_client_ca,
        insecure=insecure,
    )
    if refusal is not None:
        raise click.UsageError(refusal)
    if config.tls is not None:
        # Several workers would each report the error.
        try:
            from tensorus_server.processes.certificates import check_tls  # noqa: PLC0415 - needs a library
        except ImportError as error:
            raise engine_missing(error) from error
        check_tls(config.tls)


def quiet_grpc() -> None:
    """Let gRPC log its errors, and no line for each handshake that fails: any scanner of ports could fill the log.

    gRPC reads the setting when it is imported, and so do the workers, which inherit it. One that the user made stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
