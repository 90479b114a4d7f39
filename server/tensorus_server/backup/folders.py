"""What the folders of stores and backups must look like, and how their files are written durably."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tensorus_server.backup.errors import BackupError
from tensorus_server.backup.manifest import INCOMPLETE, find_manifest
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.identity_file import IdentityFile

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.backup.manifest import Manifest
    from tensorus_server.model import StoreIdentity

__all__ = ["complete_backup", "replace_identity", "require_apart", "sync_file", "write_durably"]


def require_apart(one: Path, other: Path) -> None:
    """Refuse folders of which one is, or is in, the other one.

    Raises:
        BackupError: they are.
    """
    first, second = one.resolve(), other.resolve()
    if first == second:
        raise BackupError(f"{one} and {other} are the same folder")
    if first.is_relative_to(second) or second.is_relative_to(first):
        raise BackupError(f"one of the folders {one} and {other} is inside the other one")


def complete_backup(folder: Path) -> Manifest:
    """Return the manifest of the backup in a folder.

    Raises:
        BackupError: there is no complete backup.
    """
    manifest = find_manifest(folder)
    if manifest is None:
        what = (
            "its first `tensorus backup create` did not end"
            if (folder / INCOMPLETE).exists()
            else "backup.json is missing"
        )
        raise BackupError(f"there is no complete backup in {folder}: {what}")
    return manifest


def replace_identity(chunks: Path, identity: StoreIdentity) -> None:
    """Write the identity of the payloads in a folder `chunks`, durably, whatever was there."""
    # The file prefers the higher of two epochs. After a restore of an older state, the lower one is right.
    (chunks / "store").unlink(missing_ok=True)
    IdentityFile(chunks, Files()).write(identity)


def write_durably(path: Path, text: str) -> None:
    """Replace a small file; the name is durable once its folder is synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        Files().write_all(descriptor, [text.encode()])
        Files().sync_data(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable, and let only its owner read it."""
    path.chmod(0o600)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        Files().sync_data(descriptor)
    finally:
        os.close(descriptor)
