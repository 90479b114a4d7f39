"""The composition root: the only place that names concrete backends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.local import LocalChunkStore, Reserve
from tensorus_server.codec_pool import CodecPool
from tensorus_server.engine import Engine
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.recover import recover
from tensorus_server.session_locks import SessionLocks
from tensorus_server.sessions import InsertSessions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tensorus_server.config import EngineConfig
    from tensorus_server.recover import Recovery

__all__ = ["open_engine", "recover_store"]

_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeDecodeError)
"""What a catalogue raises that only looks like one."""


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


def recover_store(folder: Path) -> Recovery:
    """Make rows that are missing in the catalogue of the store in `folder` again, from its payloads; see `recover`.

    A catalogue that SQLite cannot open is renamed, never deleted.

    Raises:
        StoreUnavailableError: a process has the store open, or it cannot be opened.
    """
    if not (folder / "chunks").is_dir():
        raise StoreUnavailableError(f"there is no store in {folder}: it has no folder chunks/")
    chunk_store = LocalChunkStore(folder)
    try:
        if chunk_store.has_other_users():
            raise StoreUnavailableError(f"a process has the store in {folder} open: end it first")
        moved = ""
        try:
            catalogue = _open_catalogue(folder)
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, _DAMAGED):
                raise
            moved = _move_catalogue(folder)
            catalogue = _open_catalogue(folder)
        try:
            return recover(folder, catalogue, moved=moved)
        finally:
            catalogue.close()
    finally:
        chunk_store.close()


def _open_catalogue(folder: Path) -> SqliteCatalogue:
    return SqliteCatalogue(folder)


def _move_catalogue(folder: Path) -> str:
    """Rename the files of a catalogue that cannot be opened, and return the new name of the first."""
    suffix = f".damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in ("catalogue.db-wal", "catalogue.db-shm", "catalogue.db"):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{name}{suffix}")
    return f"catalogue.db{suffix}"
