"""A chunk store that keeps payloads as files in a local folder.

    tmp/<process>/<32 hex>      payloads being written; their folder is locked while its process lives (`local_leases.py`)
    uploads/<32 hex>            payloads being written that are partly kept
    uploads.lock                the locks of the processes that write them
    backup.lock                 a backup's lock against sweeps (`backup_lock.py`)
    chunks/00..ff/<32 hex>      published payloads, in 256 shards; the key is "<shard>/<32 hex>"
    chunks/store                the identity of the store that they belong to (`identity_file.py`)
    quarantine/                 orphans, before they are deleted (`local_quarantine.py`)

Files have mode 0600 and folders 0700, whatever the umask.

A payload is durable before it becomes visible: write → fdatasync → rename into its shard → fsync of the shard's folder. Without
the first sync, files had length zero after a power failure (ext4 and XFS). Without the second, POSIX does not guarantee that
the new name survives. A group of payloads that is published together goes into one shard, so that it costs a single fsync of a
folder. The next group goes into the next shard.

A growing payload is synced every `SYNC_EVERY_BYTES` on another thread, so that the last sync is short. If a sync fails, the
file is dropped and never synced again, because Linux reports the loss only once and then treats the pages as clean.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tensorus_server.background import WorkerPool, result_of
from tensorus_server.chunk_store.abc import (
    ChunkStore,
    ChunkWriter,
    PayloadMissingError,
    Space,
    StagedPayload,
)
from tensorus_server.chunk_store.backup_lock import BackupLock
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.identity_file import IdentityFile
from tensorus_server.chunk_store.local_leases import LocalLeases
from tensorus_server.chunk_store.local_payloads import LocalReader, entries, missing
from tensorus_server.chunk_store.local_quarantine import LocalQuarantine
from tensorus_server.chunk_store.os_errors import as_store_errors
from tensorus_server.errors import StorageFullError
from tensorus_server.limits import SYNC_EVERY_BYTES
from tensorus_server.meters import ChunkStoreMeters

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from pathlib import Path

    from typing_extensions import Buffer

    from tensorus_server.chunk_store.abc import ChunkReader, Leases, Quarantine, StoredKey
    from tensorus_server.model import StoreIdentity

__all__ = ["LocalChunkStore", "Reserve"]

SHARDS = tuple(f"{shard:02x}" for shard in range(256))
"""Names of the folders that payloads are spread over. Read when a store is opened."""

_SPACE_CHECK_EVERY_BYTES = 64 * 1024 * 1024
_SPACE_CHECK_EVERY_S = 1.0
_SYNC_THREADS = 4
"""Number of syncs, by different streams, that can run at the same time. They wait for the disk and use little CPU."""

_log = logging.getLogger(__name__)


class Reserve:
    """Free disk space that inserts must leave for reads, deletes and the catalogue: the larger of a size and a share."""

    def __init__(self, folder: Path, *, reserve_bytes: int, reserve_share: float) -> None:
        """Watch the file system of `folder`; see `EngineConfig`."""
        self._folder = folder
        self._bytes = reserve_bytes
        self._share = reserve_share
        self._checked_s = -_SPACE_CHECK_EVERY_S

    def require(self, *, now: bool = False) -> None:
        """Check that more than the reserve is free. Asks the disk at most once a second, unless `now` is set.

        Raises:
            StorageFullError: only the reserve is left.
        """
        if not now and time.monotonic() - self._checked_s < _SPACE_CHECK_EVERY_S:
            return
        with as_store_errors("look at the free space"):
            usage = shutil.disk_usage(self._folder)
        reserve = max(self._bytes, int(self._share * usage.total))
        if usage.free < reserve:
            raise StorageFullError(
                f"free space is {usage.free} bytes, the reserve is {reserve} bytes (reserve_bytes)",
                free_bytes=usage.free,
                limit=reserve,
            )
        self._checked_s = time.monotonic()


class LocalChunkStore(ChunkStore):
    """See the module's description."""

    def __init__(self, folder: Path, *, reserve: Reserve | None = None, files: Files | None = None) -> None:
        """Open the store in `folder`, or create it.

        Args:
            reserve: the space that inserts must leave free; None: inserts may use all of it.
            files: the file operations; None: those of the operating system.
        """
        self._files = files or Files()
        self.meters = ChunkStoreMeters()
        self._shards = SHARDS
        self._reserve = reserve
        self._chunks = folder / "chunks"
        self._uploads = folder / "uploads"
        self._identity = IdentityFile(self._chunks, self._files)
        self._make_folders(folder)
        self._leases = LocalLeases(folder)
        self._backup_lock = BackupLock(folder)
        self._quarantine = LocalQuarantine(folder, self._files, self._leases)
        self._next_shard = secrets.randbelow(len(self._shards))
        self._shard_lock = threading.Lock()
        self._sync_pool = WorkerPool(_SYNC_THREADS, "sync")
        self._closed = False

    def require_space(self) -> None:
        """See `Staging`."""
        if self._reserve is not None:
            self._reserve.require()

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `Staging`."""
        self.require_space()
        path = self._leases.own_folder / payload_key
        with as_store_errors("begin a payload"):
            descriptor = self._files.create(path)
        return _LocalWriter(self, path, descriptor)

    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:
        """See `Staging`."""
        self.require_space()
        path = self._uploads / payload_key
        self._leases.acquire(payload_key)
        try:
            descriptor, reader = self._open_again(path, length)
        except BaseException:
            self._leases.release(payload_key)
            raise
        return _LocalWriter(self, path, descriptor, kept_bytes=length), reader

    def _open_again(self, path: Path, length: int) -> tuple[int, ChunkReader]:
        """Return a descriptor to write after the first `length` bytes of a kept payload, and a reader of them."""
        with as_store_errors("resume a payload"), missing(f"no kept payload has the key {path.name}"):
            descriptor = self._files.open_to_write(path)
            try:
                found = os.fstat(descriptor).st_size
                if found < length:
                    raise PayloadMissingError(f"payload {path.name} has {found} bytes, {length} are needed")
                reader = LocalReader(self._files.open_to_read(path), self._files)
                try:
                    self._files.cut(descriptor, length)
                except BaseException:
                    reader.close()
                    raise
            except BaseException:
                os.close(descriptor)
                raise
        return descriptor, reader

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """See `Staging`."""
        if not group:
            return []
        with self._shard_lock:
            shard = self._shards[self._next_shard]
            self._next_shard = (self._next_shard + 1) % len(self._shards)
        folder = self._chunks / shard
        with as_store_errors("publish payloads"):
            for staged in group:
                self._files.rename(self._staged_path(staged), folder / staged.payload_key)
            self.sync_folder(folder)
        for staged in group:
            self._leases.release(staged.payload_key)
        return [f"{shard}/{staged.payload_key}" for staged in group]

    def park(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        if staged.kept:
            self._leases.release(staged.payload_key)
        else:
            self.drop(staged)

    def drop(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        try:
            with as_store_errors("drop a payload"), suppress(FileNotFoundError):
                self._files.unlink(self._staged_path(staged))
        finally:
            self._leases.release(staged.payload_key)

    def drop_kept(self, payload_key: str) -> None:
        """See `Staging`."""
        self._leases.acquire(payload_key)
        try:
            with as_store_errors("drop a payload"), suppress(FileNotFoundError):
                self._files.unlink(self._uploads / payload_key)
        finally:
            self._leases.release(payload_key)

    def sweep_unfinished(self) -> int:
        """See `Staging`."""
        return self._leases.sweep_folders()

    def open(self, key: str) -> ChunkReader:
        """See `PayloadStore`."""
        with as_store_errors("open a payload"), missing(f"no payload has the key {key}"):
            return LocalReader(self._files.open_to_read(self._path(key)), self._files)

    def delete(self, key: str) -> None:
        """See `PayloadStore`."""
        with as_store_errors("delete a payload"), suppress(FileNotFoundError):
            self._files.unlink(self._path(key))

    def sweeping(self) -> AbstractContextManager[bool]:
        """See `PayloadStore`."""
        return self._backup_lock.shared()

    def published(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        for shard in self._shards:
            yield from entries(self._chunks / shard, prefix=f"{shard}/")

    def kept(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        yield from entries(self._uploads)

    @property
    def quarantine(self) -> Quarantine:
        """See `ChunkStore`."""
        return self._quarantine

    @property
    def leases(self) -> Leases:
        """See `ChunkStore`."""
        return self._leases

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""
        with as_store_errors("read the store's identity"):
            return self._identity.read()

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`."""
        with as_store_errors("write the store's identity"):
            self._identity.write(identity)

    def space(self) -> Space | None:
        """See `ChunkStore`."""
        with as_store_errors("look at the free space"):
            usage = shutil.disk_usage(self._chunks)
        return Space(usage.free, usage.total)

    def close(self, timeout_s: float = 60.0) -> bool:
        """See `ChunkStore`."""
        if self._closed:
            return True
        self._closed = True
        ended = self._sync_pool.close(timeout_s)
        self._leases.close()
        return ended

    def sync_data(self, descriptor: int) -> None:
        """Make a file's bytes durable; raises the `OSError` of its system call."""
        with self.meters.syncs.measured():
            self._files.sync_data(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; likewise."""
        with self.meters.syncs.measured():
            self._files.sync_folder(folder)

    def _path(self, key: str) -> Path:
        return self._chunks / key

    def _staged_path(self, staged: StagedPayload) -> Path:
        return (self._uploads if staged.kept else self._leases.own_folder) / staged.payload_key

    def _make_folders(self, folder: Path) -> None:
        """Create all folders, and make them durable, including their names in their parents."""
        parents = (folder / "tmp", self._uploads, self._chunks, folder / "quarantine")
        are_new = not all(parent.is_dir() for parent in parents)
        for parent in parents:
            parent.mkdir(mode=0o700, exist_ok=True)
            # An existing folder may have another mode. The mode of another user's folder is not ours to change.
            with suppress(PermissionError):
                parent.chmod(0o700)
        missing_shards = [shard for shard in self._shards if not (self._chunks / shard).is_dir()]
        for shard in missing_shards:
            (self._chunks / shard).mkdir(mode=0o700, exist_ok=True)
        if missing_shards or are_new:
            for changed in (self._chunks, folder, folder.parent):
                self.sync_folder(changed)


class _LocalWriter(ChunkWriter):
    """A growing file; at most one sync of it is in progress on another thread."""

    # The store and its writers share their state.
    # ruff: noqa: SLF001

    def __init__(self, store: LocalChunkStore, path: Path, descriptor: int, *, kept_bytes: int | None = None) -> None:
        self._store = store
        self._files = store._files
        self._path = path
        self._descriptor: int | None = descriptor
        self._kept = kept_bytes is not None
        self._length = kept_bytes or 0
        self._unsynced = 0
        self._unchecked = 0
        self._sync: Future[None] | None = None

    def append(self, buffers: Sequence[Buffer]) -> None:
        with self._dropped_on_error("write a payload"):
            written = self._files.write_all(self._open_descriptor(), buffers)
            self._length += written
            self._unsynced += written
            self._unchecked += written
            if self._unsynced >= SYNC_EVERY_BYTES:
                self._wait_for_sync()
                self._sync = self._store._sync_pool.submit(self._store.sync_data, self._open_descriptor())
                self._unsynced = 0
            if self._store._reserve is not None and self._unchecked >= _SPACE_CHECK_EVERY_BYTES:
                self._store._reserve.require(now=True)
                self._unchecked = 0

    def keep(self) -> Future[None]:
        with self._dropped_on_error("keep a payload"):
            self._wait_for_sync()
        self._unsynced = 0
        self._sync = self._store._sync_pool.submit(self._keep, self._open_descriptor())
        return self._sync

    def finish(self) -> StagedPayload:
        with self._dropped_on_error("write a payload"):
            descriptor = self._open_descriptor()
            self._wait_for_sync()
            self._store.sync_data(descriptor)
            self._descriptor = None
            os.close(descriptor)
        # A kept payload stays locked until it is published, dropped or parked.
        return StagedPayload(self._path.name, self._length, self._kept)

    def park(self) -> None:
        if not self._kept:
            self.drop()
        elif self._close():
            self._store._leases.release(self._path.name)

    def drop(self) -> None:
        if self._close():
            with suppress(OSError):
                self._files.unlink(self._path)
            self._store._leases.release(self._path.name)

    def _keep(self, descriptor: int) -> None:
        """Sync the file; the first time, also lock it and move it to `uploads/`, where it outlives the process."""
        with as_store_errors("keep a payload"):
            self._store.sync_data(descriptor)
            if not self._kept:
                self._store._leases.acquire(self._path.name)
                kept_path = self._store._uploads / self._path.name
                self._files.rename(self._path, kept_path)
                self._path, self._kept = kept_path, True
                self._store.sync_folder(kept_path.parent)

    def _close(self) -> bool:
        """Close the file, after the sync in progress; return whether it was open."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return False
        sync, self._sync = self._sync, None
        if sync is None or sync.cancel():
            os.close(descriptor)
            return True
        try:
            result_of(sync, "a sync")
        except Exception:  # noqa: BLE001 - the bytes are dropped, or were kept by an earlier sync
            _log.debug("the last sync of payload %s failed", self._path.name, exc_info=True)
        finally:
            # Only after the sync: the system would reuse the descriptor's number for another file.
            sync.add_done_callback(lambda _: os.close(descriptor))
        return True

    def _open_descriptor(self) -> int:
        if self._descriptor is None:
            raise ValueError("the payload is finished, parked or dropped")
        return self._descriptor

    def _wait_for_sync(self) -> None:
        if self._sync is not None:
            # `_sync` is cleared only after the sync has ended, because the descriptor must stay open until then.
            result_of(self._sync, "a sync")
            self._sync = None

    @contextmanager
    def _dropped_on_error(self, what: str) -> Iterator[None]:
        try:
            with as_store_errors(what):
                yield
        except BaseException:
            self.drop()
            raise
