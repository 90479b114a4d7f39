"""A disk whose power can be cut: a file system on a loop device, which is told to forget what it has not written."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import time
from pathlib import Path
from typing import Literal

import pytest

from support.tools import require_tools

Kind = Literal["ext4", "xfs"]

_FS_IOC_SHUTDOWN = 0x8004587D
_WITHOUT_LOG_FLUSH = 2
"""Source: ext4_shutdown in Linux's fs/ext4/ioctl.c, xfs_fs_goingdown in fs/xfs/xfs_fsops.c."""

_BYTES = 4 * 1024**3
"""Of the image, which is sparse."""

_UNMOUNT_S = 30.0


class Disk:
    """A file system of its own, mounted at `folder`.

    A cut keeps what was synced, and loses the rest: it tears and reorders nothing, and the loop device has no cache of its own
    that a sync could fail to reach.
    """

    def __init__(self, parent: Path, kind: Kind) -> None:
        """Make it and mount it; skips the test where that cannot be done."""
        require_tools(f"mkfs.{kind}")
        self.folder = parent / "disk"
        self.folder.mkdir()
        self._image = parent / "image"
        self._mounted = False
        with self._image.open("wb") as file:
            file.truncate(_BYTES)
        quiet = ["-q", "-F"] if kind == "ext4" else ["-q"]
        subprocess.run([f"mkfs.{kind}", *quiet, str(self._image)], check=True)
        ran = subprocess.run(self._mount_command(), capture_output=True, text=True, check=False)
        if ran.returncode:
            # That the machine lacks them is no fault of CI.
            pytest.skip(f"mounting {kind} takes root and loop devices: {ran.stderr.strip()}")
        self._mounted = True

    def cut(self) -> None:
        """Lose everything that is not on the disk. Whoever has files open gets errors from now on."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _FS_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Mount it again after a cut; nobody may have files open."""
        self._unmount()
        subprocess.run(self._mount_command(), check=True)
        self._mounted = True

    def close(self) -> None:
        """Unmount it, and remove it. Idempotent."""
        self._unmount()
        self._image.unlink(missing_ok=True)

    def _unmount(self) -> None:
        deadline_s = time.monotonic() + _UNMOUNT_S
        while self._mounted:
            ran = subprocess.run(["umount", str(self.folder)], capture_output=True, text=True, check=False)
            if ran.returncode == 0:
                self._mounted = False
            elif time.monotonic() > deadline_s:
                raise OSError(errno.EBUSY, ran.stderr.strip())
            else:
                # A process that was killed may still be on its way out.
                time.sleep(0.05)

    def _mount_command(self) -> list[str]:
        return ["mount", "-o", "loop", str(self._image), str(self.folder)]
