"""Turns words into the streams of a chunk record and back, by filtering and compressing them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.abc import BaseFilter, Compressor, Filter
from tensorus_codecs.base import base_digest, require_base
from tensorus_codecs.checksum import crc32c_of_all
from tensorus_codecs.chunk_record import Stream
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.registry import codec_by_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Filtered, Values, Words
    from tensorus_codecs.base import Base
    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_codecs.encoding import Encoding

__all__ = ["EncodedWords", "bytes_of", "decode_words", "encode_words"]

_UNCOMPRESSED = 0


@dataclass(frozen=True)
class EncodedWords:
    """Filtered and compressed words."""

    filter: Filter | None
    """None: the only stream holds the words, possibly compressed."""
    filter_parameters: bytes
    """Empty without a filter."""
    streams: Sequence[Stream]
    """The streams as stored."""
    stored_bytes: int
    """Size of parameters and streams."""

    @property
    def is_compressed(self) -> bool:
        """Whether the compressor made any stream smaller."""
        return any(stream.compressor != _UNCOMPRESSED for stream in self.streams)


def encode_words(words: Words, encoding: Encoding, base: Base | None = None) -> EncodedWords:
    """Filter and compress `words`, shape (n,), n >= 1. A filter that saves nothing is left out.

    Args:
        base: of as many words, for a filter that needs one; without it, such a filter is left out.
    """
    filtered = None if encoding.filter is None else _filter(words, encoding.filter, base)
    if filtered is None:
        return _encoded(None, b"", [_compress(bytes_of(words), encoding.compressor)])
    streams = [_compress(stream, encoding.compressor) for stream in filtered.streams]
    parameters = filtered.parameters
    if filtered.coarse_streams:
        parameters += crc32c_of_all(stream.data for stream in streams[filtered.coarse_streams :]).to_bytes(4, "little")
    encoded = _encoded(encoding.filter, parameters, streams)
    if encoded.stored_bytes < words.nbytes:
        return encoded
    # Filtering and compressing saved nothing: store the words raw instead of paying for a second compression.
    return _encoded(None, b"", [Stream(_UNCOMPRESSED, bytes_of(words))])


def decode_words(
    record: ChunkRecord, word: np.dtype[Any], count: int, target: Words | None = None, base: Base | None = None
) -> Words:
    """Return `count` decoded words; a single raw stream is not copied.

    Args:
        target: array to decode into, shape (count,); None: return any array.
        base: what the record was encoded against, if it needs a base.

    Raises:
        BaseMissingError, BaseMismatchError: the record needs a base, and `base` is not the one.
        CorruptChunkError: the record's filter and compressors did not write these streams for so many words.
        UnsupportedCodecError: a codec's library is not installed.
    """
    if not record.filter:
        (stream,) = record.streams
        found = np.frombuffer(memoryview(_decompress(stream, count * word.itemsize)), word)
        if target is None:
            return found
        target[:] = found
        return target
    filter_class = codec_by_number(Filter, record.filter)
    digest = base_digest(record)
    parameters = record.filter_parameters
    if digest is not None:
        base = require_base(record, digest, base)
        parameters = parameters[len(digest) :]
    # The filter bounds these lengths for any parameters, so a hostile record cannot make a decompressor allocate more.
    lengths = filter_class.stream_lengths(word.itemsize, count, parameters)
    if len(lengths) != len(record.streams):
        raise CorruptChunkError(f"chunk record: {len(record.streams)} streams, {filter_class.id} has {len(lengths)}")
    decoded = [_decompress(stream, length) for stream, length in zip(record.streams, lengths, strict=True)]
    words = np.empty(count, word) if target is None else target
    if base is not None and issubclass(filter_class, BaseFilter):
        filter_class.decode_against(decoded, parameters, words, base.words)
    else:
        filter_class.decode(decoded, parameters, words)
    return words


def bytes_of(array: Values) -> memoryview:
    """Return a view of the bytes of a contiguous array."""
    return memoryview(array.view(np.uint8)).cast("B")


def _filter(words: Words, used: Filter, base: Base | None) -> Filtered | None:
    """Return the streams, with the digest of the base in front of the parameters if `used` needs one."""
    if not isinstance(used, BaseFilter):
        return used.encode(words)
    filtered = None if base is None else used.encode_against(words, base.words)
    if base is None or filtered is None:
        return None
    return replace(filtered, parameters=base.digest + filtered.parameters)


def _encoded(used: Filter | None, parameters: bytes, streams: list[Stream]) -> EncodedWords:
    stored_bytes = len(parameters) + sum(memoryview(stream.data).nbytes for stream in streams)
    return EncodedWords(used, parameters, streams, stored_bytes)


def _compress(data: memoryview, compressor: Compressor | None) -> Stream:
    # A filter may leave a stream empty.
    if compressor is not None and data.nbytes:
        encoded = compressor.encode(data)
        if encoded is not None and len(encoded) < data.nbytes:
            return Stream(compressor.number, encoded)
    return Stream(_UNCOMPRESSED, data)


def _decompress(stream: Stream, decoded_bytes: int) -> Buffer:
    if stream.compressor != _UNCOMPRESSED:
        compressor = codec_by_number(Compressor, stream.compressor)
        if not decoded_bytes:
            raise CorruptChunkError(
                f"chunk record: an empty stream is compressed with {compressor.id}, must be uncompressed"
            )
        return compressor.decode(stream.data, decoded_bytes)
    stored = memoryview(stream.data).nbytes
    if stored != decoded_bytes:
        raise CorruptChunkError(f"chunk record: a stream without compressor is {stored} bytes, must be {decoded_bytes}")
    return stream.data
