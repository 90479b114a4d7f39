"""Byte planes: the contract, where each bit goes, and fast ways that equal slow ones."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from contract.codec_filter_contract import WORDS, FilterContract, words_of
from support.cases import each
from tensorus_codecs.abc import Filter, Words
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters import planes
from tensorus_codecs.filters.planes import (
    Planes,
    RotatedPlanes,
    merge_planes,
    rotate_right,
    rotated_left,
    split_planes,
)


class TestPlanes(FilterContract):
    codec_type = Planes
    id = "planes"
    number = 1
    word_types = ("<u2", "<u4", "<u8")


class TestRotatedPlanes(FilterContract):
    codec_type = RotatedPlanes
    id = "rotated_planes"
    number = 2
    word_types = ("<u2", "<u4", "<u8")


LAYOUTS = {
    "planes of 2 bytes": (Planes(), np.array([0x8102, 0x0304], "<u2"), ["0204", "8103"]),
    "planes of 4 bytes": (Planes(), np.array([0x81020304, 0x05060708], "<u4"), ["0408", "0307", "0206", "8105"]),
    "planes of 8 bytes": (
        Planes(),
        np.array([0x8102030405060708], "<u8"),
        ["08", "07", "06", "05", "04", "03", "02", "81"],
    ),
    "rotated planes of 2 bytes": (RotatedPlanes(), np.array([0x8102, 0x0304], "<u2"), ["0508", "0206"]),
    "rotated planes of 4 bytes": (RotatedPlanes(), np.array([0x81020304], "<u4"), ["09", "06", "04", "02"]),
    "rotated planes of 8 bytes": (
        RotatedPlanes(),
        np.array([0x8102030405060708], "<u8"),
        ["11", "0e", "0c", "0a", "08", "06", "04", "02"],
    ),
}


@each(("codec", "words", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_has_its_place(codec: Filter, words: np.ndarray, streams: list[str]) -> None:
    filtered = codec.encode(words)
    assert [bytes(stream).hex() for stream in filtered.streams] == streams
    assert filtered.parameters == b""


@each(("codec", "words", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_comes_back_from_its_place(codec: Filter, words: np.ndarray, streams: list[str]) -> None:
    found = np.zeros_like(words)
    type(codec).decode([bytes.fromhex(stream) for stream in streams], b"", found)
    assert found.tolist() == words.tolist()


@pytest.mark.parametrize(("dtype", "word"), [(ml_dtypes.bfloat16, "<u2"), (np.float32, "<u4")])
def test_rotation_gives_the_exponent_a_byte_of_its_own(dtype: type, word: str) -> None:
    values = np.array([1.0, -1.5, 1.75, -1.25], dtype)
    last = bytes(RotatedPlanes().encode(values.view(word)).streams[-1])
    exponent_of_one_to_two = 127
    assert last == bytes([exponent_of_one_to_two]) * 4


def test_the_two_filters_are_different_values() -> None:
    assert Planes() != RotatedPlanes()


@each("codec", [Planes(), RotatedPlanes()])
@each("parameters", [b"\0", bytes(255)])
def test_parameters_are_damage(codec: Filter, parameters: bytes) -> None:
    message = rf"^{codec.id} has {len(parameters)} bytes of parameters, must be 0$"
    with pytest.raises(CorruptChunkError, match=message):
        type(codec).stream_lengths(2, 10, parameters)


@pytest.mark.parametrize(("codec", "byte"), [(Planes, 0x81), (RotatedPlanes, 0xC0)], ids=["planes", "rotated"])
def test_planes_of_single_bytes_which_nobody_writes_decode_all_the_same(codec: type[Filter], byte: int) -> None:
    found = np.zeros(3, np.uint8)
    assert codec.stream_lengths(1, 3, b"") == [3]
    codec.decode([b"\x81\x00\xff"], b"", found)
    assert found.tolist() == [byte, 0x00, 0xFF]


def strided_planes(words: Words) -> list[bytes]:
    """Return the planes by copying every so many bytes, as the format describes them."""
    return [words.tobytes()[plane :: words.itemsize] for plane in range(words.itemsize)]


@each("word", WORDS)
@each("count", [0, 1, 2, 15, 16, 17, 4099])
class TestFastPaths:
    """Shifts instead of strided copies."""

    def test_planes_split_by_shifts_are_those_of_strided_copies(self, word: str, count: int) -> None:
        words = words_of(word, count)
        assert [bytes(plane) for plane in split_planes(words)] == strided_planes(words)

    @each("by_shifts_bytes_max", [0, planes._MERGED_BY_SHIFTS_BYTES_MAX, 8])
    def test_planes_merged_by_shifts_are_those_of_strided_copies(
        self, word: str, count: int, by_shifts_bytes_max: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(planes, "_MERGED_BY_SHIFTS_BYTES_MAX", by_shifts_bytes_max)
        words = words_of(word, count)
        found = np.full_like(words, 0x5A)
        merge_planes(strided_planes(words), found)
        assert found.tobytes() == words.tobytes()

    def test_words_are_rotated_as_integers_are(self, word: str, count: int) -> None:
        words = words_of(word, count)
        bits = 8 * words.itemsize
        rotated = rotated_left(words)
        assert rotated.tolist() == [(value << 1 | value >> bits - 1) % 2**bits for value in words.tolist()]
        rotate_right(rotated)
        assert rotated.tobytes() == words.tobytes()
