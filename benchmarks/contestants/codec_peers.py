"""Codecs in common use for arrays, each on one thread."""

from __future__ import annotations

import sys
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blosc2
import numpy as np
from pcodec import ChunkConfig, standalone

with warnings.catch_warnings(record=True):
    from numcodecs import blosc

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["ORIGINAL", "Codec", "codecs"]


@dataclass(frozen=True)
class Codec:
    """Something that encodes chunks and decodes them again."""

    name: str
    encode: Callable[[memoryview], bytes]
    decode: Callable[[bytes], object]


ORIGINAL = (
    # preset, insert MB/s, get MB/s after opening again, ratio on disk, relative L2 error
    ("none", 75, 1552, 1.000, 0.0),
    ("fast", 25, 83, 0.665, 0.0),
    ("balanced", 37, 85, 1.441, 2.07e-4),
    ("maximum", 70, 247, 3.166, 1.19e-2),
    ("fp16_only", 122, 183, 1.343, 2.07e-4),
    ("int8_only", 93, 236, 2.652, 1.19e-2),
)
"""The original Tensorus, in Python, without a server: one float32 tensor of 64 MiB, N(0, 0.02). Measured once, on a machine of
2 cores; its speeds are whole inserts and reads, and not to be compared with those of a codec."""


def codecs(dtype: np.dtype[Any]) -> list[Codec]:
    """Return the others for arrays of this dtype."""
    width = dtype.itemsize
    return [
        Codec("Blosc2 bitshuffle lz4", *_blosc2(width, blosc2.Codec.LZ4, blosc2.Filter.BITSHUFFLE, 5)),
        Codec("Blosc2 shuffle zstd-1", *_blosc2(width, blosc2.Codec.ZSTD, blosc2.Filter.SHUFFLE, 1)),
        Codec("numcodecs Blosc shuffle lz4", *_numcodecs_blosc(width, b"lz4")),
        Codec("numcodecs Blosc shuffle zstd", *_numcodecs_blosc(width, b"zstd")),
        Codec("zstd-1", lambda data: zstd.compress(data, 1), zstd.decompress),
        Codec("zstd-3", lambda data: zstd.compress(data, 3), zstd.decompress),
        Codec("gzip-6", lambda data: zlib.compress(data, 6, 31), lambda data: zlib.decompress(data, 31)),
        *_pcodec(dtype),
    ]


def _blosc2(
    width: int, codec: blosc2.Codec, shuffle: blosc2.Filter, level: int
) -> tuple[Callable[[memoryview], bytes], Callable[[bytes], object]]:
    blosc2.set_nthreads(1)

    def encode(data: memoryview) -> bytes:
        encoded: bytes = blosc2.compress(bytes(data), typesize=width, clevel=level, filter=shuffle, codec=codec)
        return encoded

    return encode, blosc2.decompress


def _numcodecs_blosc(width: int, name: bytes) -> tuple[Callable[[memoryview], bytes], Callable[[bytes], object]]:
    def encode(data: memoryview) -> bytes:
        encoded: bytes = blosc.compress(np.frombuffer(data, f"V{width}").view(f"<u{width}"), name, 5, blosc.SHUFFLE)
        return encoded

    return encode, blosc.decompress


def _pcodec(dtype: np.dtype[Any]) -> list[Codec]:
    if dtype.itemsize == 1:
        return []
    number = dtype if dtype.kind in "fiu" else np.dtype(f"<u{dtype.itemsize}")
    return [
        Codec(
            "pcodec 8",
            lambda data: standalone.simple_compress(np.frombuffer(data, number), ChunkConfig(compression_level=8)),
            lambda data: standalone.simple_decompress(data).view(np.uint8),
        )
    ]
