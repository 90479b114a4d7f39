"""Which store a command speaks to."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

import tensorus
from tensorus.cli._output import print_note, told
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus._patience import Interruption, Observer
    from tensorus._remote import RemoteBackend

__all__ = ["DEFAULT_ADDRESS", "RETRY_TIMEOUT_S", "backend_of", "connected", "store_options"]

_TIMEOUT_S = 30.0
RETRY_TIMEOUT_S = 60.0
"""As of `tensorus.connect`. `put` waits as long for a disk that is full."""

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


def _tell(interruption: Interruption) -> None:
    """Tell on the error stream that a call failed and is tried again: an `Observer` for commands without a bar."""
    if line := told(interruption):
        print_note(line)


def backend_of(server: str, on_interruption: Observer = _tell) -> RemoteBackend:
    """Return a backend of a server, as commands use it. Arguments and errors as of `connected`."""
    from tensorus._remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs

    return RemoteBackend(
        server,
        timeout_s=_TIMEOUT_S,
        retry_timeout_s=RETRY_TIMEOUT_S,
        tune_allocator=True,
        on_interruption=on_interruption,
    )


@contextmanager
def connected(server: str, store: str | None, on_interruption: Observer = _tell) -> Iterator[tensorus.Client]:
    """Lend a client of what the options name.

    Args:
        on_interruption: called before a call to a server is tried again.

    Raises:
        UnavailableError: there is no such server; says what to do, which a client of a program does not.
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
            f"no server can be reached at {server!r}; start one with `tensorus serve`, or work on a folder with --store DIR "
            f"({error})",
            reason=error.reason,
        ) from error
