"""Where recovery finds payloads: in the folder of a store, or in an object store."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import ChunkReader, PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.files import Files
from tensorus_server.engine.footer import FooterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tensorus_server.chunk_store.abc import PackStore, PayloadListing, PayloadStore

__all__ = ["ObjectSource", "RecoverySource", "StoreFolder", "StoredPayload"]


@dataclass(frozen=True)
class StoredPayload:
    """A payload that recovery has found."""

    key: str
    """Its key in the chunk store; one in quarantine has no such key, and another one here."""
    place: str
    """Where it is, for people."""
    payload_key: str | None
    """The name that its footer must have; None: only the footer tells."""
    pack: str | None = None
    """The pack that it is in; None: it is in none."""


class RecoverySource(ABC):
    """All payloads of a store, readable without its catalogue. Used by one thread."""

    @abstractmethod
    def payloads(self, failed: Callable[[str, str], None]) -> Iterator[StoredPayload]:
        """Yield every complete payload, those in quarantine too, but not those of unfinished uploads.

        Args:
            failed: called with a place in which payloads may be that cannot be told apart, and why.
        """

    @abstractmethod
    def open(self, payload: StoredPayload) -> ChunkReader:
        """Open a payload with its footer.

        Raises:
            OSError, PayloadMissingError, PayloadUnreadableError, StoreUnavailableError: it cannot be read.
        """

    @abstractmethod
    def restore(self, payload: StoredPayload, payload_key: str) -> str:
        """Make sure that tensors can read the payload, and return its key. One in quarantine is moved back, durably."""

    @abstractmethod
    def open_needed(self, key: str) -> ChunkReader:
        """Open a payload that another one needs. If it is in quarantine, it is moved back first.

        Raises:
            FooterError: it is nowhere.
        """

    @abstractmethod
    def packs(self) -> dict[str, int]:
        """Return the packs that `payloads` has found and could read, each with the size of its object in bytes."""


class StoreFolder(RecoverySource):
    """The folder of a store whose payloads are files."""

    def __init__(self, folder: Path) -> None:
        """Read the store in `folder`, which no other process may use meanwhile."""
        self._folder = folder

    def payloads(self, failed: Callable[[str, str], None]) -> Iterator[StoredPayload]:
        """See `RecoverySource`."""
        del failed
        for pattern in ("chunks/*/*", "quarantine/*"):
            for path in sorted(self._folder.glob(pattern)):
                if path.is_file() and not path.is_symlink() and ".uploads." not in path.name:
                    is_published = path.parent.parent.name == "chunks"
                    yield StoredPayload(
                        f"{path.parent.name}/{path.name}",
                        path.relative_to(self._folder).as_posix(),
                        path.name if is_published else None,
                    )

    def open(self, payload: StoredPayload) -> ChunkReader:
        """See `RecoverySource`."""
        return _FileReader(self._folder / payload.place)

    def restore(self, payload: StoredPayload, payload_key: str) -> str:
        """See `RecoverySource`."""
        path = self._folder / payload.place
        if path.parent.parent == self._folder / "chunks":
            return payload.key
        # "<until>.<shard>.<payload key>"; chunk tables of other tensors may name the payload with its shard.
        _, _, place = path.name.partition(".")
        shard, _, name = place.partition(".")
        key = f"{shard if name == payload_key else payload_key[:2]}/{payload_key}"
        self._move_back(path, key)
        return key

    def open_needed(self, key: str) -> ChunkReader:
        """See `RecoverySource`."""
        if not (self._folder / "chunks" / key).is_file():
            quarantined = sorted(self._folder.glob(f"quarantine/*.{key.replace('/', '.')}"))
            if not quarantined:
                raise _missing(key)
            self._move_back(quarantined[0], key)
        return _FileReader(self._folder / "chunks" / key)

    def packs(self) -> dict[str, int]:
        """Return none: a folder has no packs."""
        return {}

    def _move_back(self, path: Path, key: str) -> None:
        target = self._folder / "chunks" / key
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = Files()
        files.rename(path, target)
        files.sync_folder(target.parent)
        files.sync_folder(path.parent)


class ObjectSource(RecoverySource):
    """An object store: payloads in segments of their own, and in packs."""

    def __init__(self, store: PayloadStore, listing: PayloadListing, packs: PackStore) -> None:
        """Read a store, which no other process may use meanwhile, by three of its roles."""
        self._store = store
        self._listing = listing
        self._pack_store = packs
        self._packs: dict[str, int] = {}

    def payloads(self, failed: Callable[[str, str], None]) -> Iterator[StoredPayload]:
        """See `RecoverySource`. The newest packs come first: a payload that was moved is in two."""
        for stored in self._listing.published():
            yield StoredPayload(stored.key, stored.key, stored.key.rpartition("/")[2])
        for pack in sorted(self._pack_store.packs(), key=lambda pack: -pack.modified_s):
            try:
                parts = self._pack_store.parts(pack.pack)
            except (PayloadMissingError, PayloadUnreadableError) as error:
                failed(f"pack {pack.pack}", str(error))
                continue
            self._packs[pack.pack] = pack.stored_bytes
            for part in parts:
                yield StoredPayload(part.key, part.key, part.payload_key, pack.pack)

    def open(self, payload: StoredPayload) -> ChunkReader:
        """See `RecoverySource`."""
        return self._store.open(payload.key)

    def restore(self, payload: StoredPayload, payload_key: str) -> str:
        """See `RecoverySource`."""
        del payload_key
        return payload.key

    def open_needed(self, key: str) -> ChunkReader:
        """See `RecoverySource`."""
        try:
            return self._store.open(key)
        except PayloadMissingError as error:
            raise _missing(key) from error

    def packs(self) -> dict[str, int]:
        """See `RecoverySource`."""
        return dict(self._packs)


class _FileReader(ChunkReader):
    """A file that is read as it is."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    @property
    def length(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        self._file.close()


def _missing(key: str) -> FooterError:
    return FooterError(f"the payload {key}, which has other chunks of the tensor, or bases of its chunks, is missing")
