"""Words into the streams of a chunk record, and back: the filter and the compressor of an encoding at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorus_codecs.abc import Compressor, Filter
from tensorus_codecs.chunk_record import Stream
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.registry import codec_by_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

    from tensorus_codecs.abc import Values, Words
    from tensorus_codecs.chunk_record import ChunkRecord
    from tensorus_codecs.encoding import Encoding

__all__ = ["EncodedWords", "bytes_of", "decode_words", "encode_words"]

_UNCOMPRESSED = 0


@dataclass(frozen=True)
class EncodedWords:
    """What filter and compressor made of some words."""

    filter: Filter | None
    """None: the only stream is the words themselves, perhaps compressed."""
    filter_parameters: bytes
    """Of the filter."""
    streams: Sequence[Stream]
    """As stored."""
    stored_bytes: int
    """Of parameters and streams."""

    @property
    def is_compressed(self) -> bool:
        """Whether the compressor made any stream smaller."""
        return any(stream.compressor != _UNCOMPRESSED for stream in self.streams)


def encode_words(words: Words, encoding: Encoding) -> EncodedWords:
    """Filter and compress `words`, shape (n,), n >= 1, with what `encoding` has; without a filter that saves nothing."""
    filtered = None if encoding.filter is None else encoding.filter.encode(words)
    if filtered is None:
        return _encoded(None, b"", [_compress(bytes_of(words), encoding.compressor)])
    streams = [_compress(stream, encoding.compressor) for stream in filtered.streams]
    encoded = _encoded(encoding.filter, filtered.parameters, streams)
    if encoded.stored_bytes < words.nbytes:
        return encoded
    return _encoded(None, b"", [Stream(_UNCOMPRESSED, bytes_of(words))])


def decode_words(record: ChunkRecord, word: np.dtype[Any], count: int, target: Words | None = None) -> Words:
    """Return `count` words: those of a single stream without copying, where it is stored as it is.

    Args:
        target: where to write them, shape (count,); None: wherever they are least work.

    Raises:
        CorruptChunkError: the streams are not what the record's filter and compressors made of so many words.
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
    lengths = filter_class.stream_lengths(word.itemsize, count, record.filter_parameters)
    if len(lengths) != len(record.streams):
        raise CorruptChunkError(f"chunk record: {len(record.streams)} streams, {filter_class.id} has {len(lengths)}")
    decoded = [_decompress(stream, length) for stream, length in zip(record.streams, lengths, strict=True)]
    words = np.empty(count, word) if target is None else target
    filter_class.decode(decoded, record.filter_parameters, words)
    return words


def bytes_of(array: Values) -> memoryview:
    """Return the bytes of a contiguous array, without copying."""
    return memoryview(array.view(np.uint8)).cast("B")


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
                f"chunk record: an empty stream is compressed with {compressor.id}, must be as it is"
            )
        return compressor.decode(stream.data, decoded_bytes)
    stored = memoryview(stream.data).nbytes
    if stored != decoded_bytes:
        raise CorruptChunkError(f"chunk record: a stream without compressor is {stored} bytes, must be {decoded_bytes}")
    return stream.data
