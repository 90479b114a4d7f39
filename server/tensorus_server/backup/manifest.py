"""The manifest of a backup, `backup.json`: one JSON object, whose last field is a CRC32C of the others.

While a backup is updated, `backup.json.new` describes the new state and `backup.json` the previous one. The one that has the
checksum of `catalogue.db` counts, so the rename of the catalogue alone switches from one state to the other.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import crc32c

from tensorus_server.backup.errors import BackupError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["INCOMPLETE", "MANIFEST", "NEW_MANIFEST", "Manifest", "file_crc32c", "find_manifest"]

MANIFEST = "backup.json"
NEW_MANIFEST = "backup.json.new"
INCOMPLETE = "backup.incomplete"

_FORMAT = 1

_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What a backup holds."""

    store: str
    """Id of the store."""
    epoch: int
    """Of the catalogue; see `identity_check.py`."""
    version: str
    """Version of Tensorus that made the backup."""
    schema: int
    """Version of the catalogue's schema."""
    started: str
    """When the backup began, UTC, ISO 8601. It has everything that was acknowledged before."""
    finished: str
    datasets: int
    tensors: int
    past_tensors: int
    """Replaced and deleted tensors that snapshots or retention keep."""
    payloads: int
    payload_bytes: int
    """Size of their files."""
    catalogue_bytes: int
    catalogue_crc32c: int

    def to_json(self) -> str:
        """Return the text of the file."""
        fields = {"format": _FORMAT, **asdict(self)}
        return json.dumps({**fields, "crc32c": _crc(fields)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Return the manifest in the text of a file.

        Raises:
            BackupError: it is damaged, or a newer version wrote it.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            if fields.pop("crc32c") != _crc(fields):
                raise BackupError("its checksum is wrong")
            if fields.pop("format") != _FORMAT:
                raise BackupError("a newer version of Tensorus wrote it")
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BackupError):
                raise
            raise BackupError(f"it is not a manifest: {error}") from error


def find_manifest(folder: Path) -> Manifest | None:
    """Return the manifest that describes the backup in a folder; None: there is none.

    Raises:
        BackupError: there are manifests, but they are damaged, or none describes the catalogue.
    """
    found: list[Manifest] = []
    for name in (NEW_MANIFEST, MANIFEST):
        try:
            found.append(Manifest.from_json((folder / name).read_text()))
        except FileNotFoundError:
            continue
        except BackupError as error:
            # The new one may be half written.
            if name == MANIFEST:
                raise BackupError(f"{folder / name} is damaged: {error}") from error
    if not found:
        return None
    try:
        crc = file_crc32c(folder / "catalogue.db")
    except FileNotFoundError as error:
        raise BackupError(f"the backup in {folder} has lost its catalogue.db") from error
    log = folder / "catalogue.db-wal"
    is_changed = log.exists() and log.stat().st_size > 0
    for manifest in found:
        if manifest.catalogue_crc32c == crc and not is_changed:
            return manifest
    raise BackupError(
        f"catalogue.db in {folder} is not the one that was backed up: it is damaged, or the folder has been used as a store "
        "since"
    )


def file_crc32c(path: Path) -> int:
    """Return the CRC32C of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            crc = crc32c.crc32c(block, crc)
    return crc


def _crc(fields: dict[str, Any]) -> int:
    return crc32c.crc32c(json.dumps(fields, sort_keys=True).encode())
