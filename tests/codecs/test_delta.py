"""Differences: the contract, the formula, and what wraps around."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_contract import Refusal, SettingsContract
from contract.codec_filter_contract import WORDS, FilterContract, every_kind_of_words, words_of
from contract.codec_values import nan_bits
from support.cases import each
from tensorus_codecs.abc import Words
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.delta import Delta

DISTANCES = [0, 1, 2, 3, 7, 255]


def slow_encode(words: list[int], word_bytes: int, distance: int) -> list[bytes]:
    """Return the streams that the docstring's formula makes, one word after the other."""
    bits = 8 * word_bytes
    zigzags = []
    for index, word in enumerate(words):
        before = words[index - distance] if distance and index >= distance else 0
        difference = (word - before) % 2**bits
        zigzags.append(2 * difference if difference < 2 ** (bits - 1) else 2 ** (bits + 1) - 1 - 2 * difference)
    return [bytes(zigzag >> 8 * plane & 0xFF for zigzag in zigzags) for plane in range(word_bytes)]


def streams_of(words: Words, distance: int) -> list[bytes]:
    filtered = Delta(distance=distance).encode(words)
    assert filtered.parameters == bytes([distance])
    return [bytes(stream) for stream in filtered.streams]


def round_trip(words: Words, distance: int) -> Words:
    filtered = Delta(distance=distance).encode(words)
    found = np.full_like(words, 0x5A)
    Delta.decode(filtered.streams, filtered.parameters, found)
    return found


class TestDelta(FilterContract, SettingsContract):
    codec_type = Delta
    id = "delta"
    number = 3

    configurations = (
        {},
        {"distance": 0},
        {"distance": 3},
        {"distance": 255},
    )

    refusals = tuple(
        Refusal("distance", value, "an integer from 0 to 255") for value in (-1, 256, 2**40, True, 1.0, "1", None, [1])
    )


@each("word", WORDS)
class TestFormula:
    """What is in the streams."""

    @each("distance", DISTANCES)
    @each("count", [1, 2, 3, 254, 255, 256, 700])
    def test_a_slow_encoder_that_follows_it_agrees(self, word: str, distance: int, count: int) -> None:
        words = words_of(word, count)
        assert streams_of(words, distance) == slow_encode(words.tolist(), words.itemsize, distance)

    @each("distance", [0, 1, 3, 255])
    def test_it_holds_for_every_kind_of_words(self, word: str, distance: int) -> None:
        for name, words in every_kind_of_words(word).items():
            expected = slow_encode(words.tolist(), words.itemsize, distance)
            assert streams_of(words, distance) == expected, name

    @given(data=st.data())
    def test_every_distance_gives_back_every_word(self, word: str, data: st.DataObject) -> None:
        bits = 8 * np.dtype(word).itemsize
        words = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=300)), word)
        distance = data.draw(st.integers(0, 255))
        assert streams_of(words, distance) == slow_encode(words.tolist(), words.itemsize, distance)
        assert round_trip(words, distance).tobytes() == words.tobytes()

    def test_small_differences_of_either_sign_are_small_numbers(self, word: str) -> None:
        differences = [0, -1, 1, -2, 2, -3, 3]
        words = np.cumsum(np.array([100, *differences]).astype(word), dtype=word)
        first, *others = streams_of(words, 1)
        assert list(first[1:]) == [0, 1, 2, 3, 4, 5, 6]
        assert all(set(stream) == {0} for stream in others)

    def test_differences_wrap_around(self, word: str) -> None:
        largest = 2 ** (8 * np.dtype(word).itemsize) - 1
        words = np.array([largest, 0, largest, 1], word)
        # -1, 1, -1, 2
        assert streams_of(words, 1)[0] == bytes([1, 2, 1, 4])
        assert round_trip(words, 1).tolist() == [largest, 0, largest, 1]

    def test_the_middle_of_the_range_is_the_last_zigzag(self, word: str) -> None:
        bits = 8 * np.dtype(word).itemsize
        words = np.array([2 ** (bits - 1), 2 ** (bits - 1) - 1], word)
        zigzags = [bytes(stream[index] for stream in streams_of(words, 0)) for index in range(2)]
        assert [int.from_bytes(zigzag, "little") for zigzag in zigzags] == [2**bits - 1, 2**bits - 2]


GOLDEN = {
    "bytes": (np.array([1, 3, 2, 2, 0], "<u1"), 1, ["0204010003"]),
    "no difference": (np.array([0, 0xFF, 1, 0xFE, 0x80, 0x7F], "<u1"), 0, ["00010203fffe"]),
    "pixels": (np.array([10, 20, 30, 11, 19, 30], "<u1"), 3, ["14283c020100"]),
    "farther than the chunk": (np.array([5, 4], "<u1"), 255, ["0a08"]),
    "2 bytes": (np.array([0x0100, 0x0101, 0x0001], "<u2"), 1, ["0002ff", "020001"]),
    "4 bytes": (np.array([1, 0], "<u4"), 1, ["0201", "0000", "0000", "0000"]),
    "8 bytes": (
        np.array([0x8102030405060708, 0], "<u8"),
        0,
        ["ef00", "f100", "f300", "f500", "f700", "f900", "fb00", "fd00"],
    ),
}


@each(("words", "distance", "streams"), GOLDEN.values(), ids=GOLDEN)
def test_these_words_are_these_streams(words: Words, distance: int, streams: list[str]) -> None:
    assert [stream.hex() for stream in streams_of(words, distance)] == streams
    found = np.zeros_like(words)
    Delta.decode([bytes.fromhex(stream) for stream in streams], bytes([distance]), found)
    assert found.tolist() == words.tolist()


@pytest.mark.parametrize("component", ["float16", "float32", "float64"])
def test_the_bits_of_floats_come_back(component: str) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, 1.0], component)
    values = np.concatenate([special, nan_bits(component, [1, 2, 17, -1, -513]), special])
    words = values.view(f"<u{values.itemsize}")
    for distance in (0, 1, 3, 255):
        assert round_trip(words, distance).tobytes() == words.tobytes()


def test_its_distance_is_one_unless_it_is_set() -> None:
    words = words_of("<u2", 100)
    assert Delta().encode(words).parameters == b"\x01"


@pytest.mark.parametrize("parameters", [b"", b"\x01\x00", bytes(255)], ids=len)
def test_any_other_parameters_than_one_byte_are_damage(parameters: bytes) -> None:
    with pytest.raises(CorruptChunkError, match=rf"^delta has {len(parameters)} bytes of parameters, must be 1$"):
        Delta.stream_lengths(4, 10, parameters)
