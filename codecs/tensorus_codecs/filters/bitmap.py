"""Sparse data: a bitmap of the nonzero words, then these words."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.planes import merge_planes, rotate_right, rotated_left, split_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Bitmap"]

_PARAMETERS = struct.Struct("<I")
"""word_count."""

_SHARE_MAX = 0.75
"""Largest share of nonzero words. Above it, the bitmap costs more than the zeros do in any other encoding."""


@dataclass(frozen=True)
class Bitmap(Filter):
    """Stream 0: bit i % 8 of byte i // 8 is 1 if word i is nonzero; the bits after the last word are 0.

    The other streams are the planes of the nonzero words rotated left by one bit (`rotated_planes`), one per byte of a word.
    Only a word whose bits are all 0 is zero, so -0.0 is nonzero. Parameters: the number of nonzero words, uint32,
    little-endian.
    """

    id: ClassVar[str] = "bitmap"
    number: ClassVar[int] = 4

    def encode(self, words: Words) -> Filtered | None:
        """Return the streams; None if more than three quarters of the words are nonzero."""
        present = words != 0
        word_count = int(np.count_nonzero(present))
        if word_count > _SHARE_MAX * words.size:
            return None
        bits = memoryview(np.packbits(present, bitorder="little"))
        return Filtered([bits, *split_planes(rotated_left(words[present]))], _PARAMETERS.pack(word_count))

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return the length of the bitmap, then one byte per nonzero word for each plane."""
        if len(parameters) != _PARAMETERS.size:
            raise CorruptChunkError(f"bitmap has {len(parameters)} bytes of parameters, must be {_PARAMETERS.size}")
        (word_count,) = _PARAMETERS.unpack(parameters)
        if word_count > count:
            raise CorruptChunkError(f"word_count of bitmap is {word_count}, the chunk has {count} words")
        return [-(-count // 8), *[word_count] * word_bytes]

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Put the nonzero words in their places and zeros between them."""
        (word_count,) = _PARAMETERS.unpack(parameters)
        bits = np.unpackbits(np.frombuffer(memoryview(streams[0]), np.uint8), bitorder="little")
        present = bits[: words.size].view(bool)
        present_count = int(np.count_nonzero(present))
        if present_count != word_count:
            raise CorruptChunkError(f"word_count of bitmap is {word_count}, its bits say {present_count}")
        if bits[words.size :].any():
            raise CorruptChunkError("bitmap has bits after the last word that are not 0")
        values = np.empty(word_count, words.dtype)
        merge_planes(streams[1:], values)
        rotate_right(values)
        # An encoder lists nonzero words only, so a zero among them is damage.
        if not values.all():
            raise CorruptChunkError("bitmap has a zero among the words that are not zero")
        words[:] = 0
        words[present] = values
