"""The bytes of one encoded chunk.

Chunk record, version 1. Little-endian, no padding.

     at size  field             rule (each has a check, a message and a corruption test)
      0    1  version           1; any other version is refused before another byte is read
      1    1  dtype             number of the chunk's dtype; 0: opaque, without a quantizer
      2    1  element_bytes     1 to 16; must match the dtype unless dtype is 0
      3    1  quantizer         number, 0: none; the error for an unknown number names it
      4    1  filter            likewise
      5    1  flags             bit 0: lossy, set if and only if there is a quantizer; bits 1-7 must be 0 (reserved)
      6    1  stream_count n    streams that the filter writes: 0 to 9; 1 without a filter
      7    1  filter_bytes      length of the filter's parameters; 0 without a filter
      8    4  canonical_bytes   1 byte to 2 MiB (a framed chunk fits gRPC's 4 MiB message); whole elements
     12    4  quantizer_bytes   length of the quantizer's parameters; 0 without a quantizer
     16  5*n  streams           each: compressor number (1), encoded bytes (4)
              the quantizer's parameters, the filter's, then the streams; the sizes add up to the record's length

The payload's chunk index holds the record's length and its CRC32C, seeded with payload key and chunk number: an intact record
in the wrong place counts as damage. A chunk is *raw* if its record has no quantizer, no filter, and one uncompressed stream.
A raw record ends with the canonical bytes themselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.dtypes import DType

__all__ = [
    "CANONICAL_BYTES_MAX",
    "RAW_HEADER_BYTES",
    "VERSION",
    "ChunkRecord",
    "RecordHeader",
    "Stream",
    "pack_header",
    "parse_header",
    "parse_record",
]

VERSION = 1

CANONICAL_BYTES_MAX = 2 * 1024 * 1024
"""A message with one chunk and its framing must fit 4 MiB, which every gRPC implementation accepts by default."""

_HEADER = struct.Struct("<BBBBBBBBII")
_STREAM = struct.Struct("<BI")

RAW_HEADER_BYTES = _HEADER.size + _STREAM.size
"""Length of everything before the canonical bytes in a raw record."""

_FLAG_LOSSY = 1
_STREAM_COUNT_MAX = 9
_ELEMENT_BYTES_MAX = 16
_OPAQUE = 0


@dataclass(frozen=True)
class Stream:
    """One byte stream of a record."""

    compressor: int
    """Number; 0: none."""
    data: Buffer
    """As stored."""


@dataclass(frozen=True)
class ChunkRecord:
    """The fields of a record, checked against each other. The pipeline checks that the numbers belong to codecs."""

    dtype: DType
    quantizer: int
    filter: int
    canonical_bytes: int
    quantizer_parameters: bytes
    filter_parameters: bytes
    streams: Sequence[Stream]

    @property
    def is_raw(self) -> bool:
        """Whether the record ends with the unencoded canonical bytes."""
        return self.quantizer == 0 and self.filter == 0 and self.streams[0].compressor == 0

    @property
    def parameters(self) -> bytes:
        """The bytes between the header and the streams."""
        return self.quantizer_parameters + self.filter_parameters


class RecordHeader(NamedTuple):
    """What a record says before its parameters and streams."""

    dtype: DType
    quantizer: int
    filter: int
    canonical_bytes: int
    quantizer_bytes: int
    filter_bytes: int
    streams: list[tuple[int, int]]
    """The number of the compressor, and the encoded bytes, of each stream."""

    @property
    def length(self) -> int:
        """Bytes before the parameters."""
        return _HEADER.size + len(self.streams) * _STREAM.size


def pack_header(record: ChunkRecord) -> bytes:
    """Return the header of `record`; the caller appends the parameters and the streams."""
    # The number of an opaque dtype means nothing to this version, so a record holds only its width.
    opaque = dtype_by_number(record.dtype.number) is None
    header = _HEADER.pack(
        VERSION,
        _OPAQUE if opaque else record.dtype.number,
        record.dtype.element_bytes,
        record.quantizer,
        record.filter,
        _FLAG_LOSSY if record.quantizer else 0,
        len(record.streams),
        len(record.filter_parameters),
        record.canonical_bytes,
        len(record.quantizer_parameters),
    )
    return header + b"".join(
        _STREAM.pack(stream.compressor, memoryview(stream.data).nbytes) for stream in record.streams
    )


def parse_header(data: Buffer, record_bytes: int) -> RecordHeader:
    """Return the header of a record.

    Args:
        data: the record, or its start: the header at least.
        record_bytes: length of the whole record.

    Raises:
        CorruptChunkError: the header breaks a rule of the format; the message names the field, its value and the rule.
    """
    view = memoryview(data).cast("B")
    # The version comes first: another version may not even have a header of this length.
    if view.nbytes == 0 or view[0] != VERSION:
        found = view[0] if view.nbytes else "missing"
        raise CorruptChunkError(f"version of the chunk record is {found}, must be {VERSION}")
    if view.nbytes < _HEADER.size:
        raise CorruptChunkError(f"chunk record is {view.nbytes} bytes, must be at least {_HEADER.size}")
    (
        _,
        dtype_number,
        element_bytes,
        quantizer,
        filter_number,
        flags,
        stream_count,
        filter_bytes,
        canonical_bytes,
        quantizer_bytes,
    ) = _HEADER.unpack_from(view)
    dtype = _checked_dtype(dtype_number, element_bytes)
    _require(flags == (_FLAG_LOSSY if quantizer else 0), f"flags is {flags:#04x} with quantizer {quantizer}")
    _require(bool(quantizer) or quantizer_bytes == 0, f"quantizer_bytes is {quantizer_bytes} without a quantizer")
    _require(bool(filter_number) or filter_bytes == 0, f"filter_bytes is {filter_bytes} without a filter")
    _require(stream_count <= _STREAM_COUNT_MAX, f"stream_count is {stream_count}, must be 0 to {_STREAM_COUNT_MAX}")
    _require(bool(filter_number) or stream_count == 1, f"stream_count is {stream_count} without a filter, must be 1")
    _require(
        1 <= canonical_bytes <= CANONICAL_BYTES_MAX and canonical_bytes % element_bytes == 0,
        f"canonical_bytes is {canonical_bytes}, must be 1 to {CANONICAL_BYTES_MAX} and whole elements of {element_bytes}",
    )
    body = _HEADER.size + stream_count * _STREAM.size
    # Check the length before unpacking the stream heads, which would read beyond the end.
    _require(view.nbytes >= body, f"length is {view.nbytes} bytes, too short for {stream_count} streams")
    sizes = [_STREAM.unpack_from(view, _HEADER.size + index * _STREAM.size) for index in range(stream_count)]
    expected = body + quantizer_bytes + filter_bytes + sum(size for _, size in sizes)
    _require(record_bytes == expected, f"length is {record_bytes} bytes, its sizes add up to {expected}")
    return RecordHeader(dtype, quantizer, filter_number, canonical_bytes, quantizer_bytes, filter_bytes, sizes)


def parse_record(data: Buffer) -> ChunkRecord:
    """Return the fields of a record. Parameters are copied; streams are views into `data`.

    Raises:
        CorruptChunkError: the record breaks a rule of the format; the message names the field, its value and the rule.
    """
    view = memoryview(data).cast("B")
    header = parse_header(view, view.nbytes)
    dtype, quantizer, filter_number, canonical_bytes, quantizer_bytes, filter_bytes, sizes = header
    # Readers return the end of a raw record without decoding it, so its length has to be checked here.
    if not quantizer and not filter_number and sizes[0][0] == 0:
        stream_bytes = sizes[0][1]
        _require(
            stream_bytes == canonical_bytes,
            f"a raw chunk of {canonical_bytes} canonical bytes has a stream of {stream_bytes}",
        )
    # Parameters are short and codecs take them as `bytes`; streams may be as long as the chunk and are not copied.
    body = header.length
    filter_start = body + quantizer_bytes
    position = filter_start + filter_bytes
    quantizer_parameters, filter_parameters = bytes(view[body:filter_start]), bytes(view[filter_start:position])
    streams = []
    for compressor, size in sizes:
        streams.append(Stream(compressor, view[position : position + size]))
        position += size
    return ChunkRecord(
        dtype, quantizer, filter_number, canonical_bytes, quantizer_parameters, filter_parameters, streams
    )


def _checked_dtype(number: int, element_bytes: int) -> DType:
    _require(
        1 <= element_bytes <= _ELEMENT_BYTES_MAX,
        f"element_bytes is {element_bytes}, must be 1 to {_ELEMENT_BYTES_MAX}",
    )
    # The row of the tensor has the real number; a record needs only the width.
    if number == _OPAQUE:
        return opaque_dtype(_OPAQUE, 8 * element_bytes)
    dtype = dtype_by_number(number)
    if dtype is None:
        raise CorruptChunkError(f"chunk record: dtype is {number}, which this version does not know")
    _require(
        element_bytes == dtype.element_bytes,
        f"element_bytes is {element_bytes}, but {dtype.name} has {dtype.element_bytes}",
    )
    return dtype


def _require(holds: bool, rule: str) -> None:  # noqa: FBT001 - the condition is the subject
    if not holds:
        raise CorruptChunkError(f"chunk record: {rule}")
