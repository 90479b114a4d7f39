"""The gzip format, by zlib-ng where it is installed and better, otherwise by zlib."""

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
"""zlib's notation for a gzip header and trailer around the deflate stream."""


def _fastest() -> ModuleType:
    """Return zlib-ng, which has the functions and the messages of zlib, or zlib itself."""
    try:
        return importlib.import_module("zlib_ng.zlib_ng")
    except ImportError:
        return zlib


_DECODER = _fastest()
"""Measured on weights, their byte planes, integers and text: zlib-ng decodes 1.2 to 2.5 times as fast as zlib. isal is
faster still on planes (1.4 times) and slower on floats as they are (0.8 times): not worth a second library."""

_ENCODERS = {**dict.fromkeys(range(1, 9), zlib), 9: _fastest()}
"""Per level. zlib-ng's level 9 is up to 13 times as fast as zlib's and at most 1 % larger. Its other levels are faster, too,
but make some data much larger (1: noise by 5 %, exponents by 50 %; 2 to 8: images by 4 to 12 %), as do isal's three."""


@dataclass(frozen=True)
class Gzip(Compressor):
    """One gzip member per stream, without a file name and with modification time 0.

    Source: RFC 1952. Every level decodes alike, and so does what either library encodes.
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
        """Return the member's bytes; its CRC-32 is checked by the library."""
        decompressor = _DECODER.decompressobj(_GZIP_WINDOW_BITS)
        try:
            # One byte more than declared shows a stream that goes on; the library stops there.
            decoded: bytes = decompressor.decompress(data, decoded_bytes + 1)
        except _DECODER.error as error:
            raise CorruptChunkError(f"gzip stream of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not decompressor.eof or decompressor.unused_data:
            raise CorruptChunkError(
                f"gzip stream of {memoryview(data).nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded
