"""Makes a backup of a store, or brings an existing one up to date.

    1. take the store's backup lock: no sweep deletes payloads from now on
    2. copy the catalogue in one state; everything that was acknowledged before is in it
    3. bring the payloads that this state needs, and release the lock
    4. write the new manifest, rename the catalogue, write the identity, rename the manifest
    5. remove the payloads that only the previous state needed

Until the catalogue's rename in step 4, the folder holds the previous backup; after it, the new one. A crash in between leaves
files that the next run uses or removes.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tensorus_server.backup.catalogue_copy import CatalogueCopy, copy_catalogue
from tensorus_server.backup.errors import BackupError, as_backup_errors
from tensorus_server.backup.folders import replace_identity, require_apart, sync_file, write_durably
from tensorus_server.backup.manifest import (
    INCOMPLETE,
    MANIFEST,
    NEW_MANIFEST,
    Manifest,
    file_crc32c,
    find_manifest,
)
from tensorus_server.backup.payloads import bring_payloads, remove_others
from tensorus_server.chunk_store.backup_lock import BackupLock
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.identity_file import IdentityFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tensorus_server.backup.payloads import Brought

__all__ = ["CHECKING_PREFIX", "BackupReport", "create_backup"]

CHECKING_PREFIX = "checking."
"""Start of the names of folders in which a backup is opened."""

_ADVICE = (
    "`tensorus verify` names the tensors that need it: replace or delete these first. If a server of an older version is "
    "running, which does not wait for backups, try again"
)


@dataclass(frozen=True)
class BackupReport:
    """What a backup holds, and what was done for it."""

    folder: str
    manifest: Manifest
    linked: int
    """Payloads that are hard links to those of the store."""
    copied: int
    present: int
    """Payloads that were in the folder already."""
    removed: int
    """Payloads that the previous backup in the folder needed, and this one does not."""
    copied_bytes: int
    """Of payloads."""
    seconds: float


def create_backup(
    store: Path,
    folder: Path,
    *,
    version: str,
    links: bool = True,
    on_progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> BackupReport:
    """Make a backup of the store, or bring the one in the folder up to date. Servers may write meanwhile.

    Args:
        store: folder of the store.
        folder: of the backup: missing, empty, or with a backup of the same store.
        version: of this program, for the manifest.
        links: link payloads if both folders are on one file system.
        on_progress: called with the bytes that are done, and their total once it is known.

    Raises:
        BackupError: the folders are not what they should be, a payload is missing, the disk is full, or a system call failed.
        StoreBusyError: another backup of the store is running.
        StoreUnavailableError: the SQLite library is unsafe.
    """
    started_s = time.monotonic()
    require_apart(store, folder)
    with as_backup_errors("make the backup", folder):
        _require_same_store(store, _prepare(folder), folder)
        new = folder / "catalogue.db.new"
        with BackupLock(store).alone():
            started = _now()
            copy_catalogue(store / "catalogue.db", new, lambda done: on_progress(done, None))
            sync_file(new)
            with CatalogueCopy.opened(new) as copy:
                before = find_manifest(folder)
                if before is not None and before.store != copy.identity.id:
                    raise _other_store(folder)
                brought = _bring(store, folder, copy, new.stat().st_size, on_progress, links=links)
                manifest = _manifest(copy, brought, new, started, version)
        removed = _switch(folder, new, manifest)
    return BackupReport(
        str(folder),
        manifest,
        brought.linked,
        brought.copied,
        brought.present,
        removed,
        brought.copied_bytes,
        time.monotonic() - started_s,
    )


def _prepare(folder: Path) -> Manifest | None:
    """Make the folder ready, and return the manifest of the backup that it has."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = find_manifest(folder)
    if before is None and not (folder / INCOMPLETE).exists():
        if any(folder.iterdir()):
            raise BackupError(f"{folder} is not empty and has no backup in it: name a new or empty folder")
        write_durably(folder / INCOMPLETE, "")
    for left in [*folder.glob(f"{CHECKING_PREFIX}*")]:
        shutil.rmtree(left, ignore_errors=True)
    for name in ("catalogue.db.new", "catalogue.db.new-journal"):
        (folder / name).unlink(missing_ok=True)
    (folder / "chunks").mkdir(mode=0o700, exist_ok=True)
    Files().sync_folder(folder)
    return before


def _require_same_store(store: Path, before: Manifest | None, folder: Path) -> None:
    found = IdentityFile(store / "chunks", Files()).read()
    if before is not None and found is not None and before.store != found.id:
        raise _other_store(folder)


def _other_store(folder: Path) -> BackupError:
    return BackupError(f"the backup in {folder} is of another store: name a new or empty folder")


def _bring(
    store: Path,
    folder: Path,
    copy: CatalogueCopy,
    catalogue_bytes: int,
    on_progress: Callable[[int, int | None], None],
    *,
    links: bool,
) -> Brought:
    done = catalogue_bytes
    total = done + copy.needed_bytes()

    def add(size: int) -> None:
        nonlocal done
        done += size
        on_progress(done, max(done, total))

    return bring_payloads(store / "chunks", folder / "chunks", copy.needed(), links=links, advice=_ADVICE, on_bytes=add)


def _manifest(copy: CatalogueCopy, brought: Brought, catalogue: Path, started: str, version: str) -> Manifest:
    identity = copy.identity
    return Manifest(
        store=identity.id,
        epoch=identity.epoch,
        version=version,
        schema=copy.schema,
        started=started,
        finished=_now(),
        datasets=copy.datasets(),
        tensors=copy.tensors(),
        past_tensors=copy.past_tensors(),
        payloads=brought.payloads,
        payload_bytes=brought.payload_bytes,
        catalogue_bytes=catalogue.stat().st_size,
        catalogue_crc32c=file_crc32c(catalogue),
    )


def _switch(folder: Path, new: Path, manifest: Manifest) -> int:
    """Make the new state the backup, and return how many payloads were removed that it does not need."""
    files = Files()
    write_durably(folder / NEW_MANIFEST, manifest.to_json())
    files.sync_folder(folder)
    new.rename(folder / "catalogue.db")
    files.sync_folder(folder)
    with CatalogueCopy.opened(folder / "catalogue.db") as copy:
        replace_identity(folder / "chunks", copy.identity)
        (folder / NEW_MANIFEST).rename(folder / MANIFEST)
        (folder / INCOMPLETE).unlink(missing_ok=True)
        files.sync_folder(folder)
        return remove_others(folder / "chunks", copy.is_needed)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
