"""Differences to a base: the contract, the formula, and which code suits which differences."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.codec_filter_contract import WORDS, FilterContract, every_kind_of_words, words_of
from tensorus_codecs.abc import Filtered, Words
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.int_delta import IntDelta, _positions

COUNTS = [1, 2, 3, 4, 5, 7, 8, 9, 65535, 65536, 65537, 200_003]
"""Words on both sides of a byte of codes, and of the block that a decoder takes together."""


def slow_encode(words: list[int], base: list[int], word_bytes: int, code_bits: int) -> tuple[list[bytes], bytes]:
    """Return the streams and parameters of the docstring's formula, one word after the other."""
    bits = 8 * word_bytes
    largest_code = 2**code_bits - 1
    packed = bytearray(-(-len(words) * code_bits // 8))
    listed = []
    for index, (word, before) in enumerate(zip(words, base, strict=True)):
        difference = (word - before) % 2**bits
        code_of = {0: {}, 1: {0: 0}, 2: {2**bits - 1: 0, 0: 1, 1: 2}}[code_bits]
        code = code_of.get(difference, largest_code)
        if code_bits:
            packed[index * code_bits // 8] |= code << index * code_bits % 8
        if code == largest_code:
            zigzag = 2 * difference if difference < 2 ** (bits - 1) else 2 ** (bits + 1) - 1 - 2 * difference
            listed.append(zigzag - largest_code)
    planes = [bytes(number >> 8 * plane & 0xFF for number in listed) for plane in range(word_bytes)]
    while planes and not any(planes[-1]):
        planes.pop()
    return [bytes(packed), *planes], struct.pack("<BBI", code_bits, len(planes), len(listed))


def round_trip(words: Words, base: Words) -> Words:
    filtered = IntDelta().encode_against(words, base)
    found = np.full_like(words, 0x5A)
    IntDelta.decode_against(filtered.streams, filtered.parameters, found, base)
    return found


def near(base: Words, share: float, listed_share: float, seed: int = 0) -> Words:
    """Return words of which `share` differ from `base`: `listed_share` by much, and the others by one."""
    random = np.random.default_rng(seed)
    chosen = random.random(base.size)
    steps = random.choice([-1, 1], base.size).astype(np.int64).astype(base.dtype)
    far = random.integers(2, 100, base.size).astype(base.dtype)
    return base + np.where(chosen < listed_share, far, np.where(chosen < share, steps, 0)).astype(base.dtype)


def code_bits_of(filtered: Filtered) -> int:
    return filtered.parameters[0]


class TestIntDelta(FilterContract):
    codec_type = IntDelta
    id = "int_delta"
    number = 8


@pytest.mark.parametrize("word", WORDS)
class TestFormula:
    """What is in the streams."""

    @pytest.mark.parametrize(("share", "listed_share", "code_bits"), [(0.1, 0.02, 1), (0.6, 0.1, 2), (0.9, 0.6, 0)])
    @pytest.mark.parametrize("count", [1, 2, 3, 254, 255, 256, 700])
    def test_a_slow_encoder_that_follows_it_agrees(
        self, word: str, count: int, share: float, listed_share: float, code_bits: int
    ) -> None:
        base = words_of(word, count)
        words = near(base, share, listed_share)
        filtered = IntDelta().encode_against(words, base)
        assert count < 200 or code_bits_of(filtered) == code_bits
        expected = slow_encode(words.tolist(), base.tolist(), words.itemsize, code_bits_of(filtered))
        assert ([bytes(stream) for stream in filtered.streams], filtered.parameters) == expected

    def test_it_holds_for_every_kind_of_words_and_bases(self, word: str) -> None:
        kinds = {name: words for name, words in every_kind_of_words(word).items() if words.size == 301}
        for name, words in kinds.items():
            for base_name, base in kinds.items():
                filtered = IntDelta().encode_against(words, base)
                expected = slow_encode(words.tolist(), base.tolist(), words.itemsize, code_bits_of(filtered))
                assert ([bytes(stream) for stream in filtered.streams], filtered.parameters) == expected, (
                    name,
                    base_name,
                )

    @given(data=st.data())
    def test_any_words_come_back_against_any_base(self, word: str, data: st.DataObject) -> None:
        bits = 8 * np.dtype(word).itemsize
        base = np.array(data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=100)), word)
        random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
        size = data.draw(st.sampled_from([2, 4, 6, 300, 2**bits]))
        differs = random.random(base.size) < data.draw(st.floats(0, 1))
        differences = np.where(
            differs, random.integers(0, size, base.size, np.uint64) - np.uint64(size // 2), np.uint64(0)
        )
        words = base + differences.astype(word)
        assert round_trip(words, base).tobytes() == words.tobytes()

    @pytest.mark.parametrize(
        ("share", "listed_share"), [(0.0, 0.0), (0.05, 0.05), (0.15, 0.0), (0.5, 0.08), (0.9, 0.9)]
    )
    @pytest.mark.parametrize("count", COUNTS)
    def test_counts_around_bytes_and_blocks_come_back(
        self, word: str, count: int, share: float, listed_share: float
    ) -> None:
        base = words_of(word, count)
        words = near(base, share, listed_share)
        assert round_trip(words, base).tobytes() == words.tobytes()

    def test_differences_wrap_around(self, word: str) -> None:
        largest = 2 ** (8 * np.dtype(word).itemsize) - 1
        words, base = np.array([0, largest] * 50, word), np.array([largest, 0] * 50, word)
        filtered = IntDelta().encode_against(words, base)
        # 1 and -1 have codes 2 and 0: no word is listed, and no plane is there.
        assert [bytes(stream) for stream in filtered.streams] == [b"\x22" * 25]
        assert round_trip(words, base).tolist() == words.tolist()

    def test_equal_words_are_codes_of_zero_bits(self, word: str) -> None:
        words = words_of(word, 100)
        filtered = IntDelta().encode_against(words, words)
        assert [bytes(stream) for stream in filtered.streams] == [bytes(13)]
        assert filtered.parameters == struct.pack("<BBI", 1, 0, 0)


GOLDEN = {
    "one bit": (
        [7, 7, 9, 7, 7, 7, 7, 7, 7],
        [7, 7, 7, 7, 7, 7, 7, 7, 7],
        "<u2",
        "01" + "01" + "01000000",
        ["0400", "03"],
    ),
    "one bit, two planes": ([0] * 8 + [256], [0] * 9, "<u4", "01" + "02" + "01000000", ["0001", "ff", "01"]),
    "one bit, of which all are -1": ([6] + [7] * 8, [7] * 9, "<u8", "01" + "00" + "01000000", ["0100"]),
    "two bits": ([9, 7, 8, 6, 7], [7, 7, 7, 7, 7], "<u1", "02" + "01" + "01000000", ["2701", "01"]),
    "no codes": ([9, 4], [7, 7], "<u2", "00" + "01" + "02000000", ["", "0405"]),
}


@pytest.mark.parametrize(("words", "base", "word", "parameters", "streams"), GOLDEN.values(), ids=GOLDEN)
def test_these_words_are_these_streams(
    words: list[int], base: list[int], word: str, parameters: str, streams: list[str]
) -> None:
    filtered = IntDelta().encode_against(np.array(words, word), np.array(base, word))
    assert filtered.parameters.hex() == parameters
    assert [bytes(stream).hex() for stream in filtered.streams] == streams
    found = np.zeros(len(words), word)
    buffers = [bytes.fromhex(stream) for stream in streams]
    IntDelta.decode_against(buffers, bytes.fromhex(parameters), found, np.array(base, word))
    assert found.tolist() == words


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("share", "listed_share", "code_bits"),
    [(0.0, 0.0, 1), (0.15, 0.15, 1), (0.2, 0.0, 2), (0.9, 0.0, 2), (0.5, 0.22, 2), (0.5, 0.3, 0), (1.0, 1.0, 0)],
)
def test_the_share_of_words_that_differ_decides_the_width_of_codes(
    word: str, share: float, listed_share: float, code_bits: int
) -> None:
    base = words_of(word, 4000)
    assert code_bits_of(IntDelta().encode_against(near(base, share, listed_share), base)) == code_bits


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000, 70_001])
def test_positions_are_those_of_numpy_for_any_share(count: int) -> None:
    random = np.random.default_rng(count)
    for share in (0, 0.001, 0.029, 0.031, 0.05, 0.099, 0.1, 0.101, 0.5, 1):
        chosen = random.random(count) < share
        assert np.array_equal(_positions(chosen), np.flatnonzero(chosen)), share


def parameters_of(code_bits: int, plane_count: int, listed_count: int) -> bytes:
    return struct.pack("<BBI", code_bits, plane_count, listed_count)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (b"", "int_delta has 0 bytes of parameters, must be 6"),
        (bytes(7), "int_delta has 7 bytes of parameters, must be 6"),
        (parameters_of(3, 0, 0), "code_bits of int_delta is 3, must be 0, 1 or 2"),
        (parameters_of(1, 5, 0), "plane_count of int_delta is 5, must be at most 4"),
        (
            parameters_of(1, 0, 76),
            "listed_count of int_delta is 76, must be at most 75% of the words, the chunk has 100",
        ),
        (
            parameters_of(2, 4, 76),
            "listed_count of int_delta is 76, must be at most 75% of the words, the chunk has 100",
        ),
        (parameters_of(0, 4, 99), "listed_count of int_delta is 99, must be all words, the chunk has 100"),
    ],
)
def test_parameters_that_no_encoder_writes_are_damage(parameters: bytes, message: str) -> None:
    with pytest.raises(CorruptChunkError, match=rf"^{message}$"):
        IntDelta.stream_lengths(4, 100, parameters)


@pytest.mark.parametrize(
    ("parameters", "streams", "message"),
    [
        (parameters_of(1, 1, 1), [b"\x01\x02", b"\x07"], "int_delta has bits after the last code that are not 0"),
        (parameters_of(2, 1, 1), [b"\x57\x55\x05", b"\x07"], "int_delta has bits after the last code that are not 0"),
        (parameters_of(1, 1, 2), [b"\x01\x00", b"\x07\x07"], "listed_count of int_delta is 2, its codes say 1"),
        (parameters_of(2, 1, 2), [b"\x57\x55\x01", b"\x07\x07"], "listed_count of int_delta is 2, its codes say 1"),
        (
            parameters_of(1, 1, 1),
            [b"\x03\x00", b"\x07"],
            "listed_count of int_delta is less than the number of words that its codes list",
        ),
        (
            parameters_of(2, 1, 1),
            [b"\x5f\x55\x01", b"\x07"],
            "listed_count of int_delta is less than the number of words that its codes list",
        ),
        (parameters_of(1, 1, 1), [b"\x01\x00", b"\xff"], "int_delta lists a number that exceeds a word of 1 bytes"),
        (parameters_of(2, 1, 1), [b"\x57\x55\x01", b"\xfd"], "int_delta lists a number that exceeds a word of 1 bytes"),
    ],
)
def test_streams_that_no_encoder_writes_are_damage(parameters: bytes, streams: list[bytes], message: str) -> None:
    assert [len(stream) for stream in streams] == IntDelta.stream_lengths(1, 9, parameters)
    with pytest.raises(CorruptChunkError, match=rf"^{message}$"):
        IntDelta.decode_against(streams, parameters, np.zeros(9, "<u1"), np.zeros(9, "<u1"))
