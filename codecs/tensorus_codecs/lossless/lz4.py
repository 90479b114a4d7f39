"""The LZ4 block format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import lz4.block

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Lz4"]

_HIGH_COMPRESSION_LEVEL_MIN = 3
"""Below this level, LZ4 uses its fast mode. Source: `LZ4HC_CLEVEL_MIN` of lz4hc.h is 2; the lz4 command line starts at 3."""


@dataclass(frozen=True)
class Lz4(Compressor):
    """One LZ4 block per stream, without a length prefix: the chunk record holds the length.

    Source: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md. The decoder does not depend on the level.
    """

    id: ClassVar[str] = "lz4"
    number: ClassVar[int] = 2

    level: int = 1
    """1 and 2: fast mode; 3 to 12: high compression, increasingly slow."""

    def __post_init__(self) -> None:
        """Refuse a level outside 1 to 12."""
        self._require_integer("level", 1, 12)

    def encode(self, data: Buffer) -> bytes:
        """Return `data` as one block."""
        if self.level < _HIGH_COMPRESSION_LEVEL_MIN:
            block: bytes = lz4.block.compress(data, store_size=False)
        else:
            block = lz4.block.compress(data, mode="high_compression", compression=self.level, store_size=False)
        return block

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> bytes:
        """Return the decoded block. LZ4 stops at the end of a buffer of `decoded_bytes`."""
        try:
            decoded: bytes = lz4.block.decompress(data, uncompressed_size=decoded_bytes)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise CorruptChunkError(f"lz4 block of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes:
            raise CorruptChunkError(f"lz4 block decodes to {len(decoded)} bytes, not to {decoded_bytes}")
        return decoded
