"""Reads a whole tensor whose payload is inline and has one record: the one-record case of `payload.py`.

`Payload` finds records by an index of any length. For one record in memory that takes ten times as long as the checks, so here
one comparison checks index and record. `stored_form` then makes the piece, as for every record. If a check fails or the record
must be decoded, the answer is None, and the caller uses `TensorReader`, which reports every error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.errors import CodecError
from tensorus_server.engine.read.payload import ENTRY_BYTES, pack_entry
from tensorus_server.engine.read.reader import stored_form
from tensorus_server.errors import DataCorruptError

if TYPE_CHECKING:
    from tensorus_server.engine.read.reader import Piece
    from tensorus_server.model import Tensor

__all__ = ["read_inline"]


def read_inline(tensor: Tensor, accepted_codecs: frozenset[str], *, record_bytes_max: int) -> Piece | None:
    """Return the whole tensor in one piece, as `TensorReader.read` would; None if `TensorReader` must be used.

    Args:
        accepted_codecs: ids of the codecs that the client can decode.
        record_bytes_max: size up to which a record is sent without decoding it.
    """
    payload, locator, canonical_bytes = tensor.inline_payload, tensor.locator, tensor.spec.canonical_bytes
    record_bytes = locator.length - ENTRY_BYTES
    if payload is None or locator.offset or locator.index_length != ENTRY_BYTES or len(payload) != locator.length:
        return None
    if not 0 < canonical_bytes <= tensor.chunk_bytes:
        return None
    index, record = payload[record_bytes:], memoryview(payload)[:record_bytes]
    record_crc32c = crc32c(record)
    # The index holds the record's length and its seeded CRC32C. The key of an inline payload is the payload key.
    if index != pack_entry(record_bytes, record_crc32c, locator.key) or crc32c(index) != locator.index_crc32c:
        return None
    codecs = accepted_codecs if record_bytes <= record_bytes_max else frozenset()
    try:
        return stored_form(tensor, canonical_bytes, record, record_crc32c, codecs)
    except (DataCorruptError, CodecError):
        return None
