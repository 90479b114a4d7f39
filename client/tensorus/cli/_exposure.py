"""Who can connect to `tensorus serve`: the checks of TLS, and of whether a network may reach an open server.

The rules are in `tensorus_server.processes`: `certificates.py` and `exposure.py`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from tensorus._missing import engine_missing

if TYPE_CHECKING:
    from tensorus_server.config import ServerConfig

__all__ = ["checked_exposure", "quiet_grpc"]


def checked_exposure(config: ServerConfig) -> ServerConfig:
    """Decide whether callers are authenticated, and check, before anything is opened, who could reach the server.

    Raises:
        click.UsageError: a network would reach an open server.
        StoreUnavailableError: a file of TLS cannot be used; names it and the reason.
        ImportError: the library for certificates is not installed.
    """
    from tensorus_server.processes.exposure import refusal_to_start, settled  # noqa: PLC0415 - not part of the thin client

    config = settled(config)
    refusal = refusal_to_start(config)
    if refusal is not None:
        raise click.UsageError(refusal)
    if config.tls is not None:
        # Several workers would each report the error.
        try:
            from tensorus_server.processes.certificates import check_tls  # noqa: PLC0415 - needs a library
        except ImportError as error:
            raise engine_missing(error) from error
        check_tls(config.tls)
    return config


def quiet_grpc() -> None:
    """Let gRPC log its errors, and no line for each handshake that fails: any scanner of ports could fill the log.

    gRPC reads the setting when it is imported, and so do the workers, which inherit it. One that the user made stays.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
