"""Faults put between the store and the machine: files that record and fail, and a catalogue whose commits fail."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorus_server.chunk_store.files import Files


class RecordingFiles(Files):
    """Files that note every call: its method, and the name of the file or folder it was about."""

    def __init__(self) -> None:
        """Start with no calls."""
        self.calls: list[tuple[str, str]] = []
        self._names: dict[int, str] = {}

    def create(self, path: Path) -> int:
        """Note it and do it; later calls with the descriptor are noted by this name."""
        self._note("create", path.name)
        descriptor = super().create(path)
        self._names[descriptor] = path.name
        return descriptor

    def open_to_write(self, path: Path) -> int:
        """Note it and do it."""
        self._note("open_to_write", path.name)
        descriptor = super().open_to_write(path)
        self._names[descriptor] = path.name
        return descriptor

    def open_to_change(self, path: Path) -> int:
        """Note it and do it."""
        self._note("open_to_change", path.name)
        descriptor = super().open_to_change(path)
        self._names[descriptor] = path.name
        return descriptor

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """Note it and do it."""
        self._note("write_at", self._names[descriptor])
        super().write_at(descriptor, data, offset)

    def cut(self, descriptor: int, length: int) -> None:
        """Note it and do it."""
        self._note("cut", self._names[descriptor])
        super().cut(descriptor, length)

    def write_all(self, descriptor: int, buffers: Sequence[Any]) -> int:
        """Note it and do it."""
        self._note("write_all", self._names[descriptor])
        return super().write_all(descriptor, buffers)

    def sync_data(self, descriptor: int) -> None:
        """Note it and do it."""
        self._note("sync_data", self._names[descriptor])
        super().sync_data(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Note it and do it."""
        self._note("rename", source.name)
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Note it and do it."""
        self._note("sync_folder", folder.name)
        super().sync_folder(folder)

    def unlink(self, path: Path) -> None:
        """Note it and do it."""
        self._note("unlink", path.name)
        super().unlink(path)

    def open_to_read(self, path: Path) -> int:
        """Note it and do it."""
        self._note("open_to_read", path.name)
        descriptor = super().open_to_read(path)
        self._names[descriptor] = path.name
        return descriptor

    def read(self, descriptor: int, offset: int, length: int) -> bytes:
        """Note it and do it."""
        self._note("read", self._names[descriptor])
        return super().read(descriptor, offset, length)

    def read_into(self, descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        """Note it and do it."""
        self._note("read_into", self._names[descriptor])
        return super().read_into(descriptor, buffers, offset)

    def methods(self, name: str) -> list[str]:
        """Return the methods that were called for a file, in order."""
        return [method for method, called in self.calls if called == name]

    def _note(self, method: str, name: str) -> None:
        self.calls.append((method, name))


class FaultyFiles(RecordingFiles):
    """Files of which some calls fail before they do anything."""

    def __init__(self) -> None:
        """Start without faults."""
        super().__init__()
        self._faults: dict[str, tuple[int, int | None, int]] = {}

    def fail(self, method: str, error_number: int, *, skip: int = 0, times: int | None = 1) -> None:
        """Let `method` fail after `skip` more calls, `times` times; None: from then on."""
        self._faults[method] = (skip, times, error_number)

    def heal(self) -> None:
        """Let everything work again."""
        self._faults.clear()

    def _note(self, method: str, name: str) -> None:
        super()._note(method, name)
        skip, times, error_number = self._faults.get(method, (0, 0, 0))
        if skip:
            self._faults[method] = (skip - 1, times, error_number)
        elif times is None or times > 0:
            self._faults[method] = (0, None if times is None else times - 1, error_number)
            raise OSError(error_number, os.strerror(error_number))


class FailingCommits:
    """Stands in for a connection: COMMIT raises, after it has been done or instead."""

    def __init__(self, connection: Any, error: Exception, *, committed: bool) -> None:
        """Fail with `error`; `committed` says whether the transaction is durable nevertheless."""
        self._connection = connection
        self._error = error
        self._committed = committed

    def execute(self, statement: str, parameters: Any = None) -> Any:
        """Run the statement, or fail."""
        if statement != "COMMIT":
            return self._connection.execute(statement, parameters)
        if self._committed:
            self._connection.execute("COMMIT")
        raise self._error

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the connection."""
        return getattr(self._connection, name)


def open_descriptors(folder: Path) -> list[str]:
    """Return what this process has open of the files below `folder`, deleted ones included."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            # The descriptor of the listing itself.
            continue
        if target.startswith(f"{folder}/"):
            found.append(target)
    return sorted(found)
