"""The quarantine of a local chunk store: a folder next to those of the payloads.

    quarantine/<until>.<shard>.<32 hex>         was chunks/<shard>/<32 hex>
    quarantine/<until>.uploads.<32 hex>         was uploads/<32 hex>

<until> is when the file may be deleted, in UTC, such as 20260130T235959Z. It is part of the name rather than the file's
modification time, so that copies of the folder preserve it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadMissingError, Quarantine, Quarantined
from tensorus_server.chunk_store.os_errors import as_store_errors

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.chunk_store.abc import Leases
    from tensorus_server.chunk_store.files import Files

__all__ = ["LocalQuarantine", "quarantined"]

_TIME = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"(\d{8}T\d{6}Z)\.([0-9a-f]{2}|uploads)\.([0-9a-f]{32})")


class LocalQuarantine(Quarantine):
    """See the module's description."""

    def __init__(self, store_folder: Path, files: Files, leases: Leases) -> None:
        """Use the folder `quarantine` of a store, which must exist when a method is called.

        Args:
            leases: the leases of kept payloads.
        """
        self.folder = store_folder / "quarantine"
        self._store_folder = store_folder
        self._files = files
        self._leases = leases

    def put(self, key: str, *, until_s: float) -> bool:
        """See `Quarantine`."""
        home, _, name = key.rpartition("/")
        if home != "uploads":
            return self._put(key, until_s)
        # A writer of a kept payload holds its lease. A published payload has no writer, and readers may continue.
        self._leases.acquire(name)
        try:
            return self._put(key, until_s)
        finally:
            self._leases.release(name)

    def entries(self) -> list[Quarantined]:
        """See `Quarantine`. Files with other names are ignored."""
        return quarantined(self.folder)

    def restore(self, entry: Quarantined) -> None:
        """See `Quarantine`."""
        home = self._home(entry.key)
        with as_store_errors("restore a payload"):
            try:
                self._files.rename(self._path(entry.key, entry.until_s), home)
            except FileNotFoundError as error:
                raise PayloadMissingError(f"no payload in quarantine has the key {entry.key}") from error
            self._files.sync_folder(home.parent)
            self._files.sync_folder(self.folder)

    def delete(self, entry: Quarantined) -> None:
        """See `Quarantine`."""
        with as_store_errors("delete a payload in quarantine"), suppress(FileNotFoundError):
            self._files.unlink(self._path(entry.key, entry.until_s))

    def _put(self, key: str, until_s: float) -> bool:
        source = self._home(key)
        with as_store_errors("move a payload to quarantine"):
            try:
                self._files.rename(source, self._path(key, until_s))
            except FileNotFoundError:
                return False
            # The new name is synced first, so that a crash in between leaves two names of the file, and never none.
            self._files.sync_folder(self.folder)
            self._files.sync_folder(source.parent)
        return True

    def _home(self, key: str) -> Path:
        return self._store_folder / (key if key.startswith("uploads/") else f"chunks/{key}")

    def _path(self, key: str, until_s: float) -> Path:
        return self.folder / f"{datetime.fromtimestamp(until_s, UTC):{_TIME}}.{key.replace('/', '.')}"


def quarantined(folder: Path) -> list[Quarantined]:
    """Return what is in the quarantine in a folder, sorted by when it may be deleted."""
    found = []
    with as_store_errors("list the quarantine"):
        for path in folder.iterdir():
            if match := _NAME.fullmatch(path.name):
                until, home, name = match.groups()
                until_s = datetime.strptime(until, _TIME).replace(tzinfo=UTC).timestamp()
                with suppress(FileNotFoundError):
                    found.append(Quarantined(f"{home}/{name}", path.stat().st_size, until_s))
    return sorted(found, key=lambda entry: entry.until_s)
