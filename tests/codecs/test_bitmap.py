"""Sparse words: the contract, the layout, and counts and bits that lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_filter_contract import WORDS, FilterContract, every_kind_of_words, read_only, words_of
from contract.codec_values import nan_bits
from support.cases import each
from tensorus_codecs.abc import Words
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.bitmap import Bitmap


def sparse(word: str, count: int) -> Words:
    """Return `count` words, half of which are zero."""
    words = words_of(word, count).copy()
    words[np.random.default_rng(count).permutation(count)[: (count + 1) // 2]] = 0
    return read_only(words)


def slow_encode(words: list[int], word_bytes: int) -> tuple[list[bytes], bytes] | None:
    """Return streams and parameters as the docstring has them, one word after the other."""
    bits = 8 * word_bytes
    kept = [word for word in words if word]
    if len(kept) > 0.75 * len(words):
        return None
    bitmap = bytearray(-(-len(words) // 8))
    for index, word in enumerate(words):
        if word:
            bitmap[index // 8] |= 1 << index % 8
    rotated = [(word << 1 | word >> bits - 1) % 2**bits for word in kept]
    planes = [bytes(word >> 8 * plane & 0xFF for word in rotated) for plane in range(word_bytes)]
    return [bytes(bitmap), *planes], len(kept).to_bytes(4, "little")


def encode(words: Words) -> tuple[list[bytes], bytes] | None:
    filtered = Bitmap().encode(words)
    return None if filtered is None else ([bytes(stream) for stream in filtered.streams], filtered.parameters)


def decode(streams: Sequence[bytes], word_count: int, word: str, count: int) -> Words:
    found = np.full(count, 0x5A, word)
    Bitmap.decode(streams, struct.pack("<I", word_count), found)
    return found


class TestBitmap(FilterContract):
    codec_type = Bitmap
    id = "bitmap"
    number = 4

    def sample(self, word: str, count: int) -> Words:
        return sparse(word, count)


@each("word", WORDS)
class TestLayout:
    """What is in the streams, and for which words there are any."""

    @each("count", [1, 2, 7, 8, 9, 16, 700])
    def test_a_slow_encoder_that_follows_the_docstring_agrees(self, word: str, count: int) -> None:
        words = sparse(word, count)
        assert encode(words) == slow_encode(words.tolist(), words.itemsize)

    def test_it_agrees_for_every_kind_of_words(self, word: str) -> None:
        for name, words in every_kind_of_words(word).items():
            assert encode(words) == slow_encode(words.tolist(), words.itemsize), name

    @given(data=st.data())
    def test_it_agrees_for_any_words_which_come_back(self, word: str, data: st.DataObject) -> None:
        bits = 8 * np.dtype(word).itemsize
        numbers = st.just(0) | st.integers(0, 2**bits - 1)
        words = np.array(data.draw(st.lists(numbers, min_size=1, max_size=300)), word)
        found = encode(words)
        assert found == slow_encode(words.tolist(), words.itemsize)
        if found is not None:
            streams, parameters = found
            assert decode(streams, *struct.unpack("<I", parameters), word, words.size).tolist() == words.tolist()

    @each("count", [1, 8, 9, 1000])
    def test_zeros_leave_the_planes_empty(self, word: str, count: int) -> None:
        words = np.zeros(count, word)
        assert encode(words) == ([bytes(-(-count // 8)), *[b""] * words.itemsize], bytes(4))
        assert not decode([bytes(-(-count // 8)), *[b""] * words.itemsize], 0, word, count).any()

    @each(("present", "is_encoded"), [(0, True), (74, True), (75, True), (76, False), (100, False)])
    def test_three_quarters_are_the_most_that_may_not_be_zero(self, word: str, present: int, is_encoded) -> None:
        words = np.ones(100, word)
        words[present:] = 0
        assert (encode(words) is not None) is is_encoded

    def test_a_decoder_does_not_care_how_many_are_not_zero(self, word: str) -> None:
        width = np.dtype(word).itemsize
        planes = [b"\x02" * 9, *[b"\0" * 9] * (width - 1)]
        assert decode([b"\xff\x01", *planes], 9, word, 9).tolist() == [1] * 9


GOLDEN = {
    "bytes": (np.array([0, 0x81, 0, 0, 2, 0, 0, 0, 0, 1], "<u1"), ["1202", "030402"], "03000000"),
    "2 bytes": (np.array([0x8102, 0, 0, 0x0304], "<u2"), ["09", "0508", "0206"], "02000000"),
    "4 bytes": (np.array([0, 0x81020304], "<u4"), ["02", "09", "06", "04", "02"], "01000000"),
    "8 bytes": (
        np.array([0x8102030405060708, 0], "<u8"),
        ["01", "11", "0e", "0c", "0a", "08", "06", "04", "02"],
        "01000000",
    ),
}


@each(("words", "streams", "parameters"), GOLDEN.values(), ids=GOLDEN)
def test_these_words_are_these_streams(words: Words, streams: list[str], parameters: str) -> None:
    expected = [bytes.fromhex(stream) for stream in streams], bytes.fromhex(parameters)
    assert encode(words) == expected
    found = np.zeros_like(words)
    Bitmap.decode(*expected, found)
    assert found.tolist() == words.tolist()


@pytest.mark.parametrize("component", ["float16", "float32", "float64"])
def test_minus_zero_and_the_payloads_of_nans_are_kept(component: str) -> None:
    kept = np.concatenate([np.array([-0.0, np.inf, 1.5], component), nan_bits(component, [1, 2, 17, -1, -513])])
    values = np.zeros(3 * kept.size, component)
    values[::3] = kept
    words = values.view(f"<u{values.itemsize}")
    found = encode(words)
    assert found is not None
    streams, parameters = found
    assert parameters == struct.pack("<I", kept.size)
    assert decode(streams, kept.size, words.dtype.str, words.size).tobytes() == values.tobytes()


class TestHostile:
    """What no encoder writes, one rule after the other: of ten words the second and the fifth are not zero."""

    STREAMS = (b"\x12\x00", b"\x02\x04")

    def test_what_is_changed_below_is_right(self) -> None:
        assert decode(self.STREAMS, 2, "<u1", 10).tolist() == [0, 1, 0, 0, 2, 0, 0, 0, 0, 0]

    @each("parameters", [b"", bytes(3), bytes(5), bytes(255)])
    def test_parameters_of_another_length(self, parameters: bytes) -> None:
        with pytest.raises(CorruptChunkError, match=rf"^bitmap has {len(parameters)} bytes of parameters, must be 4$"):
            Bitmap.stream_lengths(2, 10, parameters)

    @pytest.mark.parametrize("word_count", [11, 2**31, 2**32 - 1])
    def test_more_words_than_the_chunk_has(self, word_count: int) -> None:
        message = rf"^word_count of bitmap is {word_count}, the chunk has 10 words$"
        with pytest.raises(CorruptChunkError, match=message):
            Bitmap.stream_lengths(2, 10, struct.pack("<I", word_count))

    def test_as_many_words_as_the_chunk_has_are_allowed(self) -> None:
        assert Bitmap.stream_lengths(2, 10, struct.pack("<I", 10)) == [2, 10, 10]

    @each(
        ("bits", "planes", "word_count", "message"),
        [
            (b"\x12\x00", b"\x02", 1, r"^word_count of bitmap is 1, its bits say 2$"),
            (b"\x12\x00", b"\x02\x04\x06", 3, r"^word_count of bitmap is 3, its bits say 2$"),
            (b"\x00\x00", b"\x02\x04", 2, r"^word_count of bitmap is 2, its bits say 0$"),
            (b"\xff\x03", b"", 0, r"^word_count of bitmap is 0, its bits say 10$"),
            (b"\x12\x04", b"\x02\x04", 2, r"^bitmap has bits after the last word that are not 0$"),
            (b"\x12\x80", b"\x02\x04", 2, r"^bitmap has bits after the last word that are not 0$"),
            (b"\x02\x04", b"\x02\x04", 2, r"^word_count of bitmap is 2, its bits say 1$"),
            (b"\x12\x00", b"\x02\x00", 2, r"^bitmap has a zero among the words that are not zero$"),
        ],
    )
    def test_a_lie_is_named(self, bits: bytes, planes: bytes, word_count: int, message: str) -> None:
        with pytest.raises(CorruptChunkError, match=message):
            decode([bits, planes], word_count, "<u1", 10)
