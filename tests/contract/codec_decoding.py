"""Records that may be anything: decoding refuses them or returns as many bytes as they declare, in bounded memory.

A record that needs a base is decoded without one, which is refused, and against one of its length and dtype.

The property tests, the mutations of golden records and the fuzzer (`tests/fuzz`) all check this and nothing else.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from contract.codec_memory import allocating_at_most
from tensorus_codecs.base import DIGEST_BYTES, Base, base_digest
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, ChunkRecord, Stream, pack_header, parse_record
from tensorus_codecs.dtypes import dtype_by_number, opaque_dtype
from tensorus_codecs.errors import BaseMissingError, CorruptChunkError, UnsupportedCodecError
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


def assert_refused_or_decoded(data: bytes, base: Base | None = None) -> bool:
    """Return whether `data` decodes, against `base`, or zeros, if it needs a base.

    Fail if decoding raises anything but the two errors, returns another length than the record declares, or takes much memory.
    """
    if base is None:
        base = _zeros_for(data)
    with allocating_at_most(MEMORY_BYTES_MAX):
        try:
            decoded = decode_chunk(data, base=base)
        except (CorruptChunkError, UnsupportedCodecError) as error:
            assert str(error)  # noqa: PT017 - an error is one of the two outcomes allowed
            return False
    # The CRC beside the record would have noticed; all that is promised here is the length.
    assert decoded.nbytes == parse_record(data).canonical_bytes
    assert codec_ids(parse_record(data)) is not None
    target = bytearray(b"\xaa" * decoded.nbytes)
    decode_chunk_into(data, memoryview(target), base=base)
    assert target == decoded
    if base_digest(parse_record(data)) is not None:
        with pytest.raises(BaseMissingError):
            decode_chunk(data)
    return True


def rebased(data: bytes) -> bytes:
    """Return a record that needs a base with the digest of zeros in it; any other record unchanged.

    So that damage reaches the filter, which is not asked while the digest is another one.
    """
    base = _zeros_for(data)
    if base is None:
        return data
    record = parse_record(data)
    start = len(pack_header(record)) + len(record.quantizer_parameters)
    return data[:start] + base.digest + data[start + DIGEST_BYTES :]


def _zeros_for(data: bytes) -> Base | None:
    """Return the base of zeros for a record that needs one."""
    try:
        record = parse_record(data)
        if base_digest(record) is None:
            return None
    except (CorruptChunkError, UnsupportedCodecError):
        return None
    return Base(bytes(record.canonical_bytes), record.dtype)


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
