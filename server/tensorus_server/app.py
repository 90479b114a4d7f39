"""The composition root: the only place that names concrete backends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.local import LocalChunkStore, Reserve
from tensorus_server.codec_pool import CodecPool
from tensorus_server.engine import Engine
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.session_locks import SessionLocks
from tensorus_server.sessions import InsertSessions

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.config import EngineConfig

__all__ = ["open_engine"]


def open_engine(config: EngineConfig, *, ask: Callable[[str, int], None] | None = None) -> Engine:
    """Open the store in `config.data_dir`, or create it.

    Args:
        ask: of `SessionLocks`, in a worker of a server that has several; None: no other process serves the same inserts.

    Raises:
        StoreUnavailableError: it cannot be opened; the message says why.
    """
    folder = config.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        catalogue = SqliteCatalogue(
            folder, delete_grace_s=config.delete_grace_s, upload_expiry_s=config.upload_expiry_s
        )
    except OSError as error:
        raise StoreUnavailableError(f"cannot open a store in {folder}: {error.strerror}") from error
    try:
        reserve = Reserve(folder, reserve_bytes=config.reserve_bytes, reserve_share=config.reserve_share)
        chunk_store = LocalChunkStore(folder, reserve=reserve)
        sessions = InsertSessions(None if ask is None else SessionLocks(folder / "sessions.lock", ask))
    except OSError as error:
        catalogue.close()
        raise StoreUnavailableError(f"cannot open a store in {folder}: {error.strerror}") from error
    return Engine(catalogue, chunk_store, CodecPool(config.codec_threads), sessions, orphan_age_s=config.orphan_age_s)
