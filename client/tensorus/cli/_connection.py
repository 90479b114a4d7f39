"""The options that select a store, and the connection to it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import tensorus
from tensorus.cli._output import print_note, told
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus._grpc.patience import Interruption, Observer
    from tensorus._grpc.remote import RemoteBackend

__all__ = ["DEFAULT_ADDRESS", "RETRY_TIMEOUT_S", "backend_of", "connected", "store_options"]

_TIMEOUT_S = 30.0
RETRY_TIMEOUT_S = 60.0
"""The default of `tensorus.connect`. `put` also waits this long while the disk is full."""

DEFAULT_ADDRESS = "127.0.0.1:7733"
"""The default address of `tensorus serve` and of all other commands."""


def store_options(*, makes_store: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --server and --store to a command.

    Args:
        makes_store: create the folder if it does not exist. Reading commands must not, or a misspelt path becomes a store.
    """
    server = click.option(
        "--server",
        metavar="HOST:PORT[,...]",
        default=DEFAULT_ADDRESS,
        envvar="TENSORUS_SERVER",
        show_default=True,
        show_envvar=True,
        help="Server to use, or several of the same store, separated by commas.",
    )
    store = click.option(
        "--store",
        type=click.Path(exists=not makes_store, file_okay=False),
        help="Use the store in this folder, without a server.",
    )
    return lambda command: server(store(command))


def _tell(interruption: Interruption) -> None:
    """Report a retry on the error stream: an `Observer` for commands without a progress bar."""
    if line := told(interruption):
        print_note(line)


def backend_of(server: str, on_interruption: Observer = _tell) -> RemoteBackend:
    """Return a backend of a server, configured for commands. Arguments and errors as for `connected`."""
    from tensorus._grpc.remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs

    return RemoteBackend(
        server,
        timeout_s=_TIMEOUT_S,
        retry_timeout_s=RETRY_TIMEOUT_S,
        tune_allocator=True,
        on_interruption=on_interruption,
    )


@contextmanager
def connected(server: str, store: str | None, on_interruption: Observer = _tell) -> Iterator[tensorus.Client]:
    """Yield a client of the store that the options name.

    Args:
        server: address of the server, or of several; unused if `store` is given.
        store: folder of the store; None: use the server.
        on_interruption: called before a call to a server is retried.

    Raises:
        UnavailableError: the server cannot be reached; the message adds what to do on the command line.
    """
    if store is not None:
        with tensorus.open(store) as client:
            yield client
        return
    try:
        with tensorus.Client(backend_of(server, on_interruption)) as client:
            yield client
    except UnavailableError as error:
        raise UnavailableError(
            f"no server can be reached at {server!r}; start one with `tensorus serve`, or use a folder with --store DIR "
            f"({error})",
            reason=error.reason,
        ) from error
