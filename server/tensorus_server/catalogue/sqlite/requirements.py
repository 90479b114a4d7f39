"""Checks that the SQLite library and the file system are safe for a catalogue."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import apsw

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["require_local", "require_safe_sqlite"]

_SQLITE_MIN = 3051003
"""3.51.3. Older versions, except for two patched ones, can corrupt a WAL database that has two connections."""

_SQLITE_PATCHED = frozenset({3050007, 3044006})

_NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "fuse.sshfs", "fuse.rclone"})
"""Their locks and fsyncs do not give the guarantees that SQLite needs."""

_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")
"""An escaped space, tab, line feed or backslash in a path of Linux's table of mounts."""


def require_safe_sqlite() -> None:
    """Refuse a library that can corrupt a database."""
    # The version of the library in use. apsw's constant is the version that apsw was compiled against, which may differ.
    major, minor, patch, *_ = map(int, apsw.sqlite_lib_version().split("."))
    version = 1_000_000 * major + 1000 * minor + patch
    if version < _SQLITE_MIN and version not in _SQLITE_PATCHED:
        raise StoreUnavailableError(
            f"SQLite is {major}.{minor}.{patch}, which can corrupt a database; 3.51.3 or newer is needed: "
            "pip install --upgrade apsw"
        )


def require_local(folder: Path) -> None:
    """Refuse a folder on a network file system; only Linux tells."""
    resolved = str(folder.resolve())
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8") as mounts:  # noqa: PTH123 - a fixed path of the kernel's
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
