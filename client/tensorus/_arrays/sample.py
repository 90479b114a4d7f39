"""Samples of values, on which policies are tried if there are too many values to try them on all.

A store encodes every tensor separately, so a sample records the sizes of its tensors. Large tensors are cut into pieces of the
default chunk size, and evenly spread pieces form one large tensor of the sample. Small tensors and the ends of large ones are
separate tensors of the sample. If there are many, the sample takes the same share of every size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tensorus._arrays.canonical import canonical_blocks, dtype_name
from tensorus._backend import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus._arrays.canonical import AnyArray
    from tensorus._backend import Reference

__all__ = ["PIECE_BYTES", "SAMPLE_BYTES_MAX", "sample_of", "start_of"]

SAMPLE_BYTES_MAX = 64 * 1024 * 1024
"""Maximum canonical bytes of a sample; a limit of the contract."""

PIECE_BYTES = 1024 * 1024
"""The default chunk size; a multiple of every element size."""

_SMALL_TENSORS_MAX = 1000
"""Maximum number of pieces below `PIECE_BYTES`. Ratios are within 1 % of those of 20,000, in a few seconds (measured)."""


class _Piece(NamedTuple):
    """A range of an array's elements in row-major order."""

    array: AnyArray
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return (self.stop - self.start) * self.array.itemsize

    def elements(self) -> AnyArray:
        # If reshaping would copy the whole array, use `flat`, which copies only these elements.
        flat = self.array.reshape(-1) if self.array.flags.c_contiguous else self.array.flat
        found: AnyArray = flat[self.start : self.stop]
        return found


def sample_of(arrays: Sequence[AnyArray], bytes_max: int = SAMPLE_BYTES_MAX) -> Sample:
    """Return a sample of all values of some arrays, or of evenly spread pieces if all values exceed `bytes_max`.

    Args:
        arrays: at least one; all of the same dtype. They are read when the sample is read.
        bytes_max: maximum canonical bytes, at least `PIECE_BYTES`.

    Returns:
        A sample with one axis.
    """
    dtype = dtype_name(arrays[0])
    pieces = [piece for array in arrays for piece in _pieces(array)]
    share = min(1.0, bytes_max / max(1, sum(piece.nbytes for piece in pieces)))
    if len(arrays) == 1 and share == 1.0:
        return _sample(dtype, pieces, ())
    small = [piece for piece in pieces if piece.nbytes < PIECE_BYTES]
    share = min(share, _SMALL_TENSORS_MAX / max(1, len(small)))
    if share == 1.0:
        return _sample(dtype, pieces, [array.nbytes for array in arrays if array.size])
    whole = [piece for piece in pieces if piece.nbytes == PIECE_BYTES]
    whole = _evenly(whole, min(max(1, round(share * len(whole))), bytes_max // PIECE_BYTES))
    whole_bytes = len(whole) * PIECE_BYTES
    small = _of_every_size(small, share, bytes_max - whole_bytes)
    return _sample(dtype, whole + small, [*([whole_bytes] if whole else []), *(piece.nbytes for piece in small)])


def start_of(array: AnyArray, base: Reference, bytes_max: int = SAMPLE_BYTES_MAX) -> Sample:
    """Return a sample that is compared with a stored tensor: the whole array, or its first values if it exceeds `bytes_max`.

    Args:
        base: the stored tensor.
        bytes_max: maximum canonical bytes, at least one element.
    """
    whole = array.nbytes <= bytes_max
    piece = _Piece(array, 0, array.size if whole else bytes_max // array.itemsize)
    return Sample(
        dtype=dtype_name(array),
        shape=array.shape if whole else (piece.stop,),
        canonical_bytes=piece.nbytes,
        blocks=lambda block_bytes: _blocks([piece], block_bytes),
        base=base,
    )


def _sample(dtype: str, pieces: list[_Piece], tensor_bytes: Sequence[int]) -> Sample:
    return Sample(
        dtype=dtype,
        shape=(sum(piece.stop - piece.start for piece in pieces),),
        canonical_bytes=sum(piece.nbytes for piece in pieces),
        blocks=lambda block_bytes: _blocks(pieces, block_bytes),
        tensor_bytes=tensor_bytes,
    )


def _pieces(array: AnyArray) -> Iterator[_Piece]:
    step = PIECE_BYTES // array.itemsize
    for start in range(0, array.size, step):
        yield _Piece(array, start, min(start + step, array.size))


def _evenly(pieces: list[_Piece], count: int) -> list[_Piece]:
    """Return `count` evenly spread pieces, one from the middle of each of `count` equal parts; all if there are fewer."""
    count = min(count, len(pieces))
    return [pieces[(2 * number + 1) * len(pieces) // (2 * count)] for number in range(count)]


def _of_every_size(pieces: list[_Piece], share: float, bytes_max: int) -> list[_Piece]:
    """Return a share of the pieces, with all sizes in proportion, of at most `bytes_max` in total."""
    by_size = sorted(pieces, key=lambda piece: piece.nbytes)
    count = max(1, round(share * len(by_size)))
    chosen = _evenly(by_size, count)
    while chosen and sum(piece.nbytes for piece in chosen) > bytes_max:
        count -= max(1, count // 100)
        chosen = _evenly(by_size, count) if count > 0 else []
    return chosen


def _blocks(pieces: list[_Piece], block_bytes: int) -> Iterator[memoryview]:
    for piece in pieces:
        yield from canonical_blocks(piece.elements(), block_bytes)
