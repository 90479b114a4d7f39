"""The tensor digest: a checksum of a tensor's values that is computed from digests of its chunks.

When a tensor changes, only the digests of the changed chunks are computed anew. `docs/FORMAT.md` defines it:

    XXH3-128 of: dtype (4 bytes), bits per element (4), chunk size in bytes (8), rank (4), sizes (8 each), all unsigned and
    little-endian; then the XXH3-128 of each chunk's canonical bytes in order, 16 bytes each, big-endian
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["DIGEST_BYTES", "TENSOR_DIGEST", "ChunkedDigest", "tensor_digest"]

TENSOR_DIGEST = "xxh3_128_chunks"
"""The name of the algorithm in `Checksum.algorithm`."""

DIGEST_BYTES = 16


def tensor_digest(
    dtype_number: int, element_bits: int, shape: Sequence[int], chunk_bytes: int, chunk_digests: Buffer
) -> bytes:
    """Return the tensor digest, 16 bytes.

    Args:
        dtype_number: the dtype's number in the contract.
        element_bits: bits per element.
        shape: the size of each axis.
        chunk_bytes: canonical bytes per chunk; the last chunk may be shorter.
        chunk_digests: the digests of all chunks in order, joined.
    """
    state = xxhash.xxh3_128(
        struct.pack(f"<IIQI{len(shape)}Q", dtype_number, element_bits, chunk_bytes, len(shape), *shape)
    )
    state.update(chunk_digests)
    return state.digest()


class ChunkedDigest:
    """Computes a tensor digest from canonical bytes that arrive in order, in pieces of any size."""

    def __init__(self, dtype_number: int, element_bits: int, shape: Sequence[int], chunk_bytes: int) -> None:
        """Start without bytes. Arguments as of `tensor_digest`."""
        self._of = (dtype_number, element_bits, tuple(shape), chunk_bytes)
        self._chunk_bytes = chunk_bytes
        self._state = xxhash.xxh3_128()
        self._in_chunk = 0
        self._digests = bytearray()

    def update(self, data: Buffer) -> None:
        """Add the next bytes."""
        rest = memoryview(data).cast("B")
        while rest.nbytes:
            piece = rest[: self._chunk_bytes - self._in_chunk]
            self._state.update(piece)
            self._in_chunk += piece.nbytes
            rest = rest[piece.nbytes :]
            if self._in_chunk == self._chunk_bytes:
                self._end_chunk()

    def digest(self) -> bytes:
        """Return the digest of all bytes; nothing may be added afterwards."""
        if self._in_chunk:
            self._end_chunk()
        return tensor_digest(*self._of, self._digests)

    def _end_chunk(self) -> None:
        self._digests += self._state.digest()
        self._state.reset()
        self._in_chunk = 0
