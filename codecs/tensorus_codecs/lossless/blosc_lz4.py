"""Blosc frames: bit shuffling, then LZ4."""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

with warnings.catch_warnings(record=True):
    # numcodecs imports all of its codecs, whose warnings do not concern our users.
    from numcodecs import blosc

from tensorus_codecs.abc import Compressor
from tensorus_codecs.errors import CorruptChunkError, InvalidPolicyError

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["BloscLz4"]

# The codec pool provides the parallelism. With Blosc's own threads, calls from different threads would queue for them.
blosc.use_threads = False

_HEADER = struct.Struct("<BBBBIII")
"""version, inner version, flags, typesize, nbytes, blocksize, cbytes. Source: README_CHUNK_FORMAT.rst of c-blosc 1.21."""

_VERSION = 2
_LZ4 = 1
"""The inner format, in the upper three bits of the flags; LZ4 and LZ4HC share it."""

_LEVEL = 5
_WORD_BYTES = (0, 1, 2, 4, 8)


@dataclass(frozen=True)
class BloscLz4(Compressor):
    """One Blosc 1 frame per stream: bitshuffle over words of `word_bytes`, then LZ4, in blocks that fit in the cache.

    Twice as fast as any entropy coder, and smaller than plain LZ4 on every kind of number.

    Source: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst.
    """

    id: ClassVar[str] = "blosc_lz4"
    number: ClassVar[int] = 4

    word_bytes: int = 0
    """Bytes per number: 1, 2, 4 or 8; 0: the width of the chunk's words, which a policy fills in."""

    def __post_init__(self) -> None:
        """Refuse any other width."""
        if type(self.word_bytes) is not int or self.word_bytes not in _WORD_BYTES:
            raise InvalidPolicyError(
                f"word_bytes of codec blosc_lz4 is {self.word_bytes!r}, must be one of {_WORD_BYTES}"
            )

    def fitted(self, number: np.dtype[Any], numbers_per_element: int) -> Self:  # noqa: ARG002 - elements do not matter
        """Fill in the width of the numbers."""
        return self if self.word_bytes else replace(self, word_bytes=number.itemsize)

    def encode(self, data: Buffer) -> bytes:
        """Return `data` as one frame."""
        width = self.word_bytes or 1
        view = memoryview(data).cast("B")
        # A filter's streams need not be whole words; shuffle those by byte.
        if view.nbytes % width:
            width = 1
        words = np.frombuffer(view, f"<u{width}")
        frame: bytes = blosc.compress(words, b"lz4", _LEVEL, blosc.BITSHUFFLE)
        return frame

    @classmethod
    def decode(cls, data: Buffer, decoded_bytes: int) -> memoryview:
        """Return the decoded frame. Its header is checked before Blosc sees it."""
        view = memoryview(data).cast("B")
        if view.nbytes < _HEADER.size:
            raise CorruptChunkError(f"blosc_lz4 frame of {view.nbytes} bytes, has a header of {_HEADER.size}")
        version, _, flags, _, nbytes, _, cbytes = _HEADER.unpack_from(view)
        if (version, flags >> 5, nbytes, cbytes) != (_VERSION, _LZ4, decoded_bytes, view.nbytes):
            raise CorruptChunkError(
                f"blosc_lz4 frame says version {version}, format {flags >> 5}, {nbytes} bytes in {cbytes}; "
                f"must be {_VERSION}, {_LZ4}, {decoded_bytes} in {view.nbytes}"
            )
        # The header's length was compared with the expected one, so this buffer is large enough for Blosc.
        decoded = np.empty(decoded_bytes, np.uint8)
        try:
            blosc.decompress(np.frombuffer(view, np.uint8), decoded)
        except (RuntimeError, ValueError) as error:
            raise CorruptChunkError(f"blosc_lz4 frame of {view.nbytes} bytes: {error}") from error
        return memoryview(decoded)
