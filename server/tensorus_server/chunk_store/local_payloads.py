"""Payloads in a local folder, as they are read and listed."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import ChunkReader, PayloadMissingError, PayloadUnreadableError, StoredKey
from tensorus_server.chunk_store.os_errors import as_store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tensorus_server.chunk_store.files import Files

__all__ = ["LocalReader", "entries", "missing"]


class LocalReader(ChunkReader):
    """An open payload."""

    def __init__(self, descriptor: int, files: Files) -> None:
        """Read from `descriptor`, which `close` closes."""
        self._descriptor: int | None = descriptor
        self._files = files

    @property
    def length(self) -> int:
        """See `ChunkReader`."""
        if self._descriptor is None:
            raise ValueError("the payload is closed")
        try:
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise PayloadUnreadableError(os.strerror(error.errno or 0)) from error

    def read(self, offset: int, length: int) -> bytes:
        """See `ChunkReader`."""
        if self._descriptor is None:
            raise ValueError("the payload is closed")
        try:
            data = self._files.read(self._descriptor, offset, length)
        except OSError as error:
            raise PayloadUnreadableError(os.strerror(error.errno or 0)) from error
        if len(data) != length:
            raise PayloadMissingError(f"payload ends at byte {offset + len(data)}, {offset + length} are needed")
        return data

    def close(self) -> None:
        """See `ChunkReader`."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def entries(folder: Path, prefix: str = "") -> Iterator[StoredKey]:
    """Yield the payloads in a folder."""
    with as_store_errors("list payloads"), os.scandir(folder) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                yield StoredKey(prefix + entry.name, entry.stat().st_mtime)


@contextmanager
def missing(message: str) -> Iterator[None]:
    """Turn FileNotFoundError into PayloadMissingError."""
    try:
        yield
    except FileNotFoundError as error:
        raise PayloadMissingError(message) from error
