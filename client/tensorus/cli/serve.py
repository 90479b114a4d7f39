"""tensorus serve."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tensorus._allocator import tune_allocator
from tensorus.cli._connection import DEFAULT_ADDRESS
from tensorus.cli._options import SIZE
from tensorus.cli._output import human_bytes, print_text
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from tensorus_server.server import Server

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
    help="Transfers at once, at most, those that wait for memory included.",
)
@click.option(
    "--memory-budget",
    type=SIZE,
    default="1GiB",
    show_default=True,
    help="Memory of all transfers together; those it does not suffice for wait.",
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
@click.option("--verbose", is_flag=True, help="Log every failed call.")
def serve(
    data_dir: Path,
    listen: str,
    codec_threads: int | None,
    streams: int,
    memory_budget: int,
    reserve_bytes: int,
    grace: float,
    *,
    verbose: bool,
) -> None:
    """Serve a store until SIGTERM or Ctrl-C.

    \b
    Examples:
      tensorus serve
      tensorus serve --data-dir /srv/tensors --listen 0.0.0.0:7733

    There is no authentication: beyond this machine, listen only on networks whose every host you trust.
    """  # noqa: D301 - click's mark for lines that stay as they are
    try:
        from tensorus_server.config import EngineConfig, ServerConfig  # noqa: PLC0415 - not part of the thin client
        from tensorus_server.errors import StoreUnavailableError  # noqa: PLC0415
        from tensorus_server.server import serve as run  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed: pip install 'tensorus[server]'", name=error.name) from error
    try:
        engine = EngineConfig(
            data_dir, codec_threads, reserve_bytes=reserve_bytes, reserve_share=0.02 if reserve_bytes else 0.0
        )
        config = ServerConfig(engine, listen, streams, memory_budget, grace)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    tune_allocator(arenas_max=2)

    def announce(server: Server) -> None:
        print_text(
            f"Tensorus serves {data_dir} on {server.address}, reserve {human_bytes(reserve_bytes)}. Ctrl-C stops it."
        )

    try:
        run(config, announce)
    except StoreUnavailableError as error:
        raise UnavailableError(str(error), reason=error.reason) from error
