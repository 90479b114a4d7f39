"""Opens a backup as a store without changing it."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tensorus_server.backup.catalogue_copy import CatalogueCopy
from tensorus_server.backup.create import CHECKING_PREFIX
from tensorus_server.backup.errors import as_backup_errors
from tensorus_server.backup.folders import replace_identity
from tensorus_server.catalogue.sqlite.requirements import require_local
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["missing_payloads", "opened_copy"]


def missing_payloads(folder: Path, limit: int = 10) -> list[str]:
    """Return the files of payloads that a backup lacks, or has only a part of; at most `limit`."""
    found: list[str] = []
    with as_backup_errors("read the backup", folder), CatalogueCopy.opened(folder / "catalogue.db") as copy:
        for key, least_bytes in copy.needed():
            path = folder / "chunks" / key
            if not path.is_file() or path.stat().st_size < least_bytes:
                found.append(f"chunks/{key}")
                if len(found) == limit:
                    break
    return found


@contextmanager
def opened_copy(folder: Path) -> Iterator[Path]:
    """Yield a folder that can be opened as a store with the backup's tensors, as long as nothing is written to it.

    It has a copy of the catalogue, and links to the folders with the payloads. It must be opened without sweeps.
    """
    with as_backup_errors("open the backup", folder):
        place = Path(tempfile.mkdtemp(prefix=CHECKING_PREFIX, dir=_parent(folder)))
    try:
        with as_backup_errors("open the backup", place):
            shutil.copyfile(folder / "catalogue.db", place / "catalogue.db")
            (place / "chunks").mkdir()
            for shard in (folder / "chunks").iterdir():
                if shard.is_dir():
                    (place / "chunks" / shard.name).symlink_to(shard.resolve(), target_is_directory=True)
            with CatalogueCopy.opened(folder / "catalogue.db") as copy:
                replace_identity(place / "chunks", copy.identity)
        yield place
    finally:
        # Links are removed, and not what they lead to.
        shutil.rmtree(place, ignore_errors=True)


def _parent(folder: Path) -> Path | None:
    """Return the backup's folder if SQLite can work in it; None: where the system has temporary files."""
    try:
        require_local(folder)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, StoreUnavailableError):
        return None
