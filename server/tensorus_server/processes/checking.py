"""Checks before a start whether a server could serve with its settings: its port, and its store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tensorus_server.app.checking import attempt, check_store
from tensorus_server.processes.port import require_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.app.checking import Check, Outcome
    from tensorus_server.config import ServerConfig, TlsConfig

__all__ = ["check_server"]

_WARN_DAYS = 14
"""As the server warns."""


def check_server(config: ServerConfig, *, port: bool) -> Iterator[Check]:
    """Check what a server needs; yields one result after the other. Nothing is changed.

    Args:
        port: whether to check that the port is free, which it is not while the server runs.

    Raises:
        ImportError: a library is not installed.
    """
    tls = config.tls
    if tls is not None:
        yield attempt("TLS", lambda: _certificates(tls))
    if port:
        yield attempt("port", lambda: _port(config.listen))
    yield from check_store(config.engine)


def _port(listen: str) -> tuple[Outcome, str]:
    require_port(listen)
    return "ok", f"{listen} is free"


def _certificates(tls: TlsConfig) -> tuple[Outcome, str]:
    from tensorus_server.processes.certificates import check_tls  # noqa: PLC0415 - needs a library

    found = check_tls(tls)
    left = found.expires - datetime.now(UTC)
    outcome: Outcome = "warning" if left.days < _WARN_DAYS else "ok"
    return outcome, f"{tls.cert} is for {found.subject}, valid until {found.expires:%Y-%m-%d %H:%M} UTC"
