"""Coarse reads: float32 values rounded to bfloat16, from the start of a chunk record alone.

A record has a coarse form if it has no quantizer and its filter is `bf16_planes` with parameters. It then begins

     at  size  field
      0    16  header, version 1, with 4 streams
     16    20  stream heads
     36     4  CRC32C of streams 2 and 3 as stored: the tail
     40        streams 0 and 1

The chunk index holds the seeded CRC32C of the whole record. A CRC is linear: the CRC of the start and that of the tail, which
the start has, make up that of the record. So what the start lacks is not read, and yet the index verifies every byte that is:
damage, and an intact record in the wrong place, are found as in a whole record.

The two streams are exactly those of another record: bfloat16 codes (`bf16`) in `rotated_planes`. So a coarse chunk is decoded
and sent as such a record, and readers need nothing new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_codecs.checksum import combine_crc32c, crc32c
from tensorus_codecs.chunk_record import ChunkRecord, Stream, parse_header
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.bf16_planes import COARSE_STREAMS, CRC_BYTES, Bf16Planes
from tensorus_codecs.filters.planes import RotatedPlanes
from tensorus_codecs.quantizers.bf16 import Bf16

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    from tensorus_codecs.chunk_record import RecordHeader
    from tensorus_codecs.dtypes import DType

__all__ = ["COARSE_CODECS", "COARSE_ERROR", "HEAD_BYTES", "CoarseHead", "has_coarse_form"]

HEAD_BYTES = 40
"""Bytes of a record before its streams, if it has a coarse form."""

COARSE_ERROR = 2.0**-8
"""Upper bound of the error of a coarse read: of each value that is at least 2**-126, relative to the stored one, and so of the
L2 norm. Smaller values have an error of at most 2**-134."""

COARSE_CODECS = (Bf16.id, RotatedPlanes.id)
"""Codecs that decode a coarse chunk, besides its compressor."""

_COMPONENT = np.dtype("<f4")


def has_coarse_form(dtype: DType, codec_ids: Iterable[str]) -> bool:
    """Whether a chunk of this dtype with this encoding may have a coarse form.

    Args:
        codec_ids: of the encoding, in order.
    """
    return dtype.is_real and dtype.component == _COMPONENT and next(iter(codec_ids), None) == Bf16Planes.id


@dataclass(frozen=True)
class CoarseHead:
    """The first `HEAD_BYTES` of a record that has a coarse form."""

    header: RecordHeader
    crc32c: int
    """Of these bytes."""
    tail_crc32c: int
    """Of streams 2 and 3."""

    @classmethod
    def parse(cls, head: Buffer, record_bytes: int) -> CoarseHead | None:
        """Return the head; None if the record has no coarse form, or if this is no head of a record.

        Nothing is verified yet. In doubt the caller reads the whole record, whose checksum tells.

        Args:
            head: the first `HEAD_BYTES` of the record, or all of a shorter one.
            record_bytes: length of the whole record, from the chunk index.
        """
        view = memoryview(head)
        try:
            header = parse_header(view, record_bytes)
        except CorruptChunkError:
            return None
        has_form = (
            header.filter == Bf16Planes.number
            and not header.quantizer
            and header.filter_bytes == CRC_BYTES
            and header.dtype.component == _COMPONENT
            and header.dtype.is_real
            and header.length + CRC_BYTES == HEAD_BYTES == view.nbytes
        )
        if not has_form:
            return None
        return cls(header, crc32c(view), int.from_bytes(view[HEAD_BYTES - CRC_BYTES :], "little"))

    @property
    def streams_bytes(self) -> int:
        """Stored bytes of streams 0 and 1, which follow the head."""
        return sum(size for _, size in self.header.streams[:COARSE_STREAMS])

    def record_crc32c(self, streams: Buffer) -> int:
        """Return the CRC32C of the whole record, given streams 0 and 1 as stored."""
        tail_bytes = sum(size for _, size in self.header.streams[COARSE_STREAMS:])
        return combine_crc32c(crc32c(streams, self.crc32c), self.tail_crc32c, tail_bytes)

    def record(self, streams: Buffer) -> ChunkRecord:
        """Return the record of the coarse chunk; its streams are views into `streams`."""
        view = memoryview(streams)
        (fraction, first_bytes), (exponent, _), *_ = self.header.streams
        return ChunkRecord(
            self.header.dtype,
            Bf16.number,
            RotatedPlanes.number,
            self.header.canonical_bytes,
            b"",
            b"",
            [Stream(fraction, view[:first_bytes]), Stream(exponent, view[first_bytes:])],
        )
