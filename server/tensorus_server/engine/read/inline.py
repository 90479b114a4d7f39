"""A fast path for inline payloads with one chunk: verifies and reads a whole small tensor from its catalogue row.

`TensorReader` handles tensors of any size, and for a small one its overhead exceeds the work. This module does the same, with
the same checks, for a single record in memory. It returns a result only if every check passes. Otherwise it returns None, and
the caller uses `TensorReader`, which reports every error. A test asserts that both return the same piece.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import chunk_seed, combine_crc32c, crc32c
from tensorus_codecs.chunk_record import RAW_HEADER_BYTES, ChunkRecord, Stream, pack_header, parse_record
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids
from tensorus_server.engine.read.payload import ENTRY_BYTES
from tensorus_server.engine.read.reader import Piece

if TYPE_CHECKING:
    from tensorus_codecs.dtypes import DType
    from tensorus_server.model import Tensor

__all__ = ["pack_entry", "raw_record", "read_inline"]

_ENTRY = struct.Struct("<II")
"""The chunk index of one chunk: see `payload.py`."""


def read_inline(tensor: Tensor, accepted_codecs: frozenset[str], *, record_bytes_max: int) -> Piece | None:
    """Return the whole tensor in one piece, as `TensorReader.read` would; None if `TensorReader` must be used.

    Args:
        accepted_codecs: ids of the codecs that the client can decode.
        record_bytes_max: size up to which a record is sent without decoding it.
    """
    payload, locator, spec = tensor.inline_payload, tensor.locator, tensor.spec
    record_bytes = locator.length - ENTRY_BYTES
    if payload is None or locator.offset or locator.index_length != ENTRY_BYTES or len(payload) != locator.length:
        return None
    canonical_bytes = spec.canonical_bytes
    if not 0 < canonical_bytes <= tensor.chunk_bytes:
        return None
    index, record = payload[record_bytes:], memoryview(payload)[:record_bytes]
    record_crc32c = crc32c(record)
    # One comparison checks the record: the index holds its length and seeded CRC32C.
    if index != pack_entry(record_bytes, record_crc32c, locator.payload_key) or crc32c(index) != locator.index_crc32c:
        return None
    header, header_crc32c = raw_record(spec.dtype, canonical_bytes)
    if payload.startswith(header):
        canonical = record[RAW_HEADER_BYTES:]
        # The CRC32C of the values, without a second pass over them: see `raw_record`.
        return Piece(0, canonical.nbytes, canonical, record_crc32c ^ header_crc32c)
    if not accepted_codecs or record_bytes > record_bytes_max:
        return None
    try:
        parsed = parse_record(record)
        ids = codec_ids(parsed)
    except (CorruptChunkError, UnsupportedCodecError):
        return None
    if not ids or (parsed.canonical_bytes, parsed.dtype.element_bytes) != (
        spec.canonical_bytes,
        spec.dtype.element_bytes,
    ):
        return None
    return Piece(0, spec.canonical_bytes, record, record_crc32c, ids) if accepted_codecs.issuperset(ids) else None


def pack_entry(record_bytes: int, record_crc32c: int, payload_key: str) -> bytes:
    """Return the chunk index of a payload with this one record."""
    return _ENTRY.pack(record_bytes, record_crc32c ^ chunk_seed(payload_key, 0))


def raw_record(dtype: DType, canonical_bytes: int) -> tuple[bytes, int]:
    """Return the header of a raw chunk's record, and the exclusive or of the record's CRC32C and the chunk's."""
    return _raw_record(dtype.number, dtype.element_bytes, canonical_bytes)


@lru_cache(maxsize=1024)
def _raw_record(dtype_number: int, element_bytes: int, canonical_bytes: int) -> tuple[bytes, int]:
    dtype = dtype_by_number(dtype_number) or opaque_dtype(dtype_number, 8 * element_bytes)
    header = pack_header(ChunkRecord(dtype, 0, 0, canonical_bytes, b"", b"", [Stream(0, bytes(canonical_bytes))]))
    # CRCs are linear, so the header's contribution to the record's CRC is the same whatever follows.
    return header, combine_crc32c(crc32c(header), 0, canonical_bytes)
