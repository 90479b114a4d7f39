"""The options that select a store, and the connection to it."""

from __future__ import annotations

import functools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import tensorus
from tensorus._connection import DEFAULT_ADDRESS
from tensorus._profiles import Settings, connection_of
from tensorus.cli._output import print_note, told
from tensorus.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tensorus._connection import Connection
    from tensorus._grpc.patience import Interruption, Observer
    from tensorus._grpc.remote import RemoteBackend

__all__ = [
    "DEFAULT_ADDRESS",
    "RETRY_TIMEOUT_S",
    "ServerOptions",
    "backend_of",
    "connected",
    "naming",
    "opened_to_read",
    "server_options",
    "settled",
    "store_options",
]

_TIMEOUT_S = 30.0
RETRY_TIMEOUT_S = 60.0
"""The default of `tensorus.connect`. `put` also waits this long while the disk is full."""


@dataclass(frozen=True)
class ServerOptions:
    """What the options of a command say about its server; None: nothing."""

    address: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    token_file: str | None = None
    insecure: bool = False
    profile: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether the options themselves name a server."""
        return self.address is not None or self.profile is not None

    @functools.cached_property
    def connection(self) -> Connection:
        """The connection, together with the environment and the file of profiles.

        Raises:
            click.UsageError: what they say is wrong or contradictory.
        """
        given = Settings(
            "argument",
            self.address,
            self.ca,
            self.cert,
            self.key,
            token_file=self.token_file,
            insecure=self.insecure or None,
        )
        return settled(given, profile=self.profile)


def settled(given: Settings, *, profile: str | None = None, is_sole: bool = True) -> Connection:
    """Do what `connection_of` does, for a command.

    Raises:
        click.UsageError: what the sources say is wrong or contradictory.
    """
    try:
        return connection_of(given, profile=profile, is_sole=is_sole, warn=print_note)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


_SERVER = click.option(
    "--server",
    metavar="HOST:PORT[,...]",
    help="Server to use, or several of the same store, separated by commas; grpcs://HOST:PORT for TLS.  "
    f"[env var: TENSORUS_ADDRESS; default: that of the profile, or {DEFAULT_ADDRESS}]",
)

_REACHING = (
    click.option(
        "--profile", metavar="NAME", help="Profile in ~/.config/tensorus/config.toml.  [env var: TENSORUS_PROFILE]"
    ),
    click.option(
        "--token-file",
        type=click.Path(dir_okay=False),
        help="File with the token that the server knows you by.  [env var of the token itself: TENSORUS_TOKEN]",
    ),
    click.option(
        "--ca",
        type=click.Path(dir_okay=False),
        help="PEM file with the authority of the server's certificate.  [env var: TENSORUS_CA; default: those of the system]",
    ),
    click.option(
        "--cert",
        type=click.Path(dir_okay=False),
        help="PEM file with your own certificate, for servers that ask for one.  [env var: TENSORUS_CERT]",
    ),
    click.option("--key", type=click.Path(dir_okay=False), help="PEM file with its key.  [env var: TENSORUS_KEY]"),
    click.option(
        "--insecure", is_flag=True, help="Send the token in clear text to another machine, where others may read it."
    ),
)
"""There is no option for the token itself: the list of processes would show it to every user of the machine."""


def server_options(address: Callable[..., Any] = _SERVER) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that select a server to a command, which gets them as one argument, `server`.

    Args:
        address: the option --server, for a command that has to say more about it.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_server(*args: Any, **options: Any) -> Any:
            names = ("ca", "cert", "key", "token_file", "insecure", "profile")
            server = ServerOptions(options.pop("server"), **{name: options.pop(name) for name in names})
            return command(*args, server=server, **options)

        decorated: Callable[..., Any] = with_server
        for option in reversed((address, *_REACHING)):
            decorated = option(decorated)
        return decorated

    return add


def store_options(*, makes_store: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --server, how to reach it, and --store to a command.

    Args:
        makes_store: create the folder if it does not exist. Reading commands must not, or a misspelt path becomes a store.
    """
    store = click.option(
        "--store",
        type=click.Path(exists=not makes_store, file_okay=False),
        help="Use the store in this folder, without a server.",
    )
    return lambda command: server_options()(store(command))


def _tell(interruption: Interruption) -> None:
    """Report a retry on the error stream: an `Observer` for commands without a progress bar."""
    if line := told(interruption):
        print_note(line)


def backend_of(connection: Connection, on_interruption: Observer = _tell) -> RemoteBackend:
    """Return a backend of a server, configured for commands.

    Args:
        on_interruption: called before a call to the server is retried.
    """
    from tensorus._grpc.remote import RemoteBackend  # noqa: PLC0415 - each way in loads only what it needs

    return RemoteBackend(
        connection,
        timeout_s=_TIMEOUT_S,
        retry_timeout_s=RETRY_TIMEOUT_S,
        tune_allocator=True,
        on_interruption=on_interruption,
    )


def opened_to_read(folder: Path) -> tensorus.Client:
    """Open the store in a folder for a command that only reads: so that nothing is changed, if it is not to be, or cannot be.

    A store that can be written is opened for that, since it may have to be migrated first. A backup would be spoilt by it.
    """
    parts = [folder, *(path for path in (folder / "catalogue.db", folder / "tmp") if path.exists())]
    is_writable = all(os.access(path, os.W_OK) for path in parts)
    return tensorus.open(folder, read_only=not is_writable or (folder / "backup.json").exists())


@contextmanager
def connected(
    server: ServerOptions, store: str | None, on_interruption: Observer = _tell, *, reads: bool = False
) -> Iterator[tensorus.Client]:
    """Yield a client of the store that the options name.

    Args:
        server: how to reach the server, or several; unused if `store` is given.
        store: folder of the store; None: use the server.
        on_interruption: called before a call to a server is retried.
        reads: whether the command only reads, so that it also works on a folder that cannot be written.

    Raises:
        UnavailableError: the server cannot be reached; the message adds what to do on the command line.
        click.UsageError: the options, the environment and the profile do not go together.
    """
    if store is not None:
        with opened_to_read(Path(store)) if reads else tensorus.open(store) as client:
            yield client
        return
    with (
        naming(server.connection, "; start one with `tensorus serve`, or use a folder with --store DIR"),
        tensorus.Client(backend_of(server.connection, on_interruption)) as client,
    ):
        yield client


@contextmanager
def naming(connection: Connection, advice: str = "") -> Iterator[None]:
    """Say which server cannot be reached, and what to do on the command line.

    Raises:
        UnavailableError: that of the block, with its reason and facts.
    """
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(
            f"no server can be reached at {str(connection)!r}{advice} ({error})", reason=error.reason, facts=error.facts
        ) from error
