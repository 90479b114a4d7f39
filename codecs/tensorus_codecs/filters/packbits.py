"""Bools, packed eight to a byte."""

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

__all__ = ["PackBits"]


@dataclass(frozen=True)
class PackBits(Filter):
    """One stream: bit i % 8 of byte i // 8 is word i, which is 0 or 1; the bits after the last word are 0.

    Packs only words of one byte that are all 0 or 1. No parameters.
    """

    id: ClassVar[str] = "packbits"
    number: ClassVar[int] = 5

    def encode(self, words: Words) -> Filtered | None:
        """Return the packed bits; None unless every word is 0 or 1."""
        if words.itemsize > 1 or int(words.max()) > 1:
            return None
        return Filtered([memoryview(np.packbits(words, bitorder="little"))])

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return one bit per word, rounded up to whole bytes."""
        if parameters or word_bytes != 1:
            raise CorruptChunkError(
                f"packbits has {len(parameters)} bytes of parameters and words of {word_bytes} bytes, must be 0 and 1"
            )
        return [-(-count // 8)]

    @classmethod
    def decode(cls, streams: Sequence[Buffer], parameters: bytes, words: Words) -> None:  # noqa: ARG003 - there are none
        """Unpack each bit into a byte."""
        (stream,) = streams
        unpacked = np.unpackbits(np.frombuffer(memoryview(stream), np.uint8), bitorder="little")
        if unpacked[words.size :].any():
            raise CorruptChunkError("packbits has bits after the last word that are not 0")
        words[:] = unpacked[: words.size]
