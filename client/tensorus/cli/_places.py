"""Where a store is that a command names in one argument: on a server, in a folder, or in a database and an object store."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tensorus
from tensorus._profiles import Settings
from tensorus.cli._connection import backend_of, naming, opened_to_read, settled
from tensorus.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from tensorus._connection import Connection
    from tensorus._grpc.patience import Observer

__all__ = ["Place", "opened", "place_of", "places_of", "require_store"]

_ADDRESSES = re.compile(r"(?:grpcs?://)?[^/\\,\s]+:[0-9]{1,5}(?:,[^/\\,\s]+:[0-9]{1,5})*")
"""One or several addresses with their ports."""

_PARTS = re.compile(r"(postgres(?:ql)?://.+),((?:s3|gs|az|https?)://.+)")
"""A catalogue and an object store."""


@dataclass(frozen=True)
class Place:
    """A store. One of these says where it is."""

    server: str = ""
    """Its address, with the scheme if that is grpcs://."""
    connection: Connection | None = field(default=None, compare=False)
    """To that server."""
    folder: Path | None = None
    parts: tuple[str, str] | None = None
    """The URLs of its catalogue and its object store."""

    def __str__(self) -> str:
        """Return it as the user wrote it, but the parts of a store without passwords and parameters."""
        if self.parts is not None:
            from tensorus_server.config import without_password  # noqa: PLC0415 - only the engine opens parts

            return ",".join(without_password(part).partition("?")[0] for part in self.parts)
        return self.server if self.folder is None else str(self.folder)

    def is_same(self, other: Place) -> bool:
        """Return whether both are known to be the same store."""
        if self.folder is None or other.folder is None:
            return self == other
        return self.folder.resolve() == other.folder.resolve()


def place_of(text: str, *, is_sole: bool = True) -> Place:
    """Return the place that an argument names.

    It is an existing folder, HOST:PORT, grpcs://HOST:PORT, profile:NAME, CATALOGUE,CHUNKS, or the path of a new folder.

    Args:
        is_sole: False: the command also connects to another server, so a token of no particular server is not used.

    Raises:
        click.UsageError: it is none of these, or the settings of the connection are wrong.
    """
    if found := _PARTS.fullmatch(text):
        return Place(parts=(found[1], found[2]))
    path = Path(text).expanduser()
    if path.is_dir():
        return Place(folder=path)
    if text.startswith("profile:"):
        connection = settled(Settings("argument"), profile=text.removeprefix("profile:"), is_sole=is_sole)
        return Place(server=str(connection), connection=connection)
    if _ADDRESSES.fullmatch(text):
        connection = settled(Settings("argument", text), is_sole=is_sole)
        return Place(server=str(connection), connection=connection)
    if path.exists():
        raise click.UsageError(f"{text} is a file; a store is a folder, or HOST:PORT of a server")
    if re.match(r"(postgres(ql)?|s3|gs|az|https?)://", text):
        raise click.UsageError(
            f"{text.partition('://')[0]}:// is a part of a store; name both, as postgresql://HOST/DATABASE,s3://BUCKET/PREFIX, "
            "or the HOST:PORT of a server of that store"
        )
    if "://" in text or not text.strip():
        raise click.UsageError(f"{text!r} is neither a folder nor HOST:PORT of a server")
    return Place(folder=path)


def places_of(first: str, second: str) -> tuple[Place, Place]:
    """Return the places that two arguments of a command name. See `place_of`."""
    are_servers = all(
        not Path(text).expanduser().is_dir() and (text.startswith("profile:") or _ADDRESSES.fullmatch(text))
        for text in (first, second)
    )
    # A token that belongs to no address must not go to both servers.
    return place_of(first, is_sole=not are_servers), place_of(second, is_sole=not are_servers)


def require_store(folder: Path) -> None:
    """Check that a folder has a store, before it is opened, which would create one.

    Raises:
        NotFoundError: it does not.
    """
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}; a server is named as HOST:PORT", reason="STORE_NOT_FOUND")
    if not (folder / "catalogue.db").exists() and not (folder / "chunks").is_dir():
        raise NotFoundError(
            f"there is no store in {folder}: it has neither catalogue.db nor chunks/", reason="STORE_NOT_FOUND"
        )


def opened(place: Place, on_interruption: Observer, *, reads: bool = False) -> tensorus.Client:
    """Return a client of the store, which answers. A folder that does not exist is created.

    Args:
        on_interruption: called before a call to a server is retried.
        reads: whether the command only reads it, so that a folder need not be writable.

    Raises:
        UnavailableError: the server cannot be reached, or the folder, the database or the object store cannot be opened.
        click.UsageError: an address is malformed.
    """
    if place.parts is not None:
        try:
            return tensorus.open(catalogue=place.parts[0], chunks=place.parts[1])
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    if place.folder is not None:
        return opened_to_read(place.folder) if reads else tensorus.open(place.folder)
    if place.connection is None:
        raise AssertionError("a place is a folder, parts, or a server")
    client = tensorus.Client(backend_of(place.connection, on_interruption))
    try:
        with naming(place.connection, "; start one with `tensorus serve`, or name the folder of a store"):
            client.datasets(on_damaged=lambda _: None)
    except UnavailableError:
        client.close()
        raise
    return client
