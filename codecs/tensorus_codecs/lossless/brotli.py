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
    # This method appeared together with the limit on decoded output, which decoding hostile data safely requires.
    raise ImportError("the library brotli is older than 1.2", name="brotli 1.2 or newer")

_WINDOW_BITS = 21
"""A chunk has at most 2**21 bytes, so a larger window would find no further matches."""

_LARGER_WINDOWS = (0b1011, 0b1101, 0b1111)
"""First four bits of streams with 22, 23 or 24 window bits. Source: RFC 7932, section 9.1."""


@dataclass(frozen=True)
class Brotli(Compressor):
    """One Brotli stream per stream of the chunk, window at most 2 MiB.

    The smallest result for text and repetitive bytes, and by far the slowest encoder. `pcodec` and Huffman-only `zstd`
    compress weights and quantized codes equally well, a hundred times faster.

    Source: RFC 7932. The decoder does not depend on the quality.
    """

    id: ClassVar[str] = "brotli"
    number: ClassVar[int] = 5

    quality: int = 11
    """0 (fastest) to 11 (smallest).

    Measured on one core: MB/s, then encoded size over original size of text, 32-bit integers of 9 bits, exponents of weights.
        5:  20 MB/s   0.229   0.368   0.382
        9:   6 MB/s   0.222   0.367   0.376
        10: 0.7 MB/s  0.205   0.346   0.324   but 13 % larger than 5 and 11 on sorted int64
        11: 0.4 MB/s  0.200   0.346   0.324
    Archives are written once, so the default is the quality with the smallest result for all three.
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
        """Return the decoded stream."""
        view = memoryview(data).cast("B")
        # The decoder allocates the window that the stream asks for.
        if view.nbytes and view[0] & 0b1111 in _LARGER_WINDOWS:
            raise CorruptChunkError(
                f"brotli stream of {view.nbytes} bytes has a window of more than {1 << _WINDOW_BITS} bytes"
            )
        decompressor = brotli.Decompressor()
        try:
            # Ask for one byte more than declared, to detect a stream that is longer. The library returns at most twice as many.
            decoded: bytes = decompressor.process(view, output_buffer_limit=decoded_bytes + 1)
            finished = decompressor.is_finished()
        except brotli.error as error:
            # brotli also raises for bytes after the end of the stream.
            raise CorruptChunkError(f"brotli stream of {view.nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not finished:
            raise CorruptChunkError(
                f"brotli stream of {view.nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded
