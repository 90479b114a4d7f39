"""What every filter promises: the same words back, for words that it is for, and no trust in parameters that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest

from contract.codec_contract import CodecContract, each_codec, in_threads
from contract.codec_memory import allocating_at_most
from support.cases import each
from tensorus_codecs.abc import Codec, Filter, Filtered, Words
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.errors import CorruptChunkError

WORDS = ("<u1", "<u2", "<u4", "<u8")
"""Every word there is."""

_STREAMS_MAX = 9
_PARAMETERS_BYTES_MAX = 255
"""What a chunk record has room for."""

_A_FEW_TIMES = 4
"""Planes on their way to words, a copy to rotate, or a byte per word: at most that many times the words."""

_GARBAGE_COUNT = 200


def words_of(word: str, count: int) -> Words:
    """Return `count` words of random bits that nobody may write to."""
    words = np.frombuffer(np.random.default_rng(count).bytes(count * np.dtype(word).itemsize), word)
    assert not words.flags.writeable
    return words


def read_only(words: Words) -> Words:
    """Return `words`, which nobody may write to from here on."""
    words.flags.writeable = False
    return words


def every_kind_of_words(word: str) -> dict[str, Words]:
    """Return words of every kind that any filter is for, and of some that none is."""
    random = np.random.default_rng(0)
    bits = 8 * np.dtype(word).itemsize
    noise = words_of(word, 301)
    made = {
        "zeros": np.zeros(301, word),
        "ones": np.ones(301, word),
        "all bits": np.full(301, 2**bits - 1, word),
        "one of all bits": np.full(1, 2**bits - 1, word),
        "extremes": np.array([0, 1, 2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1], word),
        "zeros and ones": random.integers(0, 2, 301).astype(word),
        "sparse": np.where(random.random(301) < 0.1, noise, 0).astype(word),
        "zeros but the last": np.concatenate([np.zeros(300, word), noise[:1] | np.array(1, word)]),
        "half zeros": np.where(random.random(301) < 0.5, noise, 0).astype(word),
        "pairs": np.tile(noise[:2], 150),
        "triples": np.tile(noise[:3], 100),
        "pairs but the last": np.concatenate([np.tile(noise[:2], 150), noise[:1]]),
        "a ramp": np.arange(301).astype(word),
        "a falling ramp": np.arange(301)[::-1].astype(word).copy(),
    }
    return {"noise": noise, **{name: read_only(words) for name, words in made.items()}}


each_word = each("word", lambda test: test.word_types)
each_count = each("count", [1, 2, 8, 9, 255, 4099])


class FilterContract(CodecContract):
    """What every filter promises, for words of every width that it is for."""

    kind: ClassVar[type[Codec]] = Filter
    codec_type: ClassVar[type[Filter]]
    word_types: ClassVar[tuple[str, ...]] = WORDS
    """The words that it is for."""

    def sample(self, word: str, count: int) -> Words:
        """Return `count` words that it encodes, as random as they may be, and that nobody may write to."""
        return words_of(word, count)

    @each_codec
    @each_word
    @each_count
    def test_what_it_encodes_comes_back(self, codec: Filter, word: str, count: int) -> None:
        words = self.sample(word, count)
        assert self.decoded(self.encoded(codec, words), words).tobytes() == words.tobytes()

    @each_codec
    @each("any_word", WORDS)
    def test_words_of_any_kind_come_back_or_are_not_encoded(self, codec: Filter, any_word: str) -> None:
        for name, words in every_kind_of_words(any_word).items():
            filtered = codec.encode(words)
            if filtered is not None:
                assert self.decoded(filtered, words).tobytes() == words.tobytes(), name

    @each_codec
    def test_words_that_it_is_not_for_are_not_encoded(self, codec: Filter) -> None:
        for word in set(WORDS) - set(self.word_types):
            assert all(codec.encode(words) is None for words in every_kind_of_words(word).values())

    @each_codec
    @each_word
    @each_count
    def test_its_streams_have_the_lengths_that_it_says(self, codec: Filter, word: str, count: int) -> None:
        words = self.sample(word, count)
        filtered = self.encoded(codec, words)
        lengths = [stream.nbytes for stream in filtered.streams]
        assert lengths == self.codec_type.stream_lengths(words.itemsize, words.size, filtered.parameters)

    @each_codec
    @each_word
    @each_count
    def test_a_record_has_room_for_its_streams_and_parameters(self, codec: Filter, word: str, count: int) -> None:
        words = self.sample(word, count)
        filtered = self.encoded(codec, words)
        assert len(filtered.streams) <= _STREAMS_MAX
        assert len(filtered.parameters) <= _PARAMETERS_BYTES_MAX

    @each_codec
    @each_word
    @each_count
    def test_its_streams_are_contiguous_bytes(self, codec: Filter, word: str, count: int) -> None:
        words = self.sample(word, count)
        streams = self.encoded(codec, words).streams
        assert all(stream.c_contiguous and stream.itemsize == 1 and stream.ndim == 1 for stream in streams)

    @each_codec
    @each_word
    @each_count
    def test_any_buffer_decodes(self, codec: Filter, word: str, count: int) -> None:
        words = self.sample(word, count)
        filtered = self.encoded(codec, words)
        buffers = [bytearray(stream) for stream in filtered.streams]
        found = np.full_like(words, 0x5A)
        self.codec_type.decode(buffers, filtered.parameters, found)
        assert found.tobytes() == words.tobytes()

    @each_codec
    @each_word
    def test_every_thread_gets_the_same_streams(self, codec: Filter, word: str) -> None:
        words = self.sample(word, 20_000)

        def work() -> tuple[list[bytes], bytes]:
            filtered = self.encoded(codec, words)
            return [bytes(stream) for stream in filtered.streams], filtered.parameters

        expected = work()
        assert all(found == expected for found in in_threads(work))

    @each_codec
    @each_word
    def test_parameters_of_any_other_length_are_damage_or_decode(self, codec: Filter, word: str) -> None:
        words = self.sample(word, 300)
        filtered = self.encoded(codec, words)
        for length in range(_PARAMETERS_BYTES_MAX + 1):
            if length != len(filtered.parameters):
                parameters = (filtered.parameters + bytes(_PARAMETERS_BYTES_MAX))[:length]
                self.assert_damage_or_words(filtered.streams, parameters, words)

    @each_codec
    @each("any_word", WORDS)
    def test_no_parameters_raise_anything_but_damage(self, codec: Filter, any_word: str) -> None:
        random = np.random.default_rng(0)
        for _ in range(_GARBAGE_COUNT):
            words = words_of(any_word, int(random.integers(1, 40)))
            length = int(random.choice([0, 1, 2, 4, 8, 16, random.integers(0, _PARAMETERS_BYTES_MAX)]))
            parameters = bytes(random.choice([0, 1, 2, 3, 8, 127, 255], length).astype(np.uint8))
            self.assert_damage_or_words(None, parameters, words)

    @each_codec
    @each_word
    def test_no_streams_raise_anything_but_damage(self, codec: Filter, word: str) -> None:
        random = np.random.default_rng(0)
        for _ in range(_GARBAGE_COUNT):
            words = self.sample(word, int(random.integers(1, 40)))
            filtered = self.encoded(codec, words)
            streams = [bytearray(stream) for stream in filtered.streams]
            for stream in streams:
                if stream:
                    stream[int(random.integers(0, len(stream)))] ^= 1 << int(random.integers(0, 8))
            self.assert_damage_or_words(streams, filtered.parameters, words)

    @pytest.mark.slow
    @each_codec
    @each_word
    def test_the_largest_chunk_costs_no_more_than_a_few_times_its_bytes(self, codec: Filter, word: str) -> None:
        words = self.sample(word, CANONICAL_BYTES_MAX // np.dtype(word).itemsize)
        filtered = self.encoded(codec, words)
        found = np.zeros_like(words)
        with allocating_at_most(_A_FEW_TIMES * CANONICAL_BYTES_MAX):
            self.codec_type.decode(filtered.streams, filtered.parameters, found)
        assert found.tobytes() == words.tobytes()

    def encoded(self, codec: Filter, words: Words) -> Filtered:
        filtered = codec.encode(words)
        assert filtered is not None
        return filtered

    def decoded(self, filtered: Filtered, words: Words) -> Words:
        """Return what `filtered` decodes to, written over words that are others."""
        found = np.full_like(words, 0x5A)
        self.codec_type.decode(filtered.streams, filtered.parameters, found)
        return found

    def assert_damage_or_words(
        self, streams: Sequence[memoryview | bytearray] | None, parameters: bytes, words: Words
    ) -> None:
        """Damage that looks like other words may go unnoticed here; other errors, or much memory, are never right.

        Without `streams`, and where those have other lengths than it says, it gets some of the lengths that it says.
        """
        try:
            lengths = self.codec_type.stream_lengths(words.itemsize, words.size, parameters)
            assert sum(lengths) <= words.nbytes + words.size // 8 + 1
            assert len(lengths) <= _STREAMS_MAX
            if streams is None or [len(stream) for stream in streams] != lengths:
                streams = [memoryview(np.random.default_rng(0).bytes(length)) for length in lengths]
            self.codec_type.decode(streams, parameters, np.zeros_like(words))
        except CorruptChunkError as error:
            assert self.id in str(error)  # noqa: PT017 - an error is one of the two outcomes allowed
