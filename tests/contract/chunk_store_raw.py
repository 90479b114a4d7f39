"""What lies in each kind of chunk store, seen past the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol

from tensorus_server.chunk_store.memory import MemoryChunkStore


class RawAccess(Protocol):
    """What lies in a store, seen past the store: so writing and reading are tested apart."""

    def published(self) -> dict[str, bytes]:
        """Return every published payload by key."""

    def unfinished(self) -> int:
        """Return how many payloads lie there that were begun, and neither kept nor published."""

    def kept(self) -> dict[str, bytes]:
        """Return every payload that outlives its process although it is not published, by its payload key."""

    def plant(self, key: str, payload: bytes) -> None:
        """Put a payload where a published one would be."""


class RawFolder:
    """The files behind the store."""

    def __init__(self, folder: Path) -> None:
        """Look into `folder`."""
        self._folder = folder

    def published(self) -> dict[str, bytes]:
        """Return every published payload by key."""
        chunks = self._folder / "chunks"
        return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in chunks.glob("*/*")}

    def unfinished(self) -> int:
        """Return how many files lie in folders of processes."""
        return len(list((self._folder / "tmp").glob("*/*")))

    def kept(self) -> dict[str, bytes]:
        """Return every payload that outlives its process although it is not published."""
        return {path.name: path.read_bytes() for path in (self._folder / "uploads").iterdir()}

    def plant(self, key: str, payload: bytes) -> None:
        """Put a payload where a published one would be."""
        (self._folder / "chunks" / key).write_bytes(payload)


class RawMemory:
    """The dicts behind the store."""

    def __init__(self, store: MemoryChunkStore) -> None:
        """Look into `store`."""
        self._store = store

    def published(self) -> dict[str, bytes]:
        """Return every published payload by key."""
        return {key: payload for key, (payload, _) in self._store._published.items()}

    def unfinished(self) -> int:
        """Return how many payloads are staged."""
        return len(self._store._staged.keys() - self._store._kept.keys())

    def kept(self) -> dict[str, bytes]:
        """Return every payload that can be resumed, now or after its writer has gone."""
        return {key: payload for key, (payload, _) in self._store._kept.items()}

    def plant(self, key: str, payload: bytes) -> None:
        """Put a payload where a published one would be."""
        self._store._published[key] = (payload, time.time())


class RawNothing:
    """What lies where nothing is stored."""

    def published(self) -> dict[str, bytes]:
        """Return that there is nothing; likewise the others."""
        return {}

    def unfinished(self) -> int:
        """See `published`."""
        return 0

    def kept(self) -> dict[str, bytes]:
        """See `published`."""
        return {}

    def plant(self, key: str, payload: bytes) -> None:
        """Refuse: there is no place to put it."""
        raise NotImplementedError
