"""Payloads in this process's memory: for tests, and for engines that need not outlive their process."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import (
    ChunkReader,
    ChunkStore,
    ChunkWriter,
    PayloadMissingError,
    StagedPayload,
    StoredKey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

__all__ = ["MemoryChunkStore"]


class MemoryChunkStore(ChunkStore):
    """A dict of bytes. "Durable" means: as long as the process lives."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._staged: dict[str, bytes] = {}
        self._published: dict[str, tuple[bytes, float]] = {}

    def require_space(self) -> None:
        """Do nothing: memory has no reserve."""

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `ChunkStore`."""
        return _MemoryWriter(self, payload_key)

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """See `ChunkStore`."""
        with self._lock:
            for staged in group:
                self._published[staged.payload_key] = (self._staged.pop(staged.payload_key), time.time())
        return [staged.payload_key for staged in group]

    def discard(self, staged: StagedPayload) -> None:
        """See `ChunkStore`."""
        with self._lock:
            self._staged.pop(staged.payload_key, None)

    def open(self, key: str) -> ChunkReader:
        """See `ChunkStore`."""
        with self._lock:
            found = self._published.get(key)
        if found is None:
            raise PayloadMissingError(f"no payload has the key {key}")
        return BytesReader(found[0])

    def delete(self, key: str) -> None:
        """See `ChunkStore`."""
        with self._lock:
            self._published.pop(key, None)

    def published(self) -> Iterator[StoredKey]:
        """See `ChunkStore`."""
        with self._lock:
            found = [StoredKey(key, modified_s) for key, (_, modified_s) in self._published.items()]
        yield from found

    def has_other_users(self) -> bool:
        """Return False: nobody else has this memory."""
        return False

    def sweep_unfinished(self) -> int:
        """Return 0: what a dead process began died with it."""
        return 0

    def close(self) -> None:
        """See `ChunkStore`."""

    def _stage(self, payload_key: str, payload: bytes) -> None:
        with self._lock:
            self._staged[payload_key] = payload


class _MemoryWriter(ChunkWriter):
    def __init__(self, store: MemoryChunkStore, payload_key: str) -> None:
        self._store = store
        self._payload_key = payload_key
        self._buffers: list[bytes] = []

    def append(self, buffers: Sequence[Buffer]) -> None:
        self._buffers.extend(bytes(buffer) for buffer in buffers)

    def finish(self) -> StagedPayload:
        payload = b"".join(self._buffers)
        self._store._stage(self._payload_key, payload)  # noqa: SLF001 - the two halves of one class
        return StagedPayload(self._payload_key, len(payload))

    def abort(self) -> None:
        self._buffers.clear()


class BytesReader(ChunkReader):
    """A payload that is in memory."""

    def __init__(self, payload: bytes) -> None:
        """Read from `payload`."""
        self._payload = payload

    def read(self, offset: int, length: int) -> bytes:
        """See `ChunkReader`."""
        if offset + length > len(self._payload):
            raise PayloadMissingError(f"payload has {len(self._payload)} bytes, {offset + length} are needed")
        return self._payload[offset : offset + length]

    def close(self) -> None:
        """See `ChunkReader`."""
