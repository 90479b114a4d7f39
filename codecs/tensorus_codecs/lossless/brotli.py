"""The Brotli format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import brotli

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Brotli"]

if not hasattr(brotli.Decompressor, "can_accept_more_data"):
    # Came together with the limit to what decoding allocates, without which we do not decode.
    raise ImportError("the library brotli is older than 1.2", name="brotli 1.2 or newer")

_WINDOW_BITS = 21
"""A chunk has at most 2**21 bytes, so a larger window finds nothing more."""

_LARGER_WINDOWS = (0b1011, 0b1101, 0b1111)
"""How a stream's first four bits say 22, 23 or 24 window bits. Source: RFC 7932, section 9.1."""


@dataclass(frozen=True)
class Brotli(Compressor):
    """One Brotli stream per stream of the chunk, window at most 2 MiB.

    The smallest of all for text and for bytes that repeat, and by far the slowest. Weights and quantized codes shrink as much
    with `pcodec` or Huffman-only `zstd`, a hundred times faster.

    Source: RFC 7932. Every quality decodes alike.
    """

    id: ClassVar[str] = "brotli"
    number: ClassVar[int] = 5

    quality: int = 11
    """0 (fastest) to 11 (smallest).

    Measured on one core, MB/s and share of the bytes that are left: text, 32-bit integers of 9 bits, exponents of weights.
        5:  20 MB/s   0.229   0.368   0.382
        9:   6 MB/s   0.222   0.367   0.376
        10: 0.7 MB/s  0.205   0.346   0.324   but 13 % larger than 5 and 11 on sorted int64
        11: 0.4 MB/s  0.200   0.346   0.324
    What is archived is written once: the default is the one that is the smallest on everything.
    """

    def __post_init__(self) -> None:
        """Refuse a quality outside 0 to 11."""
        self._require_integer("quality", 0, 11)

    def encode(self, data: Buffer) -> bytes:
        """Return `data` as one stream."""
        encoded: bytes = brotli.compress(data, quality=self.quality, lgwin=_WINDOW_BITS)
        return encoded

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> bytes:
        """Return the stream's bytes."""
        view = memoryview(data).cast("B")
        if view.nbytes and view[0] & 0b1111 in _LARGER_WINDOWS:
            raise CorruptChunkError(
                f"brotli stream of {view.nbytes} bytes has a window of more than {1 << _WINDOW_BITS} bytes"
            )
        decompressor = brotli.Decompressor()
        try:
            # One byte more than declared shows a stream that goes on; the library stops within twice as many.
            decoded: bytes = decompressor.process(view, output_buffer_limit=decoded_bytes + 1)
            finished = decompressor.is_finished()
        except brotli.error as error:
            # Bytes after the end are an error, too.
            raise CorruptChunkError(f"brotli stream of {view.nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not finished:
            raise CorruptChunkError(
                f"brotli stream of {view.nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded
