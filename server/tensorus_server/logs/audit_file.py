"""The file of an audit log: lines are appended whole, by all processes of a server.

Each batch of lines is one write to a file that was opened for appending, so the kernel puts it behind what others wrote.
Nothing is buffered here: what was written survives the end of the process. The kernel brings it to the disk in its own time.

If the file is moved or deleted, as logrotate does, it is opened anew within a second. If it cannot be written, calls go on: the
error is logged once, and once there is room again a line says how many are missing.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.logs.formats import utc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["AuditFile"]

_LOOK_S = 1.0
"""How often to look whether the file was moved."""

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
"""`O_NONBLOCK` keeps a pipe without a reader from blocking; it changes nothing for a file."""

_log = logging.getLogger("tensorus_server.audit")


class AuditFile:
    """See the module's description. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open the file; a new one can be read by its owner alone.

        Raises:
            StoreUnavailableError: it cannot be opened, or is no regular file.
        """
        self._path = path
        self._lock = threading.Lock()
        self._looked_s = time.monotonic()
        self._lost = 0
        """Lines that could not be written since the last one that was."""
        self._is_torn = False
        """Whether the last write was cut short, so that the file may end within a line."""
        try:
            self._descriptor = _opened(path)
        except OSError as error:
            raise StoreUnavailableError(f"cannot open the audit log {path}: {error.strerror}") from error

    @property
    def lost(self) -> int:
        """Lines that could not be written since the last one that was."""
        return self._lost

    def write(self, lines: Sequence[str]) -> None:
        """Append lines, without their ends. Never raises an error of the file."""
        with self._lock:
            if self._descriptor < 0:
                return
            now_s = time.monotonic()
            if now_s - self._looked_s >= _LOOK_S:
                self._looked_s = now_s
                self._follow()
            found = [self._gap(), *lines] if self._lost else lines
            data = "".join(f"{line}\n" for line in found).encode()
            self._append(b"\n" + data if self._is_torn else data, len(lines))

    def close(self) -> None:
        """Close the file; later lines are dropped. Idempotent."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def _append(self, data: bytes, lines: int) -> None:
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                # The disk is full. What is there of the last line is ended by the next write.
                self._is_torn = True
                os.write(self._descriptor, data[written:])
        except OSError as error:
            if not self._lost:
                _log.error("cannot write the audit log %s: %s; lines are lost until it can", self._path, error.strerror)
            self._lost += lines
            return
        if self._lost:
            _log.warning("the audit log %s is written again; %d lines are lost", self._path, self._lost)
        self._lost, self._is_torn = 0, False

    def _gap(self) -> str:
        entry = {"time": utc(time.time()), "process": os.getpid(), "event": "lost", "lines": self._lost}
        return json.dumps(entry)

    def _follow(self) -> None:
        """Open the file anew if its path names another one, or none. The lock is held."""
        ours = os.fstat(self._descriptor)
        try:
            there = self._path.stat()
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                return
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("cannot look at the audit log %s: %s", self._path, error.strerror)
            return
        try:
            opened = _opened(self._path)
        except OSError as error:
            _log.error("cannot open the audit log %s anew: %s; the old file is used", self._path, error.strerror)
            return
        os.close(self._descriptor)
        self._descriptor, self._is_torn = opened, False


def _opened(path: Path) -> int:
    descriptor = os.open(path, _FLAGS, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return descriptor
