"""A staging area that stores nothing, for inserts that only validate."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import ChunkWriter, PayloadMissingError, StagedPayload, Staging

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_server.chunk_store.abc import ChunkReader

__all__ = ["DiscardingStaging"]


class DiscardingStaging(Staging):
    """Counts the appended bytes and discards them."""

    def require_space(self) -> None:
        """Do nothing, since it uses no space."""

    def begin(self, payload_key: str) -> ChunkWriter:
        """See `Staging`."""
        return _CountingWriter(payload_key)

    def resume(self, payload_key: str, length: int) -> tuple[ChunkWriter, ChunkReader]:  # noqa: ARG002 - nothing is kept
        """Raise `PayloadMissingError`, since nothing is kept."""
        raise PayloadMissingError(f"no kept payload has the key {payload_key}")

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Return the keys; no payload can be opened by them."""
        return [staged.payload_key for staged in group]

    def park(self, staged: StagedPayload) -> None:
        """Do nothing: there are no bytes."""

    def drop(self, staged: StagedPayload) -> None:
        """Do nothing: there are no bytes."""

    def drop_kept(self, payload_key: str) -> None:
        """Do nothing: nothing is kept."""

    def sweep_unfinished(self) -> int:
        """Return 0: nothing was stored."""
        return 0


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
        """Do nothing: there are no bytes."""

    def drop(self) -> None:
        """Do nothing: there are no bytes."""
