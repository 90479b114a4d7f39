"""Prepares tensors for the codecs: as an array, its dtype, and its canonical bytes in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus._arrays.canonical import as_numpy, canonical_blocks, dtype_name
from tensorus_codecs.dtypes import dtype_by_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus._arrays.canonical import AnyArray
    from tensorus_codecs.dtypes import DType

__all__ = ["array_and_dtype", "chunks_of", "dtype_text"]


def array_and_dtype(tensor: object) -> tuple[AnyArray, DType]:
    """Return a NumPy array, which shares the tensor's memory if possible, and its dtype.

    Raises:
        TypeError: `tensor` is not an array.
        UnsupportedDTypeError: the contract lacks its dtype.
    """
    array = as_numpy(tensor)
    return array, dtype_by_name(dtype_name(array))


def chunks_of(array: AnyArray, chunk_bytes: int) -> Iterator[memoryview]:
    """Yield the array's canonical bytes in chunks of `chunk_bytes`; the last one may be shorter.

    Chunks of a dense array are views of it; any other array is gathered chunk by chunk, never as a whole.
    """
    begun = bytearray()
    for block in canonical_blocks(array, chunk_bytes):
        rest = block
        while rest.nbytes:
            piece = rest[: chunk_bytes - len(begun)]
            rest = rest[piece.nbytes :]
            if piece.nbytes == chunk_bytes:
                yield piece
                continue
            begun += piece
            if len(begun) == chunk_bytes:
                yield memoryview(bytes(begun))
                begun.clear()
    if begun:
        yield memoryview(bytes(begun))


def dtype_text(array: AnyArray) -> str:
    """Return the array's dtype in torch's notation, such as "torch.float32"."""
    return f"torch.{dtype_name(array)}"
