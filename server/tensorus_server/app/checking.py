"""Checks before a start whether a server could open a store. Nothing is created, migrated or locked for long.

Of an object store, it tries what every start tries: it stores a few small objects, and deletes them.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tensorus_server.app.local import OPENING_BYTES, open_folder
from tensorus_server.catalogue.sqlite.checking import check_catalogue
from tensorus_server.catalogue.sqlite.requirements import require_local
from tensorus_server.catalogue.sqlite.spare_room import SpareRoom
from tensorus_server.chunk_store.local import Reserve
from tensorus_server.chunk_store.local_leases import living_processes
from tensorus_server.chunk_store.read_only import ReadOnlyLocalChunkStore
from tensorus_server.errors import EngineError, StorageFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from tensorus_server.catalogue.identity_check import FoundPayloads
    from tensorus_server.config import EngineConfig

__all__ = ["Check", "Outcome", "attempt", "check_store", "describe_schema"]

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    """What was checked."""
    outcome: Outcome
    """failed: the server would not start. warning: it would, and somebody should know this."""
    detail: str


def attempt(name: str, work: Callable[[], tuple[Outcome, str]]) -> Check:
    """Run one check; an error of the engine or the system is a failure."""
    try:
        return Check(name, *work())
    except EngineError as error:
        return Check(name, "failed", str(error))
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        return Check(name, "failed", f"{where}{error.strerror or error}")


def check_store(config: EngineConfig) -> Iterator[Check]:
    """Check the store of the settings; yields one result after the other.

    Raises:
        ImportError: a library that its backends need is not installed.
    """
    folder = config.data_dir
    if config.read_only and config.chunks is None:
        yield attempt("reading", lambda: _reading(config))
        return
    if config.chunks is None:
        if not (yield from _check_folder(folder)):
            return
        yield attempt("space", lambda: _space(config))
        yield attempt("processes", lambda: _processes(folder))
        yield attempt("catalogue", lambda: _catalogue(folder, ReadOnlyLocalChunkStore(folder)))
        return
    if config.catalogue is None and not (yield from _check_folder(folder)):
        return
    from tensorus_server.app.checking_remote import check_remote  # noqa: PLC0415 - a store in a folder needs none of its libraries

    yield from check_remote(config, lambda payloads: attempt("catalogue", lambda: _catalogue(folder, payloads)))
    if config.cache_dir is not None:
        cache = config.cache_dir
        yield attempt("cache", lambda: _writable(cache))


def _check_folder(folder: Path) -> Generator[Check, None, bool]:
    """Yield what was found, and return whether it makes sense to look at what is in the folder."""
    found = attempt("folder", lambda: _writable(folder))
    yield found
    if found.outcome == "failed":
        return False
    yield attempt("file system", lambda: _file_system(folder))
    return True


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    return folder


def _writable(folder: Path) -> tuple[Outcome, str]:
    place = _existing(folder.absolute())
    if not place.is_dir():
        return "failed", f"{place} is not a folder"
    if not _may_write(place):
        return "failed", f"{place} cannot be written to by this user ({os.geteuid()})"
    if place != folder.absolute():
        return "ok", f"{folder} will be created"
    refused = sorted(entry.name for entry in place.iterdir() if not _may_write(entry))
    if refused:
        return "failed", f"{', '.join(refused)} in {folder} cannot be written to by this user ({os.geteuid()})"
    return "ok", f"{folder} can be written to"


def _may_write(path: Path) -> bool:
    mode = os.R_OK | os.W_OK | (os.X_OK if path.is_dir() else 0)
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _file_system(folder: Path) -> tuple[Outcome, str]:
    require_local(folder)
    # A shared lock that nobody else takes on this folder, and a sync of what is there: both change nothing.
    descriptor = os.open(_existing(folder.absolute()), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.fsync(descriptor)
    except OSError as error:
        return "failed", f"a folder cannot be locked or synced here: {error.strerror}"
    finally:
        os.close(descriptor)
    return "ok", "local, with locks and syncs of folders"


def _space(config: EngineConfig) -> tuple[Outcome, str]:
    place = _existing(config.data_dir.absolute())
    status = os.statvfs(place)
    free_bytes = status.f_bavail * status.f_frsize
    reserve = Reserve(place, reserve_bytes=config.reserve_bytes, reserve_share=config.reserve_share)
    try:
        reserve.require(now=True)
    except StorageFullError as error:
        if free_bytes >= OPENING_BYTES or SpareRoom(config.data_dir).is_reserved():
            return "warning", f"inserts will be refused: {error}"
        raise
    return "ok", f"{free_bytes / 1024**3:.1f} GiB free, more than the reserve"


def _processes(folder: Path) -> tuple[Outcome, str]:
    others = living_processes(folder)
    if others == 0:
        return "ok", "no process has the store open"
    return "warning", f"{others} process{'es have' if others > 1 else ' has'} the store open; writes take turns"


def _catalogue(folder: Path, payloads: FoundPayloads) -> tuple[Outcome, str]:
    return describe_schema(*check_catalogue(folder, payloads))


def _reading(config: EngineConfig) -> tuple[Outcome, str]:
    open_folder(config).close()
    return "ok", f"the store in {config.data_dir} can be opened for reading only"


def describe_schema(version: int, latest: int) -> tuple[Outcome, str]:
    """Return the outcome for a catalogue with this schema version, 0 if it does not exist, and this version's own."""
    if version == 0:
        return "ok", "a new store will be created"
    if version < latest:
        return (
            "warning",
            f"schema version {version} will be migrated to {latest}, and older versions cannot open it then",
        )
    return "ok", f"schema version {version}, matches its payloads"
