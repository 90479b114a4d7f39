"""A chunk store in this process's memory, for tests."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import (
    ChunkStore,
    ChunkWriter,
    Leases,
    PayloadBusyError,
    PayloadMissingError,
    Quarantine,
    Quarantined,
    StagedPayload,
    StoredKey,
)
from tensorus_server.chunk_store.bytes_reader import BytesReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Buffer

    from tensorus_server.chunk_store.abc import ChunkReader, Space
    from tensorus_server.model import StoreIdentity

__all__ = ["MemoryChunkStore", "MemoryLeases"]


class MemoryChunkStore(ChunkStore):
    """A dict of bytes. "Durable" means: as long as the process lives."""

    def __init__(self) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._staged: dict[str, bytes] = {}
        self._published: dict[str, tuple[bytes, float]] = {}
        self._kept: dict[str, tuple[bytes, float]] = {}
        self._leases = MemoryLeases()
        self._identity: StoreIdentity | None = None
        self._quarantine = _MemoryQuarantine(self)

    def require_space(self) -> None:
        """Do nothing, since memory has no reserve."""

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `Staging`."""
        return _MemoryWriter(self, payload_key)

    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:
        """See `Staging`."""
        self._leases.acquire(payload_key)
        with self._lock:
            kept, _ = self._kept.get(payload_key, (None, 0.0))
        if kept is None or len(kept) < length:
            self._leases.release(payload_key)
            if kept is None:
                raise PayloadMissingError(f"no kept payload has the key {payload_key}")
            raise PayloadMissingError(f"payload {payload_key} has {len(kept)} bytes, {length} are needed")
        return _MemoryWriter(self, payload_key, kept[:length]), BytesReader(kept[:length])

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """See `Staging`."""
        with self._lock:
            for staged in group:
                self._published[staged.payload_key] = (self._staged.pop(staged.payload_key), time.time())
                self._end(staged.payload_key, dropped=True)
        return [staged.payload_key for staged in group]

    def park(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        with self._lock:
            if self._staged.pop(staged.payload_key, None) is not None:
                self._end(staged.payload_key, dropped=not staged.kept)

    def drop(self, staged: StagedPayload) -> None:
        """See `Staging`."""
        with self._lock:
            if self._staged.pop(staged.payload_key, None) is not None:
                self._end(staged.payload_key, dropped=True)

    def drop_kept(self, payload_key: str) -> None:
        """See `Staging`."""
        self._leases.acquire(payload_key)
        with self._lock:
            self._end(payload_key, dropped=True)

    def sweep_unfinished(self) -> int:
        """Return 0: the payloads of a dead process are gone with its memory."""
        return 0

    def open(self, key: str) -> ChunkReader:
        """See `PayloadStore`."""
        with self._lock:
            found = self._published.get(key)
        if found is None:
            raise PayloadMissingError(f"no payload has the key {key}")
        return BytesReader(found[0])

    def delete(self, key: str) -> None:
        """See `PayloadStore`."""
        with self._lock:
            self._published.pop(key, None)

    def published(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        with self._lock:
            found = [StoredKey(key, modified_s) for key, (_, modified_s) in self._published.items()]
        yield from found

    def kept(self) -> Iterator[StoredKey]:
        """See `PayloadListing`."""
        with self._lock:
            found = [StoredKey(key, modified_s) for key, (_, modified_s) in self._kept.items()]
        yield from found

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
        return self._identity

    def write_identity(self, identity: StoreIdentity) -> None:
        """See `IdentityHolder`."""
        self._identity = identity

    def space(self) -> Space | None:
        """Return None, since memory has no disk."""
        return None

    def close(self, timeout_s: float = 60.0) -> bool:  # noqa: ARG002 - nothing is in progress
        """See `ChunkStore`."""
        return True

    def _stage(self, payload_key: str, payload: bytes) -> None:
        with self._lock:
            # Its kept part, and the writer's lease, stay until it is published, dropped or parked.
            self._staged[payload_key] = payload

    def _keep(self, payload_key: str, payload: bytes) -> None:
        with self._lock:
            self._kept[payload_key] = (payload, time.time())

    def _release(self, payload_key: str, *, dropped: bool) -> None:
        with self._lock:
            self._end(payload_key, dropped=dropped)

    def _end(self, payload_key: str, *, dropped: bool) -> None:
        """End the lease of a payload; if `dropped`, drop its kept part first. The lock is held."""
        if dropped:
            self._kept.pop(payload_key, None)
        self._leases.release(payload_key)


class MemoryLeases(Leases):
    """The leases of a store that no other process uses."""

    def __init__(self) -> None:
        """Start without leases."""
        self._lock = threading.Lock()
        self._held: set[str] = set()

    def acquire(self, payload_key: str) -> None:
        """See `Leases`."""
        with self._lock:
            if payload_key in self._held:
                raise PayloadBusyError(f"another writer has the payload {payload_key}")
            self._held.add(payload_key)

    def release(self, payload_key: str) -> None:
        """See `Leases`."""
        with self._lock:
            self._held.discard(payload_key)

    def has_other_users(self) -> bool:
        """Return False, since no other process can use this memory."""
        return False

    def close(self) -> None:
        """See `Leases`."""
        with self._lock:
            self._held.clear()


class _MemoryQuarantine(Quarantine):
    # The store and its quarantine share their state.
    # ruff: noqa: SLF001

    def __init__(self, store: MemoryChunkStore) -> None:
        self._store = store
        self._held: dict[str, tuple[bytes, float]] = {}

    def put(self, key: str, *, until_s: float) -> bool:
        leases, name = self._store._leases, _name(key)
        leases.acquire(name)
        try:
            with self._store._lock:
                found = self._home(key).pop(name, None)
                if found is not None:
                    self._held[key] = (found[0], until_s)
                return found is not None
        finally:
            leases.release(name)

    def entries(self) -> list[Quarantined]:
        with self._store._lock:
            found = [Quarantined(key, len(payload), until_s) for key, (payload, until_s) in self._held.items()]
        return sorted(found, key=lambda entry: entry.until_s)

    def restore(self, entry: Quarantined) -> None:
        with self._store._lock:
            if entry.key not in self._held:
                raise PayloadMissingError(f"no payload in quarantine has the key {entry.key}")
            payload, _ = self._held.pop(entry.key)
            self._home(entry.key)[_name(entry.key)] = (payload, time.time())

    def delete(self, entry: Quarantined) -> None:
        with self._store._lock:
            self._held.pop(entry.key, None)

    def _home(self, key: str) -> dict[str, tuple[bytes, float]]:
        return self._store._kept if key.startswith("uploads/") else self._store._published


def _name(key: str) -> str:
    return key.removeprefix("uploads/")


class _MemoryWriter(ChunkWriter):
    # The store and its writers share their state.
    # ruff: noqa: SLF001

    def __init__(self, store: MemoryChunkStore, payload_key: str, kept: bytes | None = None) -> None:
        self._store = store
        self._payload_key = payload_key
        self._buffers = [] if kept is None else [kept]
        self._was_kept = kept is not None
        self._ended = False

    def append(self, buffers: Sequence[Buffer]) -> None:
        self._buffers.extend(bytes(buffer) for buffer in buffers)

    def keep(self) -> Future[None]:
        if not self._was_kept:
            self._store._leases.acquire(self._payload_key)
        self._was_kept = True
        self._store._keep(self._payload_key, b"".join(self._buffers))
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def finish(self) -> StagedPayload:
        payload = b"".join(self._buffers)
        self._ended = True
        self._store._stage(self._payload_key, payload)
        return StagedPayload(self._payload_key, len(payload), self._was_kept)

    def park(self) -> None:
        self._end(dropped=False)

    def drop(self) -> None:
        self._end(dropped=True)

    def _end(self, *, dropped: bool) -> None:
        if not self._ended:
            self._ended = True
            self._buffers.clear()
            self._store._release(self._payload_key, dropped=dropped)
