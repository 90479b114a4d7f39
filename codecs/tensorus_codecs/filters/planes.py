"""Byte planes: the first bytes of all words together, then the second ones, and so on.

In a float tensor, bytes with exponents repeat and bytes with mantissas do not. Separate planes let the compressor shrink the
former and leave the latter alone. `rotated_planes` first rotates every word left by one bit. This moves the sign to the lowest
bit, so that the exponent of a bfloat16 or float32 fills one byte, which compresses better (ratio on real weights: 1.503
instead of 1.491 for bfloat16, 1.218 instead of 1.212 for float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Planes", "RotatedPlanes", "merge_planes", "rotate_right", "rotated_left", "split_planes"]


_MERGED_BY_SHIFTS_BYTES_MAX = 4
"""Up to this word size, joining halves with shift and OR beats strided copies (2 bytes: 5.3 vs 2.4 GB/s; 8: 1.6 vs 2.3)."""


@dataclass(frozen=True)
class Planes(Filter):
    """Stream k holds byte k of every little-endian word: bits 8k to 8k + 7."""

    id: ClassVar[str] = "planes"
    number: ClassVar[int] = 1

    def encode(self, words: Words) -> Filtered | None:
        """Return one stream per byte of a word; None for one-byte words, which are a plane already."""
        return Filtered(split_planes(words)) if words.itemsize > 1 else None

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return `count` for each byte of a word."""
        if parameters:
            raise CorruptChunkError(f"{cls.id} has {len(parameters)} bytes of parameters, must be 0")
        return [count] * word_bytes

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:  # noqa: ARG003 - there are none
        """Merge the planes."""
        merge_planes(streams, words)


@dataclass(frozen=True)
class RotatedPlanes(Planes):
    """The planes of every word rotated left by one bit."""

    id: ClassVar[str] = "rotated_planes"
    number: ClassVar[int] = 2

    def encode(self, words: Words) -> Filtered | None:
        """Return one stream per byte of a word; None for one-byte words."""
        return Filtered(split_planes(rotated_left(words))) if words.itemsize > 1 else None

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:  # noqa: ARG003 - there are none
        """Merge the planes and rotate the words back."""
        merge_planes(streams, words)
        rotate_right(words)


def split_planes(words: Words) -> list[memoryview]:
    """Return the planes of `words`: plane k holds bits 8k to 8k + 7 of every word."""
    parts = [words]
    while parts[0].itemsize > 1:
        # Halving by shift and cast vectorizes; strided copies are two to four times slower (measured).
        half = np.dtype(f"<u{parts[0].itemsize // 2}")
        shift = 8 * half.itemsize
        parts = [piece.astype(half) for part in parts for piece in (part, part >> part.dtype.type(shift))]
    return [memoryview(part) for part in parts]


def merge_planes(planes: Sequence[Buffer], words: Words) -> None:
    """Merge the planes that `split_planes` returned into `words`, shape (n,)."""
    parts = [np.frombuffer(memoryview(plane), np.uint8) for plane in planes]
    # Wide words: copy each plane to every eighth byte. Narrow ones: join neighbouring planes until one array is left.
    if words.itemsize > _MERGED_BY_SHIFTS_BYTES_MAX:
        target = words.view(np.uint8).reshape(-1, words.itemsize)
        for plane, part in enumerate(parts):
            target[:, plane] = part
        return
    while len(parts) > 1:
        width = 2 * parts[0].itemsize
        # The last join writes into `words`, which saves a copy.
        parts = [_joined(low, high, words if width == words.itemsize else None) for low, high in _pairs(parts)]
    # One-byte words have a single plane and were never joined.
    if parts[0] is not words:
        words[:] = parts[0]


def _pairs(parts: list[Words]) -> list[tuple[Words, Words]]:
    return list(zip(parts[::2], parts[1::2], strict=True))


def _joined(low: Words, high: Words, out: Words | None) -> Words:
    """Return words of twice the width, with `low` as the low halves and `high` as the high ones."""
    wide = np.dtype(f"<u{2 * low.itemsize}")
    joined: Words = np.left_shift(high, wide.type(8 * low.itemsize), out=out, dtype=wide)
    joined |= low
    return joined


def rotated_left(words: Words) -> Words:
    """Return every word rotated left by one bit, which makes the sign the lowest bit."""
    rotated = words << words.dtype.type(1)
    rotated |= words >> words.dtype.type(8 * words.itemsize - 1)
    return rotated


def rotate_right(words: Words) -> None:
    """Undo `rotated_left`, in place."""
    sign = words << words.dtype.type(8 * words.itemsize - 1)
    words >>= words.dtype.type(1)
    words |= sign
