"""The base of a chunk: other bytes of the same length and dtype, to which a filter stores only the differences.

The filter's parameters in a record begin with the digest of the base. So decoding against other bytes is an error, and never
returns other values. The digest is XXH3-128, as in a checksum of values: 128 bits, because a store may have billions of chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.abc import BaseFilter, Filter
from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.dtypes import Kind
from tensorus_codecs.errors import BaseMismatchError, BaseMissingError, CorruptChunkError
from tensorus_codecs.registry import codec_by_number

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.abc import Words
    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_codecs.dtypes import DType

__all__ = ["DIGEST_BYTES", "Base", "base_digest", "require_base"]

DIGEST_BYTES = 16
"""Length of XXH3-128."""


@dataclass(frozen=True)
class Base:
    """The bytes to which a chunk is compared."""

    canonical: Buffer
    """Canonical bytes, as readers of the base get them; contiguous."""
    dtype: DType
    """Their dtype, which is also that of the chunk."""

    @property
    def nbytes(self) -> int:
        """Length of the canonical bytes."""
        return memoryview(self.canonical).nbytes

    @cached_property
    def words(self) -> Words:
        """The canonical bytes as words."""
        return np.frombuffer(memoryview(self.canonical).cast("B"), self.dtype.word)

    @cached_property
    def digest(self) -> bytes:
        """XXH3-128 of the canonical bytes."""
        return TensorDigest.of(self.canonical)


def base_digest(record: ChunkRecord) -> bytes | None:
    """Return the digest of the base that decoding `record` requires; None if it requires none.

    Raises:
        CorruptChunkError: the filter's number belongs to no codec, or its parameters are too short for a digest.
    """
    if not record.filter or not issubclass(codec_by_number(Filter, record.filter), BaseFilter):
        return None
    if len(record.filter_parameters) < DIGEST_BYTES:
        raise CorruptChunkError(
            f"chunk record: a filter with a base has {len(record.filter_parameters)} bytes of parameters, "
            f"must be at least {DIGEST_BYTES}"
        )
    return record.filter_parameters[:DIGEST_BYTES]


def require_base(record: ChunkRecord, digest: bytes, base: Base | None) -> Base:
    """Return `base` if it is the one that `record` was encoded against.

    Args:
        digest: what `base_digest` returned.

    Raises:
        BaseMissingError: there is no base.
        BaseMismatchError: the base has another length, dtype or digest.
    """
    if base is None:
        raise BaseMissingError(
            f"chunk record: the chunk was encoded against a base with the digest {digest.hex()}, none was given"
        )
    if base.nbytes != record.canonical_bytes:
        raise BaseMismatchError(
            f"chunk record: the base is {base.nbytes} bytes, must be {record.canonical_bytes} as the chunk"
        )
    # A record knows only the width of an opaque dtype.
    opaque = record.dtype.kind is base.dtype.kind is Kind.OPAQUE
    if (base.dtype.element_bytes if opaque else base.dtype) != (record.dtype.element_bytes if opaque else record.dtype):
        raise BaseMismatchError(
            f"chunk record: the base is {base.dtype.name}, must be {record.dtype.name} as the chunk"
        )
    if base.digest != digest:
        raise BaseMismatchError(
            f"chunk record: the digest of the base is {base.digest.hex()}, the chunk was encoded against {digest.hex()}"
        )
    return base
