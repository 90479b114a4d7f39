"""Which store a command speaks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

import tensorus

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT_ADDRESS", "connected", "store_options"]

DEFAULT_ADDRESS = "127.0.0.1:7733"
"""Where `tensorus serve` listens, and where the other commands look."""


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --server and --store to a command."""
    command = click.option("--store", type=click.Path(file_okay=False), help="Work on this folder, without a server.")(
        command
    )
    return click.option(
        "--server",
        metavar="HOST:PORT",
        default=DEFAULT_ADDRESS,
        envvar="TENSORUS_SERVER",
        show_default=True,
        show_envvar=True,
        help="The server to speak to.",
    )(command)


def connected(server: str, store: str | None) -> tensorus.Client:
    """Return a client of what the options name."""
    return tensorus.connect(server) if store is None else tensorus.open(store)
