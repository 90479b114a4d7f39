"""tensorus serve."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus._allocator import tune_allocator
from tensorus._missing import engine_missing
from tensorus.cli._connection import DEFAULT_ADDRESS
from tensorus.cli._exposure import check_exposure, exposure_options, quiet_grpc
from tensorus.cli._options import SIZE
from tensorus.cli._output import human_bytes, print_text
from tensorus.cli._remote import check_places, remote_options
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus.cli._exposure import ExposureParts
    from tensorus.cli._remote import RemoteParts
    from tensorus_server.config import ServerConfig

__all__ = ["serve"]


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="tensorus-data",
    show_default=True,
    help="Folder of the store; created if missing. Unused with --catalogue and --chunks.",
)
@remote_options
@click.option(
    "--direct-reads/--no-direct-reads",
    default=True,
    show_default=True,
    help="Let clients read large tensors from the object store by signed URLs, if it can sign them.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_ADDRESS,
    show_default=True,
    help="Address to listen on; port 0 picks a free port.",
)
@exposure_options
@click.option(
    "--codec-threads", type=click.IntRange(1), help="Threads that encode and decode.  [default: one per processor]"
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Maximum concurrent transfers, including queued ones. At the limit, a new transfer displaces one that has been "
    "silent for 3 seconds.",
)
@click.option(
    "--memory-budget",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Memory shared by all transfers. When it is exhausted, new transfers queue.",
)
@click.option(
    "--memory-wait",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds a transfer waits for memory before it is refused.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without progress after which a transfer is ended. The client can resume it.",
)
@click.option(
    "--keepalive",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds of silence after which a connection is pinged; it is closed after 20 more seconds without an answer.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    help="Maximum open connections per worker.  [default: half of the file descriptor limit]",
)
@click.option(
    "--reserve-bytes",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Disk space that inserts must leave free; at least 2 % of the disk unless 0.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds that open transfers get on shutdown.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Worker processes, each with its share of threads, streams and memory. Useful for many clients with small tensors. "
    "Linux only.",
)
@click.option("--no-dedup", is_flag=True, help="Store every tensor's bytes, even if an equal tensor is stored already.")
@click.option("--verbose", is_flag=True, help="Log every failed call.")
def serve(
    data_dir: Path,
    listen: str,
    codec_threads: int | None,
    streams: int,
    memory_budget: int,
    memory_wait: float,
    stall_timeout: float,
    keepalive: float,
    connections: int | None,
    reserve_bytes: int,
    grace: float,
    workers: int,
    *,
    remote: RemoteParts,
    exposure: ExposureParts,
    direct_reads: bool,
    no_dedup: bool,
    verbose: bool,
) -> None:
    """Serve a store until SIGTERM or Ctrl-C.

    \b
    Examples:
      tensorus serve
      tensorus serve --listen 0.0.0.0:7733 --tls-cert cert.pem --tls-key key.pem --tls-client-ca ca.pem
      tensorus serve --workers 4
      tensorus serve --catalogue postgresql://host/db --chunks s3://bucket/prefix --cache-dir /nvme --cache-size 200GiB

    Without TLS and client certificates, it listens only on this machine, unless --insecure allows more.
    """  # noqa: D301 - click's mark for lines that are not rewrapped
    quiet_grpc()
    try:
        from tensorus_server.config import EngineConfig, ServerConfig  # noqa: PLC0415 - not part of the thin client

        run = _alone() if workers == 1 else _together(verbose=verbose)
    except ImportError as error:
        raise engine_missing(error) from error
    try:
        share = 0.02 if reserve_bytes else 0.0
        engine = EngineConfig(
            data_dir,
            codec_threads,
            reserve_bytes,
            share,
            shares_payloads=not no_dedup,
            direct_reads=direct_reads,
            **remote.settings,
        )
        config = ServerConfig(
            engine,
            listen=listen,
            streams_max=streams,
            memory_budget_bytes=memory_budget,
            memory_wait_s=memory_wait,
            stall_timeout_s=stall_timeout,
            keepalive_s=keepalive,
            connections_max=connections,
            grace_s=grace,
            workers=workers,
            tls=exposure.tls,
        )
        check_places(engine)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    except ImportError as error:
        raise engine_missing(error) from error
    _log_to_stderr(workers, verbose=verbose)
    _serve(run, config, insecure=exposure.insecure)


def _serve(run: Callable[[ServerConfig, Callable[[str], None]], None], config: ServerConfig, *, insecure: bool) -> None:
    from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415 - not part of the thin client

    try:
        check_exposure(config, insecure=insecure)
        run(config, lambda address: _announce(config, address))
    except StoreUnavailableError as error:
        raise UnavailableError(str(error), reason=error.reason) from error


def _log_to_stderr(workers: int, *, verbose: bool) -> None:
    # The processes of one server share an error stream.
    process = "" if workers == 1 else " [%(process)d]"
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s %(levelname)s{process} %(name)s: %(message)s",
    )


def _announce(config: ServerConfig, address: str) -> None:
    together = "" if config.workers == 1 else f", {config.workers} workers"
    reserve = "" if config.engine.chunks else f", reserve {human_bytes(config.engine.reserve_bytes)}"
    tls = "" if config.tls is None else ", TLS" if config.tls.client_ca is None else ", TLS with client certificates"
    print_text(f"Tensorus serves {config.engine.describe()} on {address}{tls}{reserve}{together}. Ctrl-C stops it.")


def _alone() -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return a function that serves in this process."""
    from tensorus_server.processes.server import serve as serve_here  # noqa: PLC0415 - not part of the thin client

    def run(config: ServerConfig, announce: Callable[[str], None]) -> None:
        tune_allocator(arenas_max=2)
        serve_here(config, lambda server: announce(server.address))

    return run


def _together(*, verbose: bool) -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return a function that serves in worker processes. gRPC, which forks badly, must not be imported here."""
    from tensorus_server.processes.supervisor import supervise  # noqa: PLC0415 - not part of the thin client

    # -P keeps the current folder out of sys.path, so that the installed packages are imported.
    command = [sys.executable, "-P", "-m", "tensorus.cli._worker", "DEBUG" if verbose else "INFO"]
    return lambda config, announce: supervise(config, command, announce)
