"""Differences: what is left of counters, timestamps and images once the value before is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tensorus_codecs.abc import Filter, Filtered
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.planes import merge_planes, split_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["Delta"]

_DISTANCE_MAX = 255
"""What one byte of parameters holds."""


@dataclass(frozen=True)
class Delta(Filter):
    """Byte planes of the difference of each word to the one `distance` words before.

    d[i] = w[i] - w[i - distance] modulo 2**bits, w[i] before the first word being 0; d[i] = w[i] where distance is 0. Then
    z = 2 d for d from 0 to 2**(bits-1) - 1, and 2**(bits+1) - 1 - 2 d above, so that small differences of either sign are
    small numbers (zigzag). Stream k holds byte k of every z. Parameters: distance, one byte.

    Source of the zigzag: Protocol Buffers, Encoding, signed integers.
    """

    id: ClassVar[str] = "delta"
    number: ClassVar[int] = 3

    distance: int = 1
    """Words, 1 to 255: 1 for sequences, 3 for pixels of red, green and blue side by side. 0: no difference, for small integers
    of either sign in any order."""

    def __post_init__(self) -> None:
        """Refuse a distance outside 0 to 255."""
        self._require_integer("distance", 0, _DISTANCE_MAX)

    def encode(self, words: Words) -> Filtered:
        """Return as many streams as a word has bytes."""
        differences = words.copy()
        if self.distance:
            differences[self.distance :] -= words[: -self.distance]
        signed = differences.view(f"<i{words.itemsize}")
        # An arithmetic shift: all ones for negative differences.
        negative = signed >> signed.dtype.type(8 * words.itemsize - 1)
        differences <<= words.dtype.type(1)
        differences ^= negative.view(words.dtype)
        return Filtered(split_planes(differences), bytes([self.distance]))

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return `count` for each byte of a word."""
        if len(parameters) != 1:
            raise CorruptChunkError(f"delta has {len(parameters)} bytes of parameters, must be 1")
        return [count] * word_bytes

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:
        """Put the bytes back in place and add the differences up."""
        merge_planes(streams, words)
        one = words.dtype.type(1)
        sign = words & one
        words >>= one
        # All ones where the lowest bit was set.
        words ^= np.negative(sign, out=sign)
        for first in range(parameters[0]):
            lane = words[first :: parameters[0]]
            np.cumsum(lane, dtype=words.dtype, out=lane)
