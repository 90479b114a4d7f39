"""Files of which a crash keeps no more than POSIX promises: what was synced, and of the rest any part.

After a crash, a file has what it had when it was last synced, and each sector that was written since then or not. A name that
was made, moved or removed since its folder was last synced is there or not, whatever became of the others. The kernel's own
file systems keep more: a power cut (`power.py`) cannot show that a folder is not synced.

SQLite's files are none of these. They are copied as they are, as if all of them had reached the disk.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tensorus_server.chunk_store.files import Files

__all__ = ["StrictFiles"]

_SECTOR_BYTES = 512


class StrictFiles(Files):
    """Thread-safe. It knows the files of the store's folders; the folders themselves are durable."""

    def __init__(self, on_change: Callable[[], None] = lambda: None) -> None:
        """Start with a disk that has everything.

        Args:
            on_change: called before each call that writes or syncs, on the thread that makes it; may call `crashed`.
        """
        self.on_change = on_change
        self._lock = threading.RLock()
        self._synced: dict[int, bytes] = {}
        """What the disk has of each file that was written, by its inode."""
        self._removed: dict[int, bytes] = {}
        """What files had that have no name any more."""
        self._names: defaultdict[Path, dict[str, int | None]] = defaultdict(dict)
        """What the disk has of the names that were changed: the inode, or None."""

    def create(self, path: Path) -> int:
        """Do it: the disk has neither the name nor any byte."""
        with self._changing():
            descriptor = super().create(path)
            self._synced[path.stat().st_ino] = b""
            self._names[path.parent].setdefault(path.name, None)
            return descriptor

    def write_at(self, descriptor: int, data: bytes, offset: int) -> None:
        """Do it: the disk has what it had."""
        with self._changing():
            self._keep_synced(descriptor)
            super().write_at(descriptor, data, offset)

    def cut(self, descriptor: int, length: int) -> None:
        """Do it: the disk has what it had."""
        with self._changing():
            self._keep_synced(descriptor)
            super().cut(descriptor, length)

    def write_all(self, descriptor: int, buffers: Sequence[Any]) -> int:
        """Do it: the disk has what it had."""
        with self._changing():
            self._keep_synced(descriptor)
            return super().write_all(descriptor, buffers)

    def sync_data(self, descriptor: int) -> None:
        """Let the disk have all of the file, but not its name."""
        with self._changing():
            found = Path(f"/proc/self/fd/{descriptor}")
            self._synced[found.stat().st_ino] = found.read_bytes()

    def rename(self, source: Path, target: Path) -> None:
        """Do it: the disk has the old name, and what the new one had."""
        with self._changing():
            self._names[source.parent].setdefault(source.name, source.stat().st_ino)
            self._forget(target)
            super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        """Let the disk have the folder's names."""
        with self._changing():
            self._names.pop(folder, None)

    def unlink(self, path: Path) -> None:
        """Do it: the disk has the name, and what the file had."""
        with self._changing():
            self._forget(path)
            super().unlink(path)

    def crashed(self, store: Path, target: Path, source: random.Random) -> None:
        """Write to `target` what may be left of the store if the machine crashes now."""
        with self._lock:
            target.mkdir()
            for name in ("catalogue.db", "catalogue.db-wal"):
                if (store / name).exists():
                    shutil.copy(store / name, target / name)
            for folder in [store / "chunks", *(store / "chunks").glob("??"), store / "uploads", store / "quarantine"]:
                left = target / folder.relative_to(store)
                left.mkdir()
                found: dict[str, int | None] = {
                    path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()
                }
                contents = {path.stat().st_ino: path for path in folder.iterdir() if path.is_file()}
                for name in sorted({*found, *self._names[folder]}):
                    inode = found.get(name)
                    if name in self._names[folder] and source.random() < 0.5:
                        inode = self._names[folder][name]
                    if inode is not None:
                        (left / name).write_bytes(self._left_of(inode, contents, store, source))

    def _changing(self) -> threading.RLock:
        self.on_change()
        return self._lock

    def _keep_synced(self, descriptor: int) -> None:
        found = Path(f"/proc/self/fd/{descriptor}")
        self._synced.setdefault(found.stat().st_ino, found.read_bytes())

    def _forget(self, path: Path) -> None:
        """Keep what a file has that is about to lose this name, if there is one."""
        inode = path.stat().st_ino if path.exists() else None
        self._names[path.parent].setdefault(path.name, inode)
        if inode is not None:
            self._removed[inode] = path.read_bytes()

    def _left_of(self, inode: int, contents: dict[int, Path], store: Path, source: random.Random) -> bytes:
        """Return what the disk may have of a file."""
        path = contents.get(inode) or next(
            (p for p in store.rglob("*") if p.is_file() and p.stat().st_ino == inode), None
        )
        written = self._removed[inode] if path is None else path.read_bytes()
        synced = self._synced.get(inode, written)
        if synced == written:
            return written
        length = source.randint(*sorted((len(synced), len(written))))
        old, new = synced.ljust(length, b"\0"), written.ljust(length, b"\0")
        sectors = range(0, length, _SECTOR_BYTES)
        return b"".join(source.choice((old, new))[begin : begin + _SECTOR_BYTES] for begin in sectors)[:length]
