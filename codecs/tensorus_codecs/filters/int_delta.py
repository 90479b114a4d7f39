"""Differences to the words of a base: another chunk with nearly the same values, such as that of an earlier checkpoint.

Most differences between two steps of a training are 0, and nearly all others are small. In planes, each of them costs at least
one bit, because a Huffman code has at least one bit per byte. So the filter first writes a code of one or two bits per word,
eight or four to a byte, and lists the words whose difference does not fit into its code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tensorus_codecs.abc import BaseFilter, Filtered
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters._zigzag import undo_zigzag, zigzag
from tensorus_codecs.filters.planes import merge_planes, split_planes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words

__all__ = ["IntDelta"]

_PARAMETERS = struct.Struct("<BBI")
"""code_bits, plane_count, listed_count."""

_CODE_BITS = (0, 1, 2)

_ONE_BIT_SHARE_MAX = 1 / 6
"""Largest share of words that differ for codes of one bit. Above it, codes of two bits are smaller (measured, ADR 31)."""

_TWO_BITS_SHARE_MAX = 0.25
"""Largest share of listed words for codes of two bits. Above it, planes are 4 % larger, but faster (measured, ADR 31)."""

_GATHER_PAIRS = np.uint32(1 << 24 | 1 << 18 | 1 << 12 | 1 << 6)
"""Moves the lowest two bits of every byte of a 32-bit number into its highest byte."""

_BLOCK_WORDS = 64 * 1024
"""Words that are decoded together, few enough to stay in the cache: a tenth faster (measured). Whole bytes of codes."""

_MARK = 2
"""Code 3 less 1: no other code of two bits means this difference."""

_SLOW_SHARES = (0.03, 0.1)
"""Of true values: where `np.flatnonzero` is slow."""

_LISTED_SHARE_MAX = 0.75
"""Largest share of listed words in a record. It bounds what a decoder allocates; encoders stay below it."""


@dataclass(frozen=True)
class IntDelta(BaseFilter):
    """Codes and byte planes of the difference between each word and the word of the base at the same place.

    d is the word less that of the base, modulo 2**bits. A word's code has b = code_bits bits. With b = 1 it is 0 for d = 0;
    with b = 2 it is 0, 1 and 2 for d = -1, 0 and 1. The largest code, 2**b - 1, marks a word that is listed. With b = 0, there
    are no codes, and every word is listed.

    Stream 0 holds the codes: that of word i is in bits b i % 8 and up of byte b i // 8; the bits after the last code are 0.
    The other streams are the planes of z - (2**b - 1) of the listed words, in order, where z is the zigzag number of d, as in
    `delta`; the highest planes are left out as long as all their bytes are 0. Parameters: code_bits, one byte, 0, 1 or 2; the
    number of planes, one byte; the number of listed words, uint32.
    """

    id: ClassVar[str] = "int_delta"
    number: ClassVar[int] = 8

    def encode_against(self, words: Words, base: Words) -> Filtered:
        """Return the streams, with codes as wide as suits the differences."""
        differences = words - base
        differs = differences != 0
        if np.count_nonzero(differs) <= _ONE_BIT_SHARE_MAX * words.size:
            return _filtered(1, memoryview(np.packbits(differs, bitorder="little")), differences[_positions(differs)])
        numbers = differences + words.dtype.type(1)
        is_listed = numbers > 2
        if np.count_nonzero(is_listed) <= _TWO_BITS_SHARE_MAX * words.size:
            return _filtered(2, _packed_pairs(numbers, is_listed), differences[_positions(is_listed)])
        return _filtered(0, memoryview(b""), differences)

    @classmethod
    def stream_lengths(cls, word_bytes: int, count: int, parameters: bytes) -> list[int]:
        """Return the length of the codes, then one byte per listed word for each plane."""
        if len(parameters) != _PARAMETERS.size:
            raise CorruptChunkError(f"int_delta has {len(parameters)} bytes of parameters, must be {_PARAMETERS.size}")
        code_bits, plane_count, listed_count = _PARAMETERS.unpack(parameters)
        if code_bits not in _CODE_BITS:
            raise CorruptChunkError(f"code_bits of int_delta is {code_bits}, must be 0, 1 or 2")
        if plane_count > word_bytes:
            raise CorruptChunkError(f"plane_count of int_delta is {plane_count}, must be at most {word_bytes}")
        if listed_count > _LISTED_SHARE_MAX * count if code_bits else listed_count != count:
            allowed = f"at most {_LISTED_SHARE_MAX:.0%} of the words" if code_bits else "all words"
            raise CorruptChunkError(
                f"listed_count of int_delta is {listed_count}, must be {allowed}, the chunk has {count}"
            )
        return [-(-count * code_bits // 8), *[listed_count] * plane_count]

    @classmethod
    def decode_against(cls, streams: Sequence[Buffer], parameters: bytes, words: Words, base: Words) -> None:
        """Add the differences that the codes mean to the base, and those of the listed words."""
        code_bits, _, listed_count = _PARAMETERS.unpack(parameters)
        listed = _merged(streams[1:], listed_count, words.dtype)
        largest_code = words.dtype.type(2**code_bits - 1)
        listed += largest_code
        # Only a number that an encoder never lists exceeds the word's width with this sum.
        if (listed < largest_code).any():
            raise CorruptChunkError(f"int_delta lists a number that exceeds a word of {words.itemsize} bytes")
        undo_zigzag(listed)
        if code_bits == 0:
            np.add(listed, base, out=words)
            return
        packed = np.frombuffer(memoryview(streams[0]), np.uint8)
        used_bits = words.size * code_bits % 8
        if used_bits and packed[-1] >> used_bits:
            raise CorruptChunkError("int_delta has bits after the last code that are not 0")
        decode = _decode_bits if code_bits == 1 else _decode_pairs
        found_count = 0
        for start in range(0, words.size, _BLOCK_WORDS):
            stop = start + _BLOCK_WORDS
            codes = packed[start * code_bits // 8 : stop * code_bits // 8]
            found_count += decode(codes, words[start:stop], base[start:stop], listed[found_count:])
        if found_count != listed_count:
            raise CorruptChunkError(f"listed_count of int_delta is {listed_count}, its codes say {found_count}")


def _decode_bits(packed: npt.NDArray[np.uint8], words: Words, base: Words, listed: Words) -> int:
    """Decode codes of one bit into `words`, given the differences of listed words from here on; return how many were used."""
    positions = _positions(np.unpackbits(packed, count=words.size, bitorder="little").view(np.bool_))
    words[:] = base
    words[positions] += _first(listed, positions.size)
    return positions.size


def _decode_pairs(packed: npt.NDArray[np.uint8], words: Words, base: Words, listed: Words) -> int:
    """Decode codes of two bits, as `_decode_bits`."""
    table = _differences_of_pairs(words.dtype)
    differences = np.take(table, packed, axis=0).reshape(-1)[: words.size]
    positions = _positions(differences == _MARK)
    differences[positions] = _first(listed, positions.size)
    np.add(differences, base, out=words)
    return positions.size


def _first(listed: Words, count: int) -> Words:
    """Return the first `count` words."""
    if listed.size < count:
        raise CorruptChunkError("listed_count of int_delta is less than the number of words that its codes list")
    return listed[:count]


def _filtered(code_bits: int, codes: memoryview, listed: Words) -> Filtered:
    """Return the streams, given the differences of the listed words, which are overwritten."""
    zigzag(listed)
    listed -= listed.dtype.type(2**code_bits - 1)
    planes = split_planes(listed)
    while planes and not np.frombuffer(planes[-1], np.uint8).any():
        planes.pop()
    return Filtered([codes, *planes], _PARAMETERS.pack(code_bits, len(planes), listed.size))


# `Any`: a dtype of words.
def _merged(planes: Sequence[Buffer], count: int, word: np.dtype[Any]) -> Words:
    """Return `count` words from their lowest planes; the other planes are 0."""
    words = np.empty(count, word)
    if len(planes) == 1:
        words[:] = np.frombuffer(memoryview(planes[0]), np.uint8)
    else:
        merge_planes([*planes, *[bytes(count)] * (word.itemsize - len(planes))], words)
    return words


def _packed_pairs(numbers: Words, is_listed: npt.NDArray[np.bool_]) -> memoryview:
    """Return codes of two bits, four to a byte: 3 for listed words, otherwise the number."""
    codes = numbers.astype(np.uint8)
    # Twice as fast as `np.minimum`, which does not vectorize (measured).
    codes |= is_listed.view(np.uint8) * np.uint8(3)
    codes &= np.uint8(3)
    missing = -codes.size % 4
    if missing:
        codes = np.concatenate([codes, np.zeros(missing, np.uint8)])
    # The product has the code of byte k in bits 24 + 2 k and 25 + 2 k, and nothing else there.
    fours = codes.view("<u4") * _GATHER_PAIRS
    fours >>= np.uint32(24)
    return memoryview(fours.astype(np.uint8))


def _positions(chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return `np.flatnonzero`.

    NumPy looks for the next true value where at most a tenth are true, and takes a step for every value otherwise. With 3 to
    10 %, which is common here, looking takes up to twice as long (measured), so true values at the end make them more.
    """
    count = int(np.count_nonzero(chosen))
    if not _SLOW_SHARES[0] * chosen.size < count <= _SLOW_SHARES[1] * chosen.size:
        return np.flatnonzero(chosen)
    more = np.ones(chosen.size // 8 - count, np.bool_)
    return np.flatnonzero(np.concatenate([chosen, more]))[:count]


# `Any`: a dtype of words.
@cache
def _differences_of_pairs(word: np.dtype[Any]) -> Words:
    """Return the difference that each code of every byte means, shape (256, 4); `_MARK` for a listed word."""
    codes = np.arange(256, dtype=np.uint8)[:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
    differences: Words = codes.astype(word) - word.type(1)
    return differences
