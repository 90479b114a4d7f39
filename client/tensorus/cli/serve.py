"""tensorus serve."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import click

from tensorus._allocator import tune_allocator
from tensorus._missing import engine_missing
from tensorus.cli._exposure import checked_exposure, quiet_grpc
from tensorus.cli._output import human_bytes, print_text
from tensorus.cli._server_config import server_config
from tensorus.cli._setting_options import SettingsCommand, settings_options, to_toml
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus.cli._setting_sources import Chosen
    from tensorus_server.config import ServerConfig

__all__ = ["serve"]

EXIT_UNAVAILABLE = 4

_log = logging.getLogger("tensorus.cli.serve")


@click.command(cls=SettingsCommand)
@settings_options
@click.option("--print-config", is_flag=True, help="Print the effective settings as TOML with their origins, and exit.")
@click.option("--verbose", is_flag=True, help="The same as --log-level debug.")
def serve(chosen: tuple[Chosen, ...], *, print_config: bool) -> None:
    """Serve a store until SIGTERM or Ctrl-C.

    \b
    Examples:
      tensorus serve
      tensorus serve --listen 0.0.0.0:7733 --tls-cert cert.pem --tls-key key.pem
      tensorus serve --workers 4
      tensorus serve --config /etc/tensorus/server.toml
      tensorus serve --catalogue postgresql://host/db --chunks s3://bucket/prefix --cache-dir /nvme --cache-size 200GiB

    Off this machine it needs TLS, and callers need a token or a client certificate, unless --insecure allows less.
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    quiet_grpc()
    config = server_config(chosen)
    if print_config:
        _print_settings(chosen)
        return
    try:
        run = _alone() if config.workers == 1 else _together()
    except ImportError as error:
        raise engine_missing(error) from error
    _run_logged(config, run)


def _run_logged(config: ServerConfig, run: Callable[[ServerConfig, Callable[[str], None]], None]) -> None:
    from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415 - not part of the thin client
    from tensorus_server.logs.setup import log_to_stderr  # noqa: PLC0415

    # The processes of one server share an error stream.
    log_to_stderr(config.logs, names_process=config.workers > 1)
    try:
        config = checked_exposure(config)
        run(config, lambda address: _announce(config, address))
    except StoreUnavailableError as error:
        if config.logs.format == "json":
            # Whoever reads the stream reads objects, to the last line.
            _log.critical("%s", error)
            raise SystemExit(EXIT_UNAVAILABLE) from error
        raise UnavailableError(str(error), reason=error.reason) from error


def _print_settings(chosen: tuple[Chosen, ...]) -> None:
    from tensorus_server.config import without_password  # noqa: PLC0415 - not part of the thin client

    for line in to_toml(chosen, without_password):
        print_text(line)


def _announce(config: ServerConfig, address: str) -> None:
    together = "" if config.workers == 1 else f", {config.workers} workers"
    reserve = "" if config.engine.chunks else f", reserve {human_bytes(config.engine.reserve_bytes)}"
    extra = ", for reading only" if config.engine.read_only else reserve
    tls = "" if config.tls is None else ", TLS" if config.tls.client_ca is None else ", TLS with client certificates"
    text = f"Tensorus serves {config.engine.describe()} on {address}{tls}{extra}{together}"
    if config.logs.format == "json":
        _log.info("%s", text, extra={"fields": {"address": address}})
    else:
        print_text(f"{text}. Ctrl-C stops it.")


def _alone() -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return a function that serves in this process."""
    from tensorus_server.processes.server import serve as serve_here  # noqa: PLC0415 - not part of the thin client

    def run(config: ServerConfig, announce: Callable[[str], None]) -> None:
        tune_allocator(arenas_max=2)
        serve_here(config, lambda server: announce(server.address))

    return run


def _together() -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return a function that serves in worker processes. gRPC, which forks badly, must not be imported here."""
    from tensorus_server.processes.supervisor import supervise  # noqa: PLC0415 - not part of the thin client

    # -P keeps the current folder out of sys.path, so that the installed packages are imported.
    command = [sys.executable, "-P", "-m", "tensorus.cli._worker"]
    return lambda config, announce: supervise(config, command, announce)
