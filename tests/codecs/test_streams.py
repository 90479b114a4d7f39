"""Words into streams and back: what filter and compressor of an encoding make of them together."""

from __future__ import annotations

import numpy as np
import pytest

from contract.codec_filter_contract import words_of
from support.cases import each
from tensorus_codecs.abc import Words
from tensorus_codecs.chunk_record import ChunkRecord, Stream
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.bitmap import Bitmap
from tensorus_codecs.filters.constant import Constant
from tensorus_codecs.filters.delta import Delta
from tensorus_codecs.filters.packbits import PackBits
from tensorus_codecs.filters.planes import Planes
from tensorus_codecs.lossless.gzip import Gzip
from tensorus_codecs.streams import EncodedWords, bytes_of, decode_words, encode_words

GZIP = Gzip.number
SMALL = np.arange(500, dtype="<u4")
"""The two upper bytes of each are zero."""
SPARSE = np.where(np.arange(500) % 10, 0, SMALL).astype("<u4")
NOISE = words_of("<u4", 500)


def record_of(encoded: EncodedWords, words: Words) -> ChunkRecord:
    number = encoded.filter.number if encoded.filter else 0
    return ChunkRecord(
        dtype_by_name("uint32"), 0, number, words.nbytes, b"", encoded.filter_parameters, encoded.streams
    )


def compressors(encoded: EncodedWords) -> list[int]:
    return [stream.compressor for stream in encoded.streams]


def stored(encoded: EncodedWords) -> list[bytes]:
    return [bytes(stream.data) for stream in encoded.streams]


CASES = {
    "nothing": (Encoding(), SMALL, None, [0]),
    "a compressor": (Encoding(compressor=Gzip()), SMALL, None, [GZIP]),
    "a compressor that saves nothing": (Encoding(compressor=Gzip()), NOISE, None, [0]),
    "a filter and a compressor": (Encoding(filter=Planes(), compressor=Gzip()), SMALL, Planes(), [GZIP] * 4),
    "a filter that makes no stream smaller": (Encoding(filter=Planes()), SMALL, None, [0]),
    "both save nothing": (Encoding(filter=Planes(), compressor=Gzip()), NOISE, None, [0]),
    "a filter alone that saves": (Encoding(filter=Bitmap()), SPARSE, Bitmap(), [0] * 5),
    "a filter that is not for these words": (Encoding(filter=Bitmap(), compressor=Gzip()), SMALL, None, [GZIP]),
    "a filter that is not for these, alone": (Encoding(filter=PackBits()), SMALL, None, [0]),
    "no stream at all": (Encoding(filter=Constant(), compressor=Gzip()), np.full(2, 7, "<u4"), Constant(), []),
    "one element": (Encoding(filter=Constant()), np.full(1, 7, "<u4"), None, [0]),
    "parameters that cost more than is saved": (Encoding(filter=Delta()), SMALL, None, [0]),
}


@each(("encoding", "words", "used", "expected"), CASES.values(), ids=CASES)
class TestEncoding:
    """Which codecs are used, and that the words come back."""

    def test_these_are_used(self, encoding, words, used, expected) -> None:
        encoded = encode_words(words, encoding)
        assert encoded.filter == used
        assert compressors(encoded) == expected
        assert encoded.is_compressed == any(expected)

    def test_the_bytes_are_counted(self, encoding, words, used, expected) -> None:
        encoded = encode_words(words, encoding)
        assert encoded.stored_bytes == len(encoded.filter_parameters) + sum(map(len, stored(encoded))) <= words.nbytes

    def test_the_words_come_back(self, encoding, words, used, expected) -> None:
        encoded = encode_words(words, encoding)
        assert decode_words(record_of(encoded, words), words.dtype, words.size).tolist() == words.tolist()


def test_a_stream_that_does_not_shrink_is_stored_between_those_that_do() -> None:
    words = SMALL.copy()
    words.view(np.uint8)[0::4] = words_of("<u1", 500)
    encoded = encode_words(words, Encoding(filter=Planes(), compressor=Gzip()))
    assert compressors(encoded) == [0, GZIP, GZIP, GZIP]
    assert stored(encoded)[0] == words.tobytes()[0::4]


def test_an_empty_stream_is_not_compressed() -> None:
    encoded = encode_words(np.zeros(100_000, "<u4"), Encoding(filter=Bitmap(), compressor=Gzip()))
    assert compressors(encoded) == [GZIP, 0, 0, 0, 0]
    assert stored(encoded)[1:] == [b""] * 4


def test_a_single_stored_stream_is_not_copied() -> None:
    encoded = encode_words(SMALL, Encoding())
    assert np.shares_memory(np.frombuffer(encoded.streams[0].data, np.uint8), SMALL)
    assert np.shares_memory(decode_words(record_of(encoded, SMALL), SMALL.dtype, SMALL.size), SMALL)


def test_as_many_streams_as_the_filter_has_are_needed() -> None:
    encoded = encode_words(SMALL, Encoding(filter=Planes(), compressor=Gzip()))
    for streams in (encoded.streams[:3], [*encoded.streams, Stream(0, b"")], []):
        record = record_of(EncodedWords(Planes(), b"", streams, 0), SMALL)
        with pytest.raises(CorruptChunkError, match=rf"^chunk record: {len(streams)} streams, planes has 4$"):
            decode_words(record, SMALL.dtype, SMALL.size)


@pytest.mark.parametrize("dtype", ["<u1", "<f4", "<c16"])
def test_bytes_of_an_array_are_its_own(dtype: str) -> None:
    array = np.zeros(3, dtype)
    view = bytes_of(array)
    assert (view.nbytes, view.itemsize, view.ndim) == (array.nbytes, 1, 1)
    array[:] = 1
    assert bytes(view) == array.tobytes()
