"""Samples of values: what policies are tried on where there are more values than that takes.

A store encodes every tensor on its own, so a sample says where its tensors end. Large tensors are cut into pieces as long as
chunks of the default size, and evenly spread ones of these stand in the sample as one large tensor. Small tensors, and the ends
of large ones, stand in it each on its own. Of many, some of every size are taken: the same share of large and small ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tensorus._arrays import canonical_blocks, dtype_name
from tensorus._backend import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus._arrays import AnyArray

__all__ = ["PIECE_BYTES", "SAMPLE_BYTES_MAX", "sample_of"]

SAMPLE_BYTES_MAX = 64 * 1024 * 1024
"""Canonical bytes of a sample that a store takes, as in the contract."""

PIECE_BYTES = 1024 * 1024
"""A chunk of the default size; whole elements of every dtype."""

_SMALL_TENSORS_MAX = 1000
"""Tensors below that size in a sample: their ratios are within 1 % of those of 20,000, and take a few seconds (measured)."""


class _Piece(NamedTuple):
    """Some elements of an array in row-major order."""

    array: AnyArray
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return (self.stop - self.start) * self.array.itemsize

    def elements(self) -> AnyArray:
        # Where reshaping would copy the whole array, `flat` copies just these elements.
        flat = self.array.reshape(-1) if self.array.flags.c_contiguous else self.array.flat
        found: AnyArray = flat[self.start : self.stop]
        return found


def sample_of(arrays: Sequence[AnyArray], bytes_max: int = SAMPLE_BYTES_MAX) -> Sample:
    """Return all values of some arrays, or evenly spread pieces of them where that would be more than `bytes_max`.

    Args:
        arrays: at least one; all of the same dtype. Read when the sample is.
        bytes_max: at least `PIECE_BYTES`.

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
    """Return `count` of the pieces, from the middles of as many equal parts; all where there are not more."""
    count = min(count, len(pieces))
    return [pieces[(2 * number + 1) * len(pieces) // (2 * count)] for number in range(count)]


def _of_every_size(pieces: list[_Piece], share: float, bytes_max: int) -> list[_Piece]:
    """Return a share of the pieces, of which each size has as many as belong to it, at most `bytes_max`."""
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
