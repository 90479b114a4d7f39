"""Makes a store of a backup. The catalogue comes last, so that an interrupted restore is not opened as a store."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.backup.catalogue_copy import CatalogueCopy
from tensorus_server.backup.errors import BackupError, as_backup_errors
from tensorus_server.backup.folders import complete_backup, replace_identity, require_apart, sync_file, write_durably
from tensorus_server.backup.payloads import bring_payloads
from tensorus_server.chunk_store.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tensorus_server.backup.manifest import Manifest

__all__ = ["RestoreReport", "restore_backup"]

_INCOMPLETE = "restore.incomplete"

_ADVICE = "The backup is damaged; `tensorus backup verify` names the tensors that are concerned"


@dataclass(frozen=True)
class RestoreReport:
    """What was restored."""

    folder: str
    manifest: Manifest
    linked: int
    """Payloads that are hard links to those of the backup."""
    copied: int
    present: int
    """Payloads that an interrupted restore had left."""
    copied_bytes: int
    seconds: float


def restore_backup(
    folder: Path,
    store: Path,
    *,
    links: bool = True,
    on_progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> RestoreReport:
    """Make a store of a backup.

    Args:
        folder: of the backup.
        store: the new folder: missing, empty, or with an interrupted restore of the same backup.
        links: see `create_backup`.
        on_progress: likewise.

    Raises:
        BackupError: there is no complete backup, the new folder is not empty, the disk is full, or a system call failed.
    """
    started_s = time.monotonic()
    require_apart(folder, store)
    with as_backup_errors("restore the backup", store):
        manifest = complete_backup(folder)
        _prepare(store, manifest)
        done = manifest.catalogue_bytes
        total = done + manifest.payload_bytes

        def add(size: int) -> None:
            nonlocal done
            done += size
            on_progress(done, total)

        with CatalogueCopy.opened(folder / "catalogue.db") as copy:
            brought = bring_payloads(
                folder / "chunks", store / "chunks", copy.needed(), links=links, advice=_ADVICE, on_bytes=add
            )
            replace_identity(store / "chunks", copy.identity)
        new = store / "catalogue.db.new"
        shutil.copyfile(folder / "catalogue.db", new)
        sync_file(new)
        new.rename(store / "catalogue.db")
        Files().sync_folder(store)
        (store / _INCOMPLETE).unlink()
        Files().sync_folder(store)
    return RestoreReport(
        str(store),
        manifest,
        brought.linked,
        brought.copied,
        brought.present,
        brought.copied_bytes,
        time.monotonic() - started_s,
    )


def _prepare(store: Path, manifest: Manifest) -> None:
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    marker = store / _INCOMPLETE
    if marker.exists():
        if marker.read_text() not in {"", manifest.to_json()}:
            raise BackupError(f"{store} has an interrupted restore of another backup: empty it first")
    elif any(store.iterdir()):
        raise BackupError(f"{store} is not empty: name a new or empty folder. Nothing was changed")
    write_durably(marker, manifest.to_json())
    (store / "chunks").mkdir(mode=0o700, exist_ok=True)
    Files().sync_folder(store)
