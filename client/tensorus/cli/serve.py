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
from tensorus.cli._options import SIZE
from tensorus.cli._output import human_bytes, print_text
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.config import ServerConfig

__all__ = ["serve"]


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default="tensorus-data",
    show_default=True,
    help="Folder of the store; made if it is not there.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default=DEFAULT_ADDRESS,
    show_default=True,
    help="Where clients find it; port 0: any free one.",
)
@click.option(
    "--codec-threads", type=click.IntRange(1), help="Threads that encode and decode.  [default: one per processor]"
)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Transfers at once, at most. Where all are taken, one that has been silent for 3 seconds gives way.",
)
@click.option(
    "--memory-budget",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Memory of all transfers together; those it does not suffice for wait.",
)
@click.option(
    "--memory-wait",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds that a transfer waits for memory before it is refused.",
)
@click.option(
    "--stall-timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds after which a transfer on which nothing moves is ended. Its client can resume it.",
)
@click.option(
    "--keepalive",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds after which a silent connection is pinged; one that does not answer for 20 seconds is closed.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    help="Connections at once, at most, of each worker.  [default: half of the file descriptors the system allows]",
)
@click.option(
    "--reserve-bytes",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Free disk space that inserts leave, or 2 % of the disk if that is more; 0: none.",
)
@click.option(
    "--grace", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds for transfers when stopping."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that serve together, each with its share of threads, streams and memory: for many clients with small "
    "tensors. Linux only.",
)
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
    verbose: bool,
) -> None:
    """Serve a store until SIGTERM or Ctrl-C.

    \b
    Examples:
      tensorus serve
      tensorus serve --data-dir /srv/tensors --listen 0.0.0.0:7733
      tensorus serve --workers 4

    There is no authentication: beyond this machine, listen only on networks whose every host you trust.
    """  # noqa: D301 - click's mark for lines that stay as they are
    try:
        from tensorus_server.config import EngineConfig, ServerConfig  # noqa: PLC0415 - not part of the thin client
        from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415

        run = _alone() if workers == 1 else _together(verbose=verbose)
    except ImportError as error:
        raise engine_missing(error) from error
    try:
        engine = EngineConfig(
            data_dir, codec_threads, reserve_bytes=reserve_bytes, reserve_share=0.02 if reserve_bytes else 0.0
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
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    # The processes of one server share an error stream.
    process = "" if workers == 1 else " [%(process)d]"
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format=f"%(asctime)s %(levelname)s{process} %(name)s: %(message)s",
    )
    together = "" if workers == 1 else f", {workers} workers"

    def announce(address: str) -> None:
        print_text(
            f"Tensorus serves {data_dir} on {address}, reserve {human_bytes(reserve_bytes)}{together}. Ctrl-C stops it."
        )

    try:
        run(config, announce)
    except StoreUnavailableError as error:
        raise UnavailableError(str(error), reason=error.reason) from error


def _alone() -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return what serves in this process."""
    from tensorus_server.processes.server import serve as serve_here  # noqa: PLC0415 - not part of the thin client

    def run(config: ServerConfig, announce: Callable[[str], None]) -> None:
        tune_allocator(arenas_max=2)
        serve_here(config, lambda server: announce(server.address))

    return run


def _together(*, verbose: bool) -> Callable[[ServerConfig, Callable[[str], None]], None]:
    """Return what serves in processes of its own; this one must not know gRPC."""
    from tensorus_server.processes.supervisor import supervise  # noqa: PLC0415 - not part of the thin client

    # -P: what is imported is what is installed, whatever lies in the folder that this was started in.
    command = [sys.executable, "-P", "-m", "tensorus.cli._worker", "DEBUG" if verbose else "INFO"]
    return lambda config, announce: supervise(config, command, announce)
