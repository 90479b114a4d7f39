"""Stores that are not to change: what is in their folders, and ways to make it impossible to write there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.tools import skip

WRITABLE_NEVER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""Runs a program as root without the right to write files whose modes forbid it."""


def state_of(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Return everything that is in a folder: modes, sizes, times of change, and bytes."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Take the right to write from every file and folder meanwhile."""
    modes = {path: path.stat().st_mode for path in [folder, *folder.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def mounted_read_only(folder: Path, place: Path) -> Iterator[Path]:
    """Mount a folder at another place, where it cannot be written; skip the test where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        skip("needs root, to mount a folder")
    place.mkdir()
    if subprocess.run(["mount", "--bind", folder, place], capture_output=True, check=False).returncode:
        skip("needs the right to mount a folder")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def unprivileged(command: Sequence[str]) -> list[str]:
    """Return a command that runs Python so that modes of files count, even for root; skip the test if that is impossible."""
    ours = [sys.executable, *command]
    if os.geteuid() != 0:
        return ours
    if shutil.which("setpriv") is None:
        skip("needs setpriv, of util-linux, to give up the rights of root")
    return [*WRITABLE_NEVER, *ours]
