"""Opens the place where a `TensorStorage` keeps its data: a folder, a server, or memory."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tensorus
from tensorus import _allocator
from tensorus.client import Client
from tensorus.errors import UnavailableError
from tensorus.tensor_storage._memory import MemoryFolder
from tensorus.tensor_storage._old_files import import_old_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus.old_files import FileReport

__all__ = ["Place", "open_place"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)

_log = logging.getLogger(__name__)


class FolderIdentity:
    """Detects whether a folder was removed, or replaced by another one."""

    def __init__(self, path: Path) -> None:
        """Remember the folder that currently has this absolute path."""
        self._path = path
        self._status = path.stat()

    def is_there(self) -> bool:
        """Return whether the path still leads to the same folder."""
        try:
            return os.path.samestat(self._path.stat(), self._status)
        except OSError:
            return False


@dataclass(frozen=True)
class Place:
    """An open place. It is also closed when it is garbage-collected, and when the process ends."""

    client: Client
    path: Path | str | None
    """The folder; the address of a server as given; None for memory."""
    close: Callable[[], object]
    """Closes the place; data in memory are lost. Idempotent."""
    fallback_reason: str | None = None
    """Why it is memory although a folder was requested."""
    import_report: tuple[FileReport, ...] = ()
    """Reports on files of Tensorus 0.1 in the folder whose import was tried."""
    folder: FolderIdentity | None = None
    """The folder as it was opened; None for a server or memory."""

    def __post_init__(self) -> None:
        """Register the finalizer."""
        weakref.finalize(self, self.close)

    def require_there(self) -> None:
        """Refuse to write to a folder that was removed: its files are still open, but what is written would be lost.

        Raises:
            UnavailableError: the folder was removed, or replaced by another one.
        """
        if self.folder is not None and not self.folder.is_there():
            raise UnavailableError(f"the folder {self.path} of the store was removed", reason="STORE_UNAVAILABLE")


def open_place(storage_path: str | os.PathLike[str] | None) -> Place:
    """Open the place that a storage path names; an empty path means memory, as in Tensorus 0.1.

    Raises:
        NotImplementedError: the scheme is neither grpc nor grpcs.
        ConnectionError: the server cannot be reached, or the folder holds a store that cannot be opened.
    """
    if storage_path is None or storage_path == "":
        return _in_memory(None)
    scheme = _SCHEME.fullmatch(storage_path) if isinstance(storage_path, str) else None
    if scheme is None:
        return _in_folder(Path(storage_path))
    if scheme[1].lower() not in {"grpc", "grpcs"}:
        raise NotImplementedError(
            f"storage_path is {storage_path!r}: {scheme[1]}:// is not supported; it can be a folder, grpc://host:port, "
            "grpcs://host:port, or None"
        )
    return _on_server(str(storage_path))


def _on_server(storage_path: str) -> Place:
    client = tensorus.connect(storage_path)
    try:
        # Detect a wrong address now instead of at the first use.
        client.datasets()
    except BaseException:
        client.close()
        raise
    return Place(client, storage_path, _Closing(client))


def _in_folder(folder: Path) -> Place:
    reason = _why_unusable(folder)
    if reason is not None:
        message = (
            f"the storage path {folder} cannot be used ({reason}): all data is kept in memory, and lost at the end"
        )
        _log.error(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return _in_memory(reason)
    # Make the path absolute, so that later changes of the working directory do not affect it.
    absolute = folder.absolute()
    client = tensorus.open(absolute)
    try:
        report = import_old_files(client, absolute)
    except BaseException:
        client.close()
        raise
    return Place(client, folder, _Closing(client), import_report=report, folder=FolderIdentity(absolute))


def _why_unusable(folder: Path) -> str | None:
    """Create a folder if necessary, and return why it cannot be written to, or None."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Checking permissions is not enough: the file system may be read-only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return error.strerror or str(error)
    return None


def _in_memory(fallback_reason: str | None) -> Place:
    folder = MemoryFolder()
    try:
        client = _open_temporary(folder.path)
    except BaseException:
        folder.remove()
        raise
    return Place(client, None, _Closing(client, folder), fallback_reason)


def _open_temporary(folder: Path) -> Client:
    """Do the same as `tensorus.open`, for a folder that is removed when the process ends."""
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415 - the thin client has no engine

    backend = EmbeddedBackend.temporary(folder)
    _allocator.tune_allocator()
    return Client(backend)


class _Closing:
    """Closes a client and removes a folder, but only in the process that created them: a forked child must not."""

    def __init__(self, client: Client, folder: MemoryFolder | None = None) -> None:
        self._client = client
        self._folder = folder
        self._process = os.getpid()

    def __call__(self) -> None:
        if os.getpid() == self._process:
            self._client.close()
            if self._folder is not None:
                self._folder.remove()
