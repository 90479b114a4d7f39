"""Chunk stores that are open for reading only: whatever writes is refused, and nobody is told that they are open."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NoReturn

from tensorus_server.chunk_store.abc import ChunkStore, Quarantine, Space
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.identity_file import IdentityFile
from tensorus_server.chunk_store.local_payloads import LocalReader, entries, missing
from tensorus_server.chunk_store.local_quarantine import quarantined
from tensorus_server.chunk_store.os_errors import as_store_errors
from tensorus_server.errors import ReadOnlyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tensorus_server.chunk_store.abc import ChunkReader, Quarantined, StoredKey
    from tensorus_server.model import StoreIdentity

__all__ = ["ReadOnlyChunkStore", "ReadOnlyLocalChunkStore", "ReadOnlyQuarantine"]


def _refuse() -> NoReturn:
    raise ReadOnlyError("the store is open for reading only")


class ReadOnlyChunkStore(ChunkStore):
    """The methods that write. Those that read are up to the subclasses."""

    def require_space(self) -> NoReturn:
        """Refuse."""
        _refuse()

    def begin(self, payload_key: str) -> NoReturn:  # noqa: ARG002 - as of `Staging`
        """Refuse."""
        _refuse()

    def resume(self, payload_key: str, length: int) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def publish(self, group: object) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def park(self, staged: object) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def drop(self, staged: object) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def drop_kept(self, payload_key: str) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def sweep_unfinished(self) -> NoReturn:
        """Refuse."""
        _refuse()

    def delete(self, key: str) -> NoReturn:  # noqa: ARG002 - as of `PayloadStore`
        """Refuse."""
        _refuse()

    def sweeping(self) -> NoReturn:
        """Refuse."""
        _refuse()

    def write_identity(self, identity: StoreIdentity) -> NoReturn:  # noqa: ARG002 - as of `IdentityHolder`
        """Refuse."""
        _refuse()

    @property
    def leases(self) -> NoReturn:
        """Refuse: who only reads has no leases."""
        _refuse()


class ReadOnlyQuarantine(Quarantine):
    """The methods that write."""

    def put(self, key: str, *, until_s: float) -> NoReturn:  # noqa: ARG002 - as of `Quarantine`
        """Refuse."""
        _refuse()

    def restore(self, entry: Quarantined) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()

    def delete(self, entry: Quarantined) -> NoReturn:  # noqa: ARG002 - likewise
        """Refuse."""
        _refuse()


class ReadOnlyLocalChunkStore(ReadOnlyChunkStore):
    """Payloads as files in a local folder, as `LocalChunkStore` writes them. Folders without payloads may be missing."""

    def __init__(self, folder: Path) -> None:
        """Use the store in `folder`, and touch nothing."""
        self._files = Files()
        self._chunks = folder / "chunks"
        self._uploads = folder / "uploads"
        self._identity = IdentityFile(self._chunks, self._files)
        self._quarantine = _LocalReadOnlyQuarantine(folder)

    def open(self, key: str) -> ChunkReader:
        """See `PayloadStore`."""
        with as_store_errors("open a payload"), missing(f"no payload has the key {key}"):
            return LocalReader(self._files.open_to_read(self._chunks / key), self._files)

    def published(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        if not self._chunks.is_dir():
            return
        with as_store_errors("list payloads"):
            shards = sorted(shard for shard in self._chunks.iterdir() if shard.is_dir())
        for shard in shards:
            yield from entries(shard, prefix=f"{shard.name}/")

    def kept(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        if self._uploads.is_dir():
            yield from entries(self._uploads)

    @property
    def quarantine(self) -> Quarantine:
        """See `ChunkStore`."""
        return self._quarantine

    def read_identity(self) -> StoreIdentity | None:
        """See `IdentityHolder`."""
        with as_store_errors("read the store's identity"):
            return self._identity.read()

    def space(self) -> Space | None:
        """See `ChunkStore`."""
        with as_store_errors("look at the free space"):
            usage = shutil.disk_usage(self._chunks)
        return Space(usage.free, usage.total)

    def close(self, timeout_s: float = 60.0) -> bool:  # noqa: ARG002 - nothing is in progress
        """See `ChunkStore`."""
        return True


class _LocalReadOnlyQuarantine(ReadOnlyQuarantine):
    def __init__(self, store_folder: Path) -> None:
        self._folder = store_folder / "quarantine"

    def entries(self) -> list[Quarantined]:
        return quarantined(self._folder) if self._folder.is_dir() else []
