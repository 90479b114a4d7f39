"""Differences between neighbouring words, which are small for counters, timestamps and images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters._zigzag import undo_zigzag, zigzag
from tensorus_codecs.filters.planes import merge_planes, split_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Delta"]

_DISTANCE_MAX = 255
"""The distance is stored in one byte."""


@dataclass(frozen=True)
class Delta(Filter):
    """Byte planes of the difference between each word and the word `distance` places before it.

    d[i] = w[i] - w[i - distance] modulo 2**bits, where words before the first one are 0; d[i] = w[i] if distance is 0. Then
    z = 2 d for d from 0 to 2**(bits-1) - 1, and 2**(bits+1) - 1 - 2 d above, so that small differences of either sign
    become small numbers (zigzag). Stream k holds byte k of every z. Parameters: distance, one byte.

    Source of the zigzag: Protocol Buffers, Encoding, signed integers.
    """

    id: ClassVar[str] = "delta"
    number: ClassVar[int] = 3

    distance: int = 1
    """Number of words, 1 to 255: 1 for sequences, 3 for interleaved RGB pixels. 0: zigzag only, without differences, for small
    integers of either sign in any order."""

    def __post_init__(self) -> None:
        """Refuse a distance outside 0 to 255."""
        self._require_integer("distance", 0, _DISTANCE_MAX)

    def encode(self, words: Words) -> Filtered:
        """Return one stream per byte of a word."""
        differences = words.copy()
        if self.distance:
            differences[self.distance :] -= words[: -self.distance]
        zigzag(differences)
        return Filtered(split_planes(differences), bytes([self.distance]))

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return `count` for each byte of a word."""
        if len(parameters) != 1:
            raise CorruptChunkError(f"delta has {len(parameters)} bytes of parameters, must be 1")
        return [count] * word_bytes

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Merge the planes, undo the zigzag and add up the differences."""
        merge_planes(streams, words)
        undo_zigzag(words)
        # Words `distance` apart form a lane; each lane is a cumulative sum of its own. With distance 0 there is no lane.
        for first in range(parameters[0]):
            lane = words[first :: parameters[0]]
            np.cumsum(lane, dtype=words.dtype, out=lane)
