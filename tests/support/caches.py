"""What the tests of the cache share: a store below that counts, waits and fails, and caches that are ready."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contract.chunk_store_contract import published
from tensorus_server.chunk_store.abc import ChunkReader, ChunkStore, PayloadStore
from tensorus_server.chunk_store.cache.block_files import BLOCK_BYTES
from tensorus_server.chunk_store.cache.payloads import CachedPayloads
from tensorus_server.chunk_store.memory import MemoryChunkStore

PATIENCE_S = 30.0

BLOCKS = 4
PAYLOAD = random.Random(1).randbytes(BLOCKS * BLOCK_BYTES)
FILE_BYTES = BLOCK_BYTES + 4096
"""What a block counts: its bytes, and the header in a unit of its own."""


class CountingStore(PayloadStore):
    """Another store's payloads. It notes every read, and may hold reads up, or fail."""

    def __init__(self, below: ChunkStore | None = None) -> None:
        """Read from `below`; None: a store in memory."""
        self.below = below or MemoryChunkStore()
        self.reads: list[tuple[int, int]] = []
        self.opened: list[str] = []
        self.hints: list[tuple[int, int]] = []
        self.open_error: Exception | None = None
        self.read_errors: list[BaseException] = []
        """Raised by the next reads, one each."""
        self.gate: threading.Event | None = None
        """Reads wait for it, if there is one."""
        self.arrived = threading.Semaphore(0)
        """Released by each read that comes."""

    def keep(self, payload: bytes) -> str:
        """Return the key of a new payload."""
        return published(self.below, payload)

    def open(self, key: str) -> ChunkReader:
        """Open it, or fail."""
        if self.open_error is not None:
            raise self.open_error
        self.opened.append(key)
        return _CountingReader(self, self.below.open(key))

    def delete(self, key: str) -> None:
        """Delete it."""
        self.below.delete(key)


class _CountingReader(ChunkReader):
    def __init__(self, store: CountingStore, reader: ChunkReader) -> None:
        self._store = store
        self._reader = reader

    @property
    def length(self) -> int:
        return self._reader.length

    def read(self, offset: int, length: int) -> bytes:
        self._store.reads.append((offset, length))
        self._store.arrived.release()
        if self._store.gate is not None and not self._store.gate.wait(PATIENCE_S):
            raise AssertionError("nobody opened the gate")
        if self._store.read_errors:
            raise self._store.read_errors.pop(0)
        return self._reader.read(offset, length)

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._store.hints += ranges

    def close(self) -> None:
        self._reader.close()


class ThroughCache:
    """A whole store, of which payloads are read and deleted through a cache."""

    def __init__(self, below: ChunkStore, cached: CachedPayloads) -> None:
        """Leave everything else to `below`."""
        self._below = below
        self.open = cached.open
        self.delete = cached.delete

    def __getattr__(self, name: str) -> Any:
        """Return what the store below has."""
        return getattr(self._below, name)


def wait_for(happens: Callable[[], bool]) -> None:
    """Wait until something is so."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < give_up_s, "it does not happen"
        time.sleep(0.005)


@contextmanager
def cache_of(below: PayloadStore, folder: Path, size_bytes: int = 2**30, **settings: Any) -> Iterator[CachedPayloads]:
    """Open a cache, wait until it knows what is in its folder, and close it."""
    cached = CachedPayloads(below, folder, size_bytes, **settings)
    try:
        wait_for(lambda: cached._cache.is_ready)
        yield cached
    finally:
        cached.close()


def read_all(cached: PayloadStore, key: str) -> bytes:
    """Return a whole payload."""
    with cached.open(key) as reader:
        return reader.read(0, reader.length)


def block_files(folder: Path) -> list[Path]:
    """Return the files of all blocks in a cache's folder."""
    return sorted(folder.glob("*/??/*"))
