"""The gzip format, through zlib-ng where it is installed and better, otherwise through zlib."""

from __future__ import annotations

import importlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from types import ModuleType

    from typing_extensions import Buffer

__all__ = ["Gzip"]

_GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS
"""zlib's way to ask for a gzip header and trailer around the deflate stream."""


def _fastest() -> ModuleType:
    """Return zlib-ng, which has the same functions and messages as zlib, or zlib if it is not installed."""
    try:
        return importlib.import_module("zlib_ng.zlib_ng")
    except ImportError:
        return zlib


_DECODER = _fastest()
"""Measured on weights, their byte planes, integers and text: zlib-ng decodes 1.2 to 2.5 times as fast as zlib. isal is
1.4 times as fast on planes but only 0.8 times as fast on unfiltered floats, which does not justify a second library."""

_ENCODERS = {**dict.fromkeys(range(1, 9), zlib), 9: _fastest()}
"""The library per level. zlib-ng's level 9 is up to 13 times as fast as zlib's and its output at most 1 % larger. Its other
levels are faster, too, but make some data much larger (1: noise by 5 %, exponents by 50 %; 2 to 8: images by 4 to 12 %). So
do the three levels of isal."""


@dataclass(frozen=True)
class Gzip(Compressor):
    """One gzip member per stream, without a file name and with modification time 0.

    Source: RFC 1952. The decoder depends neither on the level nor on the library that encoded.
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
        member: bytes = _ENCODERS[self.level].compress(data, self.level, _GZIP_WINDOW_BITS)
        return member

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> bytes:
        """Return the decoded member. The library checks its CRC-32."""
        decompressor = _DECODER.decompressobj(_GZIP_WINDOW_BITS)
        try:
            # Ask for one byte more than declared, to detect a stream that is longer; the library stops there.
            decoded: bytes = decompressor.decompress(data, decoded_bytes + 1)
        except _DECODER.error as error:
            raise CorruptChunkError(f"gzip stream of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not decompressor.eof or decompressor.unused_data:
            raise CorruptChunkError(
                f"gzip stream of {memoryview(data).nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded
