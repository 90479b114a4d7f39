"""A chunk store that keeps nothing: for inserts that only validate."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import ChunkWriter, StagedPayload
from tensorus_server.chunk_store.memory import MemoryChunkStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["DiscardingChunkStore"]


class DiscardingChunkStore(MemoryChunkStore):
    """Counts what is appended, and forgets it."""

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `ChunkStore`."""
        return _CountingWriter(payload_key)


class _CountingWriter(ChunkWriter):
    def __init__(self, payload_key: str) -> None:
        self._payload_key = payload_key
        self._length = 0

    def append(self, buffers: Sequence[Buffer]) -> None:
        self._length += sum(memoryview(buffer).nbytes for buffer in buffers)

    def keep(self) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def finish(self) -> StagedPayload:
        return StagedPayload(self._payload_key, self._length)

    def park(self) -> None:
        """Nothing is held."""

    def abort(self) -> None:
        """Nothing is held."""
