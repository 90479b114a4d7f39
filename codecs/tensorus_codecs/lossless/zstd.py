"""The Zstandard format."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Zstd"]

_HUFFMAN_ONLY: dict[int, int] = {
    zstd.CompressionParameter.strategy: zstd.Strategy.fast,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 6,
    zstd.CompressionParameter.chain_log: 6,
    zstd.CompressionParameter.search_log: 1,
    zstd.CompressionParameter.min_match: 7,
    # 0, since a negative level's target length switches the literal coder off as well.
    zstd.CompressionParameter.target_length: 0,
    zstd.CompressionParameter.content_size_flag: 0,
}
"""Settings that hardly find a match and leave the literal coder (Huffman) at work.

On the exponent plane of real weights three times as fast as level 1, and smaller (measured; a window_log of 10 is slow)."""

_DECODER_LIMITS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 21}
"""A chunk has at most 2**21 bytes, so no encoder of ours needs a larger window: what a hostile frame may make us allocate."""

_ENTROPY_MAX = 7.7
"""Bits per byte above which a Huffman coder saves less than it costs. Mantissa bytes have 8, exponents of weights 2.6."""

_ENTROPY_SAMPLE_BYTES = 4096
"""Enough that random bytes measure 7.95, and 60 times faster than coding 256 KiB in vain."""


@dataclass(frozen=True)
class Zstd(Compressor):
    """One Zstandard frame per stream, without content size and checksum: the chunk record and its CRC hold both.

    Source: RFC 8878. Every level decodes alike.
    """

    id: ClassVar[str] = "zstd"
    number: ClassVar[int] = 3

    level: int = 3
    """1 (fastest) to 22 (smallest); without meaning where `huffman_only`."""
    huffman_only: bool = False
    """Code symbols by how often they occur and look for no repetitions: what suits exponents and quantized codes."""

    def __post_init__(self) -> None:
        """Refuse a level outside 1 to 22."""
        self._require_integer("level", 1, 22)
        if not isinstance(self.huffman_only, bool):
            raise InvalidPolicyError(f"huffman_only of codec zstd is {self.huffman_only!r}, must be true or false")

    def encode(self, data: Buffer) -> bytes | None:
        """Return `data` as one frame; None where `huffman_only` and its symbols are about equally frequent."""
        if self.huffman_only:
            if _sampled_entropy(data) > _ENTROPY_MAX:
                return None
            return zstd.compress(data, options=_HUFFMAN_ONLY)
        options: dict[int, int] = {
            zstd.CompressionParameter.compression_level: self.level,
            zstd.CompressionParameter.content_size_flag: 0,
        }
        return zstd.compress(data, options=options)

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> bytes:
        """Return the frame's bytes."""
        decompressor = zstd.ZstdDecompressor(options=_DECODER_LIMITS)
        try:
            # One byte more than declared shows a frame that goes on; zstd stops there.
            decoded = decompressor.decompress(data, decoded_bytes + 1)
        except zstd.ZstdError as error:
            raise CorruptChunkError(f"zstd frame of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not decompressor.eof or decompressor.unused_data:
            raise CorruptChunkError(
                f"zstd frame of {memoryview(data).nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded


def _sampled_entropy(data: Buffer) -> float:
    """Return the entropy of evenly spaced bytes of `data`, in bits per byte."""
    symbols = np.frombuffer(memoryview(data), np.uint8)
    sample = symbols[:: max(1, symbols.size // _ENTROPY_SAMPLE_BYTES)]
    counts = np.bincount(sample, minlength=256)
    shares = counts[counts > 0] / sample.size
    return float(-(shares * np.log2(shares)).sum())
