"""Which store a command speaks to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import tensorus
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["DEFAULT_ADDRESS", "connected", "store_options"]

DEFAULT_ADDRESS = "127.0.0.1:7733"
"""Where `tensorus serve` listens, and where the other commands look."""


def store_options(*, makes_store: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --server and --store to a command.

    Args:
        makes_store: the folder is made if it is not there. A command that only looks must not make one of a misspelt name.
    """
    server = click.option(
        "--server",
        metavar="HOST:PORT",
        default=DEFAULT_ADDRESS,
        envvar="TENSORUS_SERVER",
        show_default=True,
        show_envvar=True,
        help="The server to speak to.",
    )
    store = click.option(
        "--store",
        type=click.Path(exists=not makes_store, file_okay=False),
        help="Work on this folder, without a server.",
    )
    return lambda command: server(store(command))


@contextmanager
def connected(server: str, store: str | None) -> Iterator[tensorus.Client]:
    """Lend a client of what the options name.

    Raises:
        UnavailableError: there is no such server; says what to do, which a client of a program does not.
    """
    if store is not None:
        with tensorus.open(store) as client:
            yield client
        return
    try:
        with tensorus.connect(server) as client:
            yield client
    except UnavailableError as error:
        raise UnavailableError(
            f"no server can be reached at {server!r}; start one with `tensorus serve`, or work on a folder with --store DIR "
            f"({error})",
            reason=error.reason,
        ) from error
