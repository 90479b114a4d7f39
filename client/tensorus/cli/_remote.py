"""The options of a store beyond one machine: where its catalogue and its payloads are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tensorus.cli._options import SIZE
from tensorus.cli._settings import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.config import EngineConfig

__all__ = ["RemoteParts", "check_places", "remote_options", "settings_of"]


@dataclass(frozen=True)
class RemoteParts:
    """Settings of `EngineConfig` by the same names."""

    catalogue: str | None
    chunks: str | None
    cache_dir: Path | None = None
    cache_bytes: int = 16 * 1024**3

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `EngineConfig`, of several types."""
        return asdict(self)


_CATALOGUE = click.option(
    "--catalogue",
    metavar="URL",
    envvar=BY_NAME["catalogue"].variable,
    show_envvar=True,
    help=BY_NAME["catalogue"].help,
)
_CHUNKS = click.option(
    "--chunks",
    metavar="URL",
    envvar=BY_NAME["chunks"].variable,
    show_envvar=True,
    help=BY_NAME["chunks"].help,
)
_CACHE_DIR = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help=BY_NAME["cache_dir"].help,
)
_CACHE_SIZE = click.option(
    "--cache-size", type=SIZE, default="16GiB", show_default=True, help=BY_NAME["cache_size"].help
)


def remote_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets them as one argument, `remote`."""

    @wraps(command)
    def with_parts(
        *args: Any, catalogue: str | None, chunks: str | None, cache_dir: Path | None, cache_size: int, **options: Any
    ) -> Any:
        return command(*args, remote=RemoteParts(catalogue, chunks, cache_dir, cache_size), **options)

    return _CATALOGUE(_CHUNKS(_CACHE_DIR(_CACHE_SIZE(with_parts))))


def settings_of(folder: Path | None, remote: RemoteParts, **settings: Any) -> EngineConfig:
    """Return the settings of the store that a command's arguments name.

    Args:
        folder: of the store, or of its catalogue; None: both parts of the store are elsewhere.
        settings: more of `EngineConfig`.

    Raises:
        click.UsageError: they name none.
        ImportError: the engine is not installed.
    """
    from tensorus_server.config import EngineConfig  # noqa: PLC0415 - not part of the thin client

    if folder is None and (remote.catalogue is None or remote.chunks is None):
        raise click.UsageError("name the folder of the store, or its parts with --catalogue and --chunks")
    try:
        config = EngineConfig(folder or Path(), **{**remote.settings, **settings})
        check_places(config)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return config


def check_places(config: EngineConfig) -> None:
    """Check the form of the addresses in the settings, before anything is opened.

    Raises:
        ValueError: one is malformed.
        ImportError: a library for it is not installed.
    """
    # The module needs more of the engine than a server's supervisor otherwise does.
    if config.chunks is not None:
        from tensorus_server.app.remote import check_remote_addresses  # noqa: PLC0415 - not part of the thin client

        check_remote_addresses(config)
