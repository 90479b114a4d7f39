"""The format of a compressed tensor. The bytes are self-describing.

Compressed tensor, version 1. Little-endian, no padding.

 at  size  field          rule (each has a check, a message and a test that breaks it)
  0     4  magic          "TNSR"
  4     1  version        1; any other is refused before a further byte is read
  5     1  dtype          number of the dtype, as in chunk records
  6     1  ndim n         0 to 64, as NumPy and torch have it
  7     1  reserved       0
  8   8*n  shape          one size per axis
        4  crc32c         of everything before it
then for each chunk of the canonical bytes, in order:
        4  record_bytes   length of the record
        4  crc32c         of the record, continued from the CRC before it: an intact record out of place is damage
           record         a chunk record (`tensorus_codecs.chunk_record`), of the same dtype
The chunks' canonical bytes add up to those of the shape, and nothing follows the last record.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from tensorus._arrays.canonical import empty_canonical
from tensorus.compression._chunks import chunks_of
from tensorus.compression._errors import CompressionError
from tensorus.compression._report import Report
from tensorus_codecs.checksum import combine_crc32c, crc32c
from tensorus_codecs.chunk_record import parse_record
from tensorus_codecs.dtypes import dtype_by_number
from tensorus_codecs.errors import CodecError, CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import decode_record, encode_chunk
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

    from tensorus._arrays.canonical import AnyArray
    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_codecs.dtypes import DType
    from tensorus_codecs.pipeline import EncodedChunk
    from tensorus_codecs.plan import ChunkPlan

__all__ = ["pack", "unpack"]

_MAGIC = b"TNSR"
_VERSION = 1
_NDIM_MAX = 64

_START = struct.Struct("<4sBBBB")
_CRC = struct.Struct("<I")
_RECORD = struct.Struct("<II")
_SIZE_BYTES = 8


@dataclass(frozen=True)
class _Header:
    dtype: DType
    shape: tuple[int, ...]
    crc32c: int
    length: int
    """Bytes up to the first record."""

    @property
    def canonical_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.element_bytes


def pack(array: AnyArray, dtype: DType, plan: ChunkPlan) -> tuple[bytes, Report]:
    """Return the compressed array, and the measurements. Memory in addition to the array: the result and one chunk.

    Args:
        array: the array.
        dtype: its dtype.
        plan: a plan for this dtype.
    """
    report = Report(plan.fallback_reason)
    # `BytesIO.getvalue` returns its memory without a copy.
    file = BytesIO()
    crc = _write_header(file, dtype, array.shape)
    suited = plan
    for number, chunk in enumerate(chunks_of(array, plan.chunk_bytes)):
        if number % CHOOSE_EVERY_CHUNKS == 0 and array.nbytes > chunk.nbytes:
            suited = narrowed(plan, chunk, dtype)
        encoded = encode_chunk(chunk, dtype, suited)
        report.add(chunk.nbytes, encoded)
        crc = _write_record(file, encoded, crc)
    return file.getvalue(), report


def unpack(data: Buffer) -> AnyArray:
    """Return the array that `pack` compressed: new, little-endian, row-major.

    All headers and checksums are verified before the array is allocated, and the records bound its size.

    Raises:
        CompressionError: the bytes are invalid, or a codec's library is not installed; the message names the field or chunk.
    """
    view = memoryview(data).cast("B")
    header = _parse_header(view)
    records = list(_parse_records(view, header))
    found = sum(record.canonical_bytes for record in records)
    if found != header.canonical_bytes:
        raise _damage(f"has chunks of {found} canonical bytes in all, dtype and shape need {header.canonical_bytes}")
    try:
        array = empty_canonical(header.dtype.name, header.shape)
    except ValueError as error:
        raise _damage(f"has shape {header.shape}: {error}") from error
    canonical = memoryview(array.reshape(-1).view(np.uint8))
    start = 0
    for number, record in enumerate(records):
        canonical[start : start + record.canonical_bytes] = _decoded(record, number)
        start += record.canonical_bytes
    return array


def _write_header(file: BytesIO, dtype: DType, shape: tuple[int, ...]) -> int:
    header = _START.pack(_MAGIC, _VERSION, dtype.number, len(shape), 0)
    header += b"".join(size.to_bytes(_SIZE_BYTES, "little") for size in shape)
    crc = crc32c(header)
    file.write(header + _CRC.pack(crc))
    return crc


def _write_record(file: BytesIO, encoded: EncodedChunk, crc_before: int) -> int:
    crc = combine_crc32c(crc_before, encoded.crc32c, encoded.stored_bytes)
    file.write(_RECORD.pack(encoded.stored_bytes, crc))
    file.writelines(encoded.record)
    return crc


def _parse_header(view: memoryview) -> _Header:
    if view.nbytes < _START.size:
        raise _damage(f"is {view.nbytes} bytes, its header has at least {_START.size + _CRC.size}")
    magic, version, dtype_number, ndim, reserved = _START.unpack_from(view)
    if magic != _MAGIC:
        raise _damage(f"begins with the bytes {magic.hex()}, must be {_MAGIC.hex()}")
    if version != _VERSION:
        raise _damage(f"has version {version}, this version of Tensorus reads {_VERSION}")
    crc_at = _START.size + ndim * _SIZE_BYTES
    if view.nbytes < crc_at + _CRC.size:
        raise _damage(f"is {view.nbytes} bytes, its header with {ndim} axes has {crc_at + _CRC.size}")
    (expected,) = _CRC.unpack_from(view, crc_at)
    found = crc32c(view[:crc_at])
    if found != expected:
        raise _damage(f"has a header with CRC32C {found:08x}, must be {expected:08x}")
    dtype = dtype_by_number(dtype_number)
    if dtype is None:
        raise _damage(f"has dtype {dtype_number}, which this version of Tensorus does not know")
    if ndim > _NDIM_MAX or reserved:
        raise _damage(f"has {ndim} axes and a reserved field of {reserved}, must be 0 to {_NDIM_MAX} axes and 0")
    shape = struct.unpack_from(f"<{ndim}Q", view, _START.size)
    return _Header(dtype, shape, found, crc_at + _CRC.size)


def _parse_records(view: memoryview, header: _Header) -> Iterator[ChunkRecord]:
    at, crc, number = header.length, header.crc32c, 0
    while at < view.nbytes:
        if view.nbytes - at < _RECORD.size:
            raise _damage(f"ends {view.nbytes - at} bytes into what precedes chunk {number}, {_RECORD.size} bytes")
        record_bytes, expected = _RECORD.unpack_from(view, at)
        at += _RECORD.size
        if view.nbytes - at < record_bytes:
            raise _damage(f"has {view.nbytes - at} bytes of chunk {number}, must be {record_bytes}")
        data = view[at : at + record_bytes]
        crc = crc32c(data, crc)
        if crc != expected:
            raise _damage(f"has CRC32C {crc:08x} up to chunk {number}, must be {expected:08x}")
        try:
            record = parse_record(data)
        except CorruptChunkError as error:
            raise _damage(f"has a chunk {number} that cannot be read: {error}") from error
        if record.dtype != header.dtype:
            raise _damage(f"has a chunk {number} of {record.dtype.name}, must be {header.dtype.name}")
        yield record
        at += record_bytes
        number += 1


def _decoded(record: ChunkRecord, number: int) -> memoryview:
    try:
        return decode_record(record)
    except UnsupportedCodecError as error:
        raise CompressionError(f"chunk {number} of a compressed tensor: {error}", reason="UNSUPPORTED_CODEC") from error
    except CodecError as error:
        raise _damage(f"has a chunk {number} that cannot be read: {error}") from error


def _damage(what: str) -> CompressionError:
    return CompressionError(f"compressed tensor {what}", reason="DATA_CORRUPT")
