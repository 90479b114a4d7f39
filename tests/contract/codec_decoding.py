"""Records that may be anything: decoding refuses them or returns as many bytes as they declare, in bounded memory.

The property tests, the mutations of golden records and the fuzzer (`tests/fuzz`) all check this and nothing else.
"""

from __future__ import annotations

import struct

import numpy as np

from contract.codec_memory import allocating_at_most
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, ChunkRecord, Stream, pack_header, parse_record
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.pipeline import codec_ids, decode_chunk, decode_chunk_into

MEMORY_BYTES_MAX = 8 * CANONICAL_BYTES_MAX
"""What decoding any record may allocate: "a few times 2 MiB"."""

_HEADER = struct.Struct("<BBBBBBBBII")
_STREAM = struct.Struct("<BI")
_STREAMS_MAX = 9

_INTEGERS = (0, 1, 2, 2**16, CANONICAL_BYTES_MAX, 2**31 - 1, 2**32 - 1)
"""What a mutation writes where a length may be."""

_BEGINNING_BYTES = 40
"""Where every other mutation is: the header, and the beginning of what follows."""


def assert_refused_or_decoded(data: bytes) -> bool:
    """Return whether `data` decodes.

    Fail if decoding raises anything but the two errors, returns another length than the record declares, or takes much memory.
    """
    with allocating_at_most(MEMORY_BYTES_MAX):
        try:
            decoded = decode_chunk(data)
        except (CorruptChunkError, UnsupportedCodecError) as error:
            assert str(error)  # noqa: PT017 - an error is one of the two outcomes allowed
            return False
    # The CRC beside the record would have noticed; all that is promised here is the length.
    assert decoded.nbytes == parse_record(data).canonical_bytes
    assert codec_ids(parse_record(data)) is not None
    target = bytearray(b"\xaa" * decoded.nbytes)
    decode_chunk_into(data, memoryview(target))
    assert target == decoded
    return True


def mutated(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """Return `data` after one to four changes: bits, bytes, integers, pieces, and the end of `other`."""
    found = bytearray(data)
    for _ in range(int(random.choice([1, 1, 1, 2, 3, 4]))):
        end = len(found) if random.random() < 0.5 else min(len(found), _BEGINNING_BYTES)
        position = int(random.integers(0, max(end, 1)))
        change = random.choice(["flip", "set", "integer", "truncate", "remove", "insert", "splice"])
        if change == "flip" and found:
            found[position] ^= 1 << int(random.integers(0, 8))
        elif change == "set" and found:
            found[position] = int(random.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 127, 128, 255]))
        elif change == "integer":
            found[position : position + 4] = int(random.choice(_INTEGERS)).to_bytes(4, "little")
        elif change == "truncate":
            del found[position:]
        elif change == "remove":
            del found[position : position + int(random.integers(1, 9))]
        elif change == "insert":
            found[position:position] = random.bytes(int(random.integers(1, 9)))
        elif change == "splice":
            found[position:] = other[int(random.integers(0, len(other) + 1)) :]
    return bytes(found)


def repaired(data: bytes) -> bytes:
    """Return the record whose header is closest to that of `data` and breaks no rule; a record without damage is its own.

    So that damage reaches the codecs: nearly every other change is found out by the lengths in the header.
    """
    padded = data[: _HEADER.size].ljust(_HEADER.size, b"\0")
    _, number, width, quantizer, filter_number, _, stream_count, filter_bytes, canonical, quantizer_bytes = (
        _HEADER.unpack(padded)
    )
    dtype = dtype_by_number(number) or opaque_dtype(0, 8 * min(max(width, 1), 16))
    canonical = min(max(canonical, 1), CANONICAL_BYTES_MAX)
    canonical = max(canonical - canonical % dtype.element_bytes, dtype.element_bytes)
    stream_count = min(stream_count, _STREAMS_MAX) if filter_number else 1
    body = _HEADER.size + stream_count * _STREAM.size
    table = data[_HEADER.size : body].ljust(stream_count * _STREAM.size, b"\0")
    entries = [_STREAM.unpack_from(table, index * _STREAM.size) for index in range(stream_count)]
    rest = data[body:]
    pieces = []
    for size in (
        quantizer_bytes if quantizer else 0,
        filter_bytes if filter_number else 0,
        *(size for _, size in entries),
    ):
        pieces.append(rest[:size])
        rest = rest[size:]
    quantizer_parameters, filter_parameters, *streams = pieces
    if not quantizer and not filter_number and not entries[0][0]:
        streams = [streams[0][:canonical].ljust(canonical, b"\0")]
    packed = [Stream(compressor, stream) for (compressor, _), stream in zip(entries, streams, strict=True)]
    record = ChunkRecord(dtype, quantizer, filter_number, canonical, quantizer_parameters, filter_parameters, packed)
    return pack_header(record) + record.parameters + b"".join(streams)
