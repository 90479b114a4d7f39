"""What every filter promises: the same words back, in as many bytes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from contract.codec_contract import CodecContract, in_threads
from tensorus_codecs.abc import Codec, Filter, Words

_STREAMS_MAX = 8
"""What a chunk record has room for."""


def words_of(word: str, count: int) -> Words:
    """Return `count` words of random bits that nobody may write to."""
    words = np.frombuffer(np.random.default_rng(count).bytes(count * np.dtype(word).itemsize), word)
    assert not words.flags.writeable
    return words


class FilterContract(CodecContract):
    """What every filter promises, for words of every width."""

    kind: ClassVar[type[Codec]] = Filter
    codec_type: ClassVar[type[Filter]]

    @pytest.fixture(params=["<u1", "<u2", "<u4", "<u8"])
    def word(self, request: pytest.FixtureRequest) -> str:
        found: str = request.param
        return found

    @pytest.fixture(params=[1, 2, 3, 255, 4099])
    def words(self, request: pytest.FixtureRequest, word: str) -> Words:
        return words_of(word, request.param)

    def test_what_it_encodes_comes_back(self, codec: Filter, words: Words) -> None:
        found = np.full_like(words, 0x5A)
        self.codec_type.decode(codec.encode(words), found)
        assert found.tobytes() == words.tobytes()

    def test_its_streams_have_the_lengths_that_it_says(self, codec: Filter, words: Words) -> None:
        lengths = [stream.nbytes for stream in codec.encode(words)]
        assert lengths == self.codec_type.stream_lengths(words.itemsize, words.size)

    def test_it_neither_adds_nor_removes_bytes(self, word: str) -> None:
        lengths = self.codec_type.stream_lengths(np.dtype(word).itemsize, 1001)
        assert sum(lengths) == 1001 * np.dtype(word).itemsize
        assert 1 <= len(lengths) <= _STREAMS_MAX

    def test_its_streams_are_contiguous_bytes(self, codec: Filter, words: Words) -> None:
        assert all(stream.c_contiguous and stream.itemsize == 1 and stream.ndim == 1 for stream in codec.encode(words))

    def test_any_buffer_decodes(self, codec: Filter, words: Words) -> None:
        found = np.zeros_like(words)
        self.codec_type.decode([bytearray(stream) for stream in codec.encode(words)], found)
        assert found.tobytes() == words.tobytes()

    def test_extreme_words_come_back(self, codec: Filter, word: str) -> None:
        bits = 8 * np.dtype(word).itemsize
        words = np.array([0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1], word)
        found = np.zeros_like(words)
        self.codec_type.decode(codec.encode(words), found)
        assert found.tolist() == words.tolist()

    def test_every_thread_gets_the_same_streams(self, codec: Filter, word: str) -> None:
        words = words_of(word, 20_000)
        expected = [bytes(stream) for stream in codec.encode(words)]
        assert all(found == expected for found in in_threads(lambda: [bytes(stream) for stream in codec.encode(words)]))
