"""The composition root: the only package that names concrete backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.app.local import open_folder, recover_folder
from tensorus_server.errors import UnimplementedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.config import EngineConfig
    from tensorus_server.engine.engine import Engine
    from tensorus_server.engine.recover import Recovery

__all__ = ["open_engine", "recover_store"]


def open_engine(config: EngineConfig, *, ask: Callable[[str, int], None] | None = None) -> Engine:
    """Open the store that the settings describe, or create it.

    Args:
        ask: see `SessionLocks`; for a worker of a server with several. None: no other process serves the same inserts. Stores
            beyond one machine have other means.

    Raises:
        StoreUnavailableError: it cannot be opened; the message says why.
        UnimplementedError: it is beyond one machine, and to be opened for reading only.
        ImportError: a library that its backends need is not installed.
    """
    if config.chunks is None:
        return open_folder(config, ask=ask)
    if config.read_only:
        raise UnimplementedError("this version opens only stores in a folder for reading only, none in an object store")
    from tensorus_server.app.remote import open_remote  # noqa: PLC0415 - a store in a folder needs none of its libraries

    return open_remote(config)


def recover_store(config: EngineConfig) -> Recovery:
    """Recover missing rows in the catalogue of a store from its payloads; see `recover`.

    Raises:
        StoreUnavailableError: a process has the store open, or it cannot be opened.
        ImportError: a library that its backends need is not installed.
    """
    if config.chunks is None:
        return recover_folder(config.data_dir)
    from tensorus_server.app.remote import recover_remote  # noqa: PLC0415 - as above

    return recover_remote(config)
