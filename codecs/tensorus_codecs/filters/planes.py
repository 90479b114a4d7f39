"""Byte planes: the first bytes of all words together, then the second ones, and so on.

In a tensor of floats the bytes that hold exponents repeat and those that hold mantissas do not, so each kind is compressed,
or left alone, by itself. `rotated_planes` first rotates every word left by one bit: that moves the sign to the far end and
lets the exponent of a bfloat16 or float32 fill a byte of its own, which then compresses better (real weights: 1.503 instead
of 1.491 for bfloat16, 1.218 instead of 1.212 for float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Planes", "RotatedPlanes"]


@dataclass(frozen=True)
class Planes(Filter):
    """Stream k holds byte k of every little-endian word: bits 8k to 8k + 7."""

    id: ClassVar[str] = "planes"
    number: ClassVar[int] = 1

    def encode(self, words: Words) -> list[memoryview]:
        """Return as many streams as a word has bytes."""
        # Shift and cast, not strided copies: the former vectorize.
        return [memoryview((words >> words.dtype.type(8 * plane)).astype(np.uint8)) for plane in range(words.itemsize)]

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int) -> list[int]:
        """Return `count` for each byte of a word."""
        return [count] * word_bytes

    @classmethod
    def decode(cls, streams: Sequence[Buffer], words: Words) -> None:
        """Put the bytes back in place."""
        target = words.view(np.uint8).reshape(-1, words.itemsize)
        for plane, stream in enumerate(streams):
            target[:, plane] = np.frombuffer(memoryview(stream), np.uint8)


@dataclass(frozen=True)
class RotatedPlanes(Planes):
    """The planes of every word rotated left by one bit."""

    id: ClassVar[str] = "rotated_planes"
    number: ClassVar[int] = 2

    def encode(self, words: Words) -> list[memoryview]:
        """Return as many streams as a word has bytes."""
        top_bit = words.dtype.type(8 * words.itemsize - 1)
        rotated = words << words.dtype.type(1)
        rotated |= words >> top_bit
        return super().encode(rotated)

    @classmethod
    def decode(cls, streams: Sequence[Buffer], words: Words) -> None:
        """Put the bytes back in place and rotate right."""
        super().decode(streams, words)
        sign = words << words.dtype.type(8 * words.itemsize - 1)
        words >>= words.dtype.type(1)
        words |= sign
