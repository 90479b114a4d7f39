"""An encoded chunk, and what is stored of it beside its record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_codecs.checksum import TensorDigest
from tensorus_codecs.plain_dataclass import plain_dataclass

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_server.base_section import BasePlace

__all__ = ["Encoded"]


@plain_dataclass
class Encoded:
    """See the module's description."""

    chunk: EncodedChunk
    digest: bytes
    """XXH3-128 of its canonical bytes as readers get them."""
    canonical_bytes: int
    base: BasePlace | None = None
    """Where the base is that the record needs; None: it needs none."""

    @classmethod
    def of(cls, encoded: EncodedChunk, canonical: Buffer, base: BasePlace | None = None) -> Encoded:
        """Return an encoded chunk with the digest of what it decodes to.

        Args:
            canonical: the bytes that were encoded.
            base: see the field.
        """
        decoded = canonical if encoded.decoded is None else encoded.decoded
        return cls(encoded, TensorDigest.of(decoded), memoryview(canonical).nbytes, base)
