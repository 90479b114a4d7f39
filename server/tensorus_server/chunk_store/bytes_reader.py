"""Reads payloads that are in memory: inline payloads, and those of a chunk store in memory."""

from __future__ import annotations

from tensorus_server.chunk_store.abc import ChunkReader, PayloadMissingError

__all__ = ["BytesReader"]


class BytesReader(ChunkReader):
    """A payload in memory."""

    def __init__(self, payload: bytes) -> None:
        """Read from `payload`."""
        self._payload = payload

    @property
    def length(self) -> int:
        """See `ChunkReader`."""
        return len(self._payload)

    def read(self, offset: int, length: int) -> bytes:
        """See `ChunkReader`."""
        if offset + length > len(self._payload):
            raise PayloadMissingError(f"payload has {len(self._payload)} bytes, {offset + length} are needed")
        return self._payload[offset : offset + length]

    def close(self) -> None:
        """See `ChunkReader`."""
