"""Bools, eight to a byte: the contract, the layout, and what is not packed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_filter_contract import FilterContract, every_kind_of_words, read_only, words_of
from support.cases import each
from tensorus_codecs.abc import Words
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.packbits import PackBits


def slow_encode(words: list[int]) -> bytes | None:
    """Return the stream as the docstring has it, one word after the other."""
    if any(word > 1 for word in words):
        return None
    packed = bytearray(-(-len(words) // 8))
    for index, word in enumerate(words):
        packed[index // 8] |= word << index % 8
    return bytes(packed)


def encode(words: Words) -> bytes | None:
    filtered = PackBits().encode(words)
    if filtered is None:
        return None
    (stream,) = filtered.streams
    assert filtered.parameters == b""
    return bytes(stream)


def decode(stream: bytes, count: int) -> list[int]:
    found = np.full(count, 0x5A, np.uint8)
    PackBits.decode([stream], b"", found)
    return found.tolist()


class TestPackBits(FilterContract):
    codec_type = PackBits
    id = "packbits"
    number = 5
    word_types = ("<u1",)

    def sample(self, word: str, count: int) -> Words:
        return read_only(words_of(word, count) & np.uint8(1))


@each("count", [1, 2, 7, 8, 9, 16, 17, 1001])
def test_a_slow_encoder_that_follows_the_docstring_agrees(count: int) -> None:
    words = words_of("<u1", count) & np.uint8(1)
    assert encode(words) == slow_encode(words.tolist())


def test_it_agrees_for_every_kind_of_bytes() -> None:
    for name, words in every_kind_of_words("<u1").items():
        assert encode(words) == slow_encode(words.tolist()), name


@given(words=st.lists(st.integers(0, 1), min_size=1, max_size=300))
def test_any_bits_come_back(words: list[int]) -> None:
    packed = encode(np.array(words, np.uint8))
    assert packed == slow_encode(words)
    assert decode(packed, len(words)) == words


GOLDEN = {
    "one": ([1], "01"),
    "zero": ([0], "00"),
    "eight": ([1, 0, 0, 1, 1, 0, 0, 1], "99"),
    "nine": ([0, 1, 0, 0, 0, 0, 0, 0, 1], "0201"),
    "zeros": ([0] * 17, "000000"),
    "ones": ([1] * 17, "ffff01"),
}


@each(("words", "stream"), GOLDEN.values(), ids=GOLDEN)
def test_these_words_are_this_stream(words: list[int], stream: str) -> None:
    assert encode(np.array(words, np.uint8)) == bytes.fromhex(stream)
    assert decode(bytes.fromhex(stream), len(words)) == words


@each("byte", [2, 3, 0x80, 0xFF])
@each("position", [0, 50, 99])
def test_a_byte_above_one_is_not_packed(byte: int, position: int) -> None:
    words = np.ones(100, np.uint8)
    words[position] = byte
    assert encode(words) is None


@each("count", [1, 7, 9, 15])
def test_bits_after_the_last_word_are_damage(count: int) -> None:
    for bit in range(count, -(-count // 8) * 8):
        stream = (1 << bit).to_bytes(-(-count // 8), "little")
        with pytest.raises(CorruptChunkError, match=r"^packbits has bits after the last word that are not 0$"):
            decode(stream, count)


@each(("word_bytes", "parameters"), [(1, b"\0"), (1, bytes(255)), (2, b""), (4, b""), (8, b"12")])
def test_parameters_and_wider_words_are_damage(word_bytes: int, parameters: bytes) -> None:
    message = rf"^packbits has {len(parameters)} bytes of parameters and words of {word_bytes} bytes, must be 0 and 1$"
    with pytest.raises(CorruptChunkError, match=message):
        PackBits.stream_lengths(word_bytes, 8, parameters)
