"""What SQLite and the file system must be like, so that a catalogue can be relied on."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import apsw

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["require_local", "require_safe_sqlite"]

_SQLITE_MIN = 3051003
"""3.51.3: versions before it, but for two patched ones, can corrupt a WAL database with two connections."""

_SQLITE_PATCHED = frozenset({3050007, 3044006})

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.rclone"})
"""Their locks and syncs do not keep what SQLite needs."""

_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")
"""How Linux's table of mounts has a space, a tab, a line feed or a backslash of a path."""


def require_safe_sqlite() -> None:
    """Refuse a library that can corrupt a database."""
    # Of the library that runs: apsw's constant is the one that it was compiled against, which may be another.
    major, minor, patch, *_ = map(int, apsw.sqlite_lib_version().split("."))
    version = 1_000_000 * major + 1000 * minor + patch
    if version < _SQLITE_MIN and version not in _SQLITE_PATCHED:
        raise StoreUnavailableError(
            f"SQLite is {major}.{minor}.{patch}, which can corrupt a database; 3.51.3 or newer is needed: "
            "pip install --upgrade apsw"
        )


def require_local(folder: Path) -> None:
    """Refuse a folder on a network file system, as far as the kernel tells (Linux)."""
    resolved = str(folder.resolve())
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8") as mounts:  # noqa: PTH123 - no path of ours
            for line in mounts:
                _, escaped, mount_kind, *_ = line.split()
                mount_point = _MOUNT_ESCAPE.sub(lambda found: chr(int(found[1], 8)), escaped)
                inside = resolved == mount_point or resolved.startswith(mount_point.rstrip("/") + "/")
                if inside and len(mount_point) >= len(best):
                    best, kind = mount_point, mount_kind
    except OSError:
        return
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreUnavailableError(
            f"the folder {folder} is on a network file system ({kind}), whose locks and syncs cannot be relied on: "
            "a store needs a local disk. Run the server on the machine that has the disk, and connect to it"
        )
