"""The gzip format, by zlib."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Gzip"]

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib's notation for a gzip header and trailer around the deflate stream."""


@dataclass(frozen=True)
class Gzip(Compressor):
    """One gzip member per stream, without a file name and with modification time 0.

    Source: RFC 1952. Every level decodes alike.
    """

    id: ClassVar[str] = "gzip"
    number: ClassVar[int] = 1

    level: int = 6
    """1 (fastest) to 9 (smallest)."""

    def __post_init__(self) -> None:
        """Refuse a level outside 1 to 9."""
        self._require_integer("level", 1, 9)

    def encode(self, data: Buffer) -> bytes:
        """Return `data` as one gzip member."""
        return zlib.compress(data, self.level, _GZIP_WINDOW_BITS)

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> bytes:
        """Return the member's bytes; its CRC-32 is checked by zlib."""
        decompressor = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            # One byte more than declared shows a stream that goes on; zlib stops there.
            decoded = decompressor.decompress(data, decoded_bytes + 1)
        except zlib.error as error:
            raise CorruptChunkError(f"gzip stream of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not decompressor.eof or decompressor.unused_data:
            raise CorruptChunkError(
                f"gzip stream of {memoryview(data).nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded
