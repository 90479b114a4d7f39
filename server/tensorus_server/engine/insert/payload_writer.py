"""Writes a payload: in memory while it is small enough to be inline, then to the chunk store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.chunk_table import IndexEnd
from tensorus_server.engine.footer import pack_footer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from typing_extensions import Buffer

    from tensorus_server.base_section import BaseSection
    from tensorus_server.catalogue.abc import StoredTensor
    from tensorus_server.chunk_store.abc import ChunkWriter, StagedPayload, Staging
    from tensorus_server.chunk_table import ChunkTable
    from tensorus_server.engine.insert.totals import Totals

__all__ = ["PayloadWriter"]


class PayloadWriter:
    """A payload that is being written. Not thread-safe."""

    def __init__(
        self,
        staging: Staging,
        payload_key: str,
        inline_bytes_max: int,
        resumed: ChunkWriter | None = None,
        length: int = 0,
    ) -> None:
        """Start a payload, or continue one of which `resumed` has `length` bytes."""
        self._staging = staging
        self._payload_key = payload_key
        self._inline_bytes_max = inline_bytes_max
        self._held: list[bytes] = []
        self._writer = resumed
        self.length = length
        """Bytes that were appended."""

    @property
    def is_held(self) -> bool:
        """Whether all of it is in memory."""
        return self._writer is None

    def has_room(self, more_bytes: int) -> bool:
        """Whether so many bytes may follow, and the payload is still inline."""
        return self._writer is None and self.length + more_bytes <= self._inline_bytes_max

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Add the next bytes. Errors as of `ChunkWriter.append`."""
        self.length += sum(memoryview(buffer).nbytes for buffer in buffers)
        if self._writer is None and self.length <= self._inline_bytes_max:
            self._held.extend(bytes(buffer) for buffer in buffers)
            return
        self.spilled().append(buffers)

    def append_end(self, totals: Totals, bases: BaseSection, table: ChunkTable | None = None) -> tuple[int, bytes]:
        """Add what follows the records in format 2.

        Args:
            totals: of the records.
            bases: of the records.
            table: the chunk table; None: the payload has all records of its tensor.

        Returns:
            Bytes that were added, and the chunk index with its end.
        """
        packed_bases = bases.packed(len(totals.index)) if bases else b""
        packed_table = b"" if table is None else table.packed()
        details = totals.details.packed()
        end = IndexEnd(
            records=len(totals.index),
            details_bytes=len(details),
            details_crc32c=crc32c(details),
            table_bytes=len(packed_table),
            table_crc32c=crc32c(packed_table),
            bases_bytes=len(packed_bases),
            bases_crc32c=crc32c(packed_bases),
            depth=bases.depth,
        )
        index = totals.index.packed() + end.packed()
        self.append([piece for piece in (packed_bases, packed_table, details, index) if piece])
        return end.overhead_bytes + len(index), index

    def keep(self) -> Future[None]:
        """See `ChunkWriter.keep`."""
        return self.spilled().keep()

    def inline(self) -> bytes | None:
        """Return the payload if it is inline."""
        return b"".join(self._held) if self._writer is None else None

    def finish(self, stored: StoredTensor) -> StagedPayload | None:
        """Add the footer that describes `stored`, and return the staged payload; None if it is inline."""
        if self._writer is None:
            return None
        # The locator's length ends before the footer.
        self._writer.append([pack_footer(stored, time.time_ns() // 1000)])
        return self._writer.finish()

    def park(self) -> None:
        """Keep what is durable, so that it can be resumed; see `ChunkWriter.park`."""
        self._held.clear()
        if self._writer is not None:
            self._writer.park()

    def drop(self) -> None:
        """Drop everything. Idempotent."""
        self._held.clear()
        if self._writer is not None:
            self._writer.drop()

    def spilled(self) -> ChunkWriter:
        """Return the writer of the chunk store; the first call hands it what is in memory, and the payload is not inline."""
        if self._writer is None:
            self._writer = self._staging.begin(self._payload_key)
            self._writer.append(self._held)
            self._held.clear()
        return self._writer
