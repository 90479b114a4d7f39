"""Samples of values: what policies are tried on where there are more values than that takes.

A sample is made of pieces as long as chunks of the default size, so that a store encodes in them what it would encode in the
tensors. The ends of tensors, and tensors that are smaller than a chunk, have their own share of the sample, at its end: the
chunks before it then begin where those of the tensors do.
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
    pieces = [piece for array in arrays for piece in _pieces(array)]
    whole = [piece for piece in pieces if piece.nbytes == PIECE_BYTES]
    short = [piece for piece in pieces if piece.nbytes < PIECE_BYTES]
    total_bytes = sum(piece.nbytes for piece in pieces)
    if total_bytes > bytes_max:
        whole_share = len(whole) * PIECE_BYTES / total_bytes
        count = min(round(whole_share * bytes_max / PIECE_BYTES), bytes_max // PIECE_BYTES)
        whole = _evenly(whole, max(1, count))
        short = _spread(short, bytes_max - len(whole) * PIECE_BYTES)
    chosen = whole + short
    return Sample(
        dtype=dtype_name(arrays[0]),
        shape=(sum(piece.stop - piece.start for piece in chosen),),
        canonical_bytes=sum(piece.nbytes for piece in chosen),
        blocks=lambda block_bytes: _blocks(chosen, block_bytes),
    )


def _pieces(array: AnyArray) -> Iterator[_Piece]:
    step = PIECE_BYTES // array.itemsize
    for start in range(0, array.size, step):
        yield _Piece(array, start, min(start + step, array.size))


def _evenly(pieces: list[_Piece], count: int) -> list[_Piece]:
    """Return `count` of the pieces, from the middles of as many equal parts; all where there are not more."""
    count = min(count, len(pieces))
    return [pieces[(2 * number + 1) * len(pieces) // (2 * count)] for number in range(count)]


def _spread(pieces: list[_Piece], bytes_max: int) -> list[_Piece]:
    """Return pieces of at most `bytes_max` together: after each, as much is taken as its place among all bytes allows."""
    total_bytes = sum(piece.nbytes for piece in pieces)
    chosen, passed_bytes, taken_bytes = [], 0, 0
    for piece in pieces:
        passed_bytes += piece.nbytes
        if taken_bytes + piece.nbytes <= min(passed_bytes, passed_bytes * bytes_max // total_bytes):
            chosen.append(piece)
            taken_bytes += piece.nbytes
    return chosen


def _blocks(pieces: list[_Piece], block_bytes: int) -> Iterator[memoryview]:
    for piece in pieces:
        yield from canonical_blocks(piece.elements(), block_bytes)
