"""Builds an engine on one folder: the catalogue in SQLite, the payloads in files."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import apsw

from tensorus_server.catalogue.identity_check import LOSS_QUARANTINE_S
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.catalogue.sqlite.read_only import ReadOnlySqliteCatalogue
from tensorus_server.catalogue.sqlite.spare_room import SpareRoom
from tensorus_server.chunk_store.files import Files, UnsyncedFiles
from tensorus_server.chunk_store.local import LocalChunkStore, Reserve
from tensorus_server.chunk_store.read_only import ReadOnlyLocalChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.session_locks import SessionLocks
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.engine.orphans import quarantine_all_orphans
from tensorus_server.engine.recover import recover
from tensorus_server.engine.recovery_sources import StoreFolder
from tensorus_server.errors import StorageFullError, StoreUnavailableError
from tensorus_server.key_locks import KeyLocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tensorus_server.config import EngineConfig
    from tensorus_server.engine.recover import Recovery

__all__ = ["OPENING_BYTES", "open_folder", "recover_folder"]

_DAMAGED = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, UnicodeDecodeError)
"""Errors from opening a file that is damaged or not a catalogue."""

OPENING_BYTES = 256 * 1024
"""Space that opening a store needs, for folders, and for SQLite's log and its index."""


def open_folder(config: EngineConfig, *, ask: Callable[[str, int], None] | None = None) -> Engine:
    """Open the store in `config.data_dir`, or create it, unless it is to be read only.

    Args:
        ask: see `SessionLocks`; for a worker of a server with several. None: no other process serves the same inserts.

    Raises:
        StoreUnavailableError: it cannot be opened; the message says why.
    """
    if config.read_only:
        return _open_to_read(config)
    try:
        return _open(config, ask)
    except StoreUnavailableError:
        # SQLite reports a full disk by several errors. A user who wants to free space must be able to open the store.
        if not _is_full(config.data_dir) or not SpareRoom(config.data_dir).release():
            raise
        return _open(config, ask)


def _open(config: EngineConfig, ask: Callable[[str, int], None] | None) -> Engine:
    folder = config.data_dir
    try:
        with ExitStack() as opened:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            reserve = Reserve(folder, reserve_bytes=config.reserve_bytes, reserve_share=config.reserve_share)
            chunk_store = LocalChunkStore(
                folder, reserve=reserve, files=UnsyncedFiles() if config.in_memory else Files()
            )
            opened.callback(chunk_store.close)
            catalogue = SqliteCatalogue(
                None if config.in_memory else folder,
                payloads=chunk_store,
                accept_loss=config.accept_loss,
                delete_grace_s=config.delete_grace_s,
                upload_expiry_s=config.upload_expiry_s,
            )
            opened.callback(catalogue.close)
            if config.accept_loss:
                quarantine_all_orphans(catalogue, chunk_store, chunk_store.quarantine, quarantine_s=LOSS_QUARANTINE_S)
            sessions = InsertSessions(None if ask is None else SessionLocks(folder / "sessions.lock", ask))
            opened.callback(sessions.close)
            tensor_locks = TensorLocks(None if config.in_memory else KeyLocks(folder / "edits.lock"))
            opened.callback(tensor_locks.close)
            pool = CodecPool(config.codec_threads)
            # From here on, the engine owns all parts and closes them.
            opened.pop_all()
    except OSError as error:
        raise StoreUnavailableError(f"cannot open a store in {folder}: {error.strerror}") from error
    except StorageFullError as error:
        raise StoreUnavailableError(f"cannot open a store in {folder}: {error}") from error
    return Engine(
        catalogue,
        chunk_store,
        pool,
        sessions,
        tensor_locks,
        orphan_age_s=config.orphan_age_s,
        quarantine_s=config.quarantine_s,
        sweeps=config.sweeps,
        in_memory=config.in_memory,
        shares_payloads=config.shares_payloads,
    )


def _open_to_read(config: EngineConfig) -> Engine:
    """Open a store, or a backup of one, for reading only. Nothing in its folder is changed, created or locked."""
    folder = config.data_dir
    try:
        chunk_store = ReadOnlyLocalChunkStore(folder)
        catalogue = ReadOnlySqliteCatalogue(
            folder,
            payloads=chunk_store,
            delete_grace_s=config.delete_grace_s,
            upload_expiry_s=config.upload_expiry_s,
        )
    except OSError as error:
        raise StoreUnavailableError(f"cannot open a store in {folder}: {error.strerror}") from error
    return Engine(catalogue, chunk_store, CodecPool(config.codec_threads), sweeps=False)


def _is_full(folder: Path) -> bool:
    """Return whether the disk has less space than opening a store needs."""
    try:
        return shutil.disk_usage(folder).free < OPENING_BYTES
    except OSError:
        return False


def recover_folder(folder: Path) -> Recovery:
    """Recover missing rows in the catalogue of the store in `folder` from its payloads; see `recover`.

    If SQLite cannot open the catalogue, it is renamed and never deleted.

    Raises:
        StoreUnavailableError: a process has the store open, or it cannot be opened.
    """
    if not (folder / "chunks").is_dir():
        raise StoreUnavailableError(f"there is no store in {folder}: the folder chunks/ is missing")
    chunk_store = LocalChunkStore(folder)
    try:
        if chunk_store.leases.has_other_users():
            raise StoreUnavailableError(f"a process has the store in {folder} open: stop it first")
        moved = ""
        try:
            catalogue = _catalogue_to_mend(folder, chunk_store)
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, _DAMAGED):
                raise
            moved = _move_catalogue(folder)
            catalogue = _catalogue_to_mend(folder, chunk_store)
        try:
            return recover(StoreFolder(folder), catalogue, moved=moved)
        finally:
            catalogue.close()
    finally:
        chunk_store.close()


def _catalogue_to_mend(folder: Path, chunk_store: LocalChunkStore) -> SqliteCatalogue:
    """Open a catalogue without requiring that it match its payloads, since recovery is about to add their rows."""
    return SqliteCatalogue(folder, payloads=chunk_store, accept_loss=True)


def _move_catalogue(folder: Path) -> str:
    """Rename the files of a catalogue that cannot be opened, and return the new name of its main file."""
    suffix = f".damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for name in ("catalogue.db-wal", "catalogue.db-shm", "catalogue.db"):
        if (folder / name).exists():
            (folder / name).rename(folder / f"{name}{suffix}")
    return f"catalogue.db{suffix}"
