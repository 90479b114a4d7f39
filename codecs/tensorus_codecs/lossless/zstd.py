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
    # 0: a negative level's target length would also switch off the literal coder.
    zstd.CompressionParameter.target_length: 0,
    zstd.CompressionParameter.content_size_flag: 0,
}
"""Settings that find almost no matches, so that only the literal coder (Huffman) is active.

On the exponent plane of real weights this is three times as fast as level 1, and smaller (measured; window_log 10 is slow)."""

_DECODER_LIMITS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 21}
"""Limits what a hostile frame can make the decoder allocate. A chunk has at most 2**21 bytes, so this window suffices."""

_ENTROPY_MAX = 7.7
"""Bits per byte above which Huffman coding saves less than it costs. Mantissa bytes have 8, exponents of weights 2.6."""

_ENTROPY_SAMPLE_BYTES = 4096
"""Large enough that random bytes measure 7.95, and 60 times faster than encoding 256 KiB for nothing."""


@dataclass(frozen=True)
class Zstd(Compressor):
    """One Zstandard frame per stream, without content size and checksum: the chunk record and its CRC replace them.

    Source: RFC 8878. The decoder does not depend on the level.
    """

    id: ClassVar[str] = "zstd"
    number: ClassVar[int] = 3

    level: int = 3
    """1 (fastest) to 22 (smallest); ignored with `huffman_only`."""
    huffman_only: bool = False
    """Entropy-code the bytes without searching for repetitions; suits exponents and quantized codes."""

    def __post_init__(self) -> None:
        """Refuse a level outside 1 to 22."""
        self._require_integer("level", 1, 22)
        if not isinstance(self.huffman_only, bool):
            raise InvalidPolicyError(f"huffman_only of codec zstd is {self.huffman_only!r}, must be true or false")

    def encode(self, data: Buffer) -> bytes | None:
        """Return `data` as one frame; None with `huffman_only` if all byte values are about equally frequent."""
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
        """Return the decoded frame."""
        decompressor = zstd.ZstdDecompressor(options=_DECODER_LIMITS)
        try:
            # Ask for one byte more than declared, to detect a frame that is longer; zstd stops there.
            decoded = decompressor.decompress(data, decoded_bytes + 1)
        except zstd.ZstdError as error:
            raise CorruptChunkError(f"zstd frame of {memoryview(data).nbytes} bytes: {error}") from error
        if len(decoded) != decoded_bytes or not decompressor.eof or decompressor.unused_data:
            raise CorruptChunkError(
                f"zstd frame of {memoryview(data).nbytes} bytes does not decode to exactly {decoded_bytes} bytes"
            )
        return decoded


def _sampled_entropy(data: Buffer) -> float:
    """Return the entropy of a sample of evenly spaced bytes of `data`, in bits per byte."""
    symbols = np.frombuffer(memoryview(data), np.uint8)
    sample = symbols[:: max(1, symbols.size // _ENTROPY_SAMPLE_BYTES)]
    counts = np.bincount(sample, minlength=256)
    shares = counts[counts > 0] / sample.size
    return float(-(shares * np.log2(shares)).sum())
