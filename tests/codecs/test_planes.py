"""Byte planes: the contract, and where each bit goes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from contract.codec_filter_contract import FilterContract
from tensorus_codecs.abc import Filter
from tensorus_codecs.filters.planes import Planes, RotatedPlanes


class TestPlanes(FilterContract):
    codec_type = Planes
    id = "planes"
    number = 1


class TestRotatedPlanes(FilterContract):
    codec_type = RotatedPlanes
    id = "rotated_planes"
    number = 2


LAYOUTS = {
    "planes of 1 byte": (Planes(), np.array([0x81, 0x02], "<u1"), ["8102"]),
    "planes of 2 bytes": (Planes(), np.array([0x8102, 0x0304], "<u2"), ["0204", "8103"]),
    "planes of 4 bytes": (Planes(), np.array([0x81020304, 0x05060708], "<u4"), ["0408", "0307", "0206", "8105"]),
    "planes of 8 bytes": (
        Planes(),
        np.array([0x8102030405060708], "<u8"),
        ["08", "07", "06", "05", "04", "03", "02", "81"],
    ),
    "rotated planes of 1 byte": (RotatedPlanes(), np.array([0x81, 0x02], "<u1"), ["0304"]),
    "rotated planes of 2 bytes": (RotatedPlanes(), np.array([0x8102, 0x0304], "<u2"), ["0508", "0206"]),
    "rotated planes of 4 bytes": (RotatedPlanes(), np.array([0x81020304], "<u4"), ["09", "06", "04", "02"]),
    "rotated planes of 8 bytes": (
        RotatedPlanes(),
        np.array([0x8102030405060708], "<u8"),
        ["11", "0e", "0c", "0a", "08", "06", "04", "02"],
    ),
}


@pytest.mark.parametrize(("codec", "words", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_has_its_place(codec: Filter, words: np.ndarray, streams: list[str]) -> None:
    assert [bytes(stream).hex() for stream in codec.encode(words)] == streams


@pytest.mark.parametrize(("codec", "words", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_comes_back_from_its_place(codec: Filter, words: np.ndarray, streams: list[str]) -> None:
    found = np.zeros_like(words)
    type(codec).decode([bytes.fromhex(stream) for stream in streams], found)
    assert found.tolist() == words.tolist()


@pytest.mark.parametrize(("dtype", "word"), [(ml_dtypes.bfloat16, "<u2"), (np.float32, "<u4")])
def test_rotation_gives_the_exponent_a_byte_of_its_own(dtype: type, word: str) -> None:
    values = np.array([1.0, -1.5, 1.75, -1.25], dtype)
    last = bytes(RotatedPlanes().encode(values.view(word))[-1])
    exponent_of_one_to_two = 127
    assert last == bytes([exponent_of_one_to_two]) * 4


def test_the_two_filters_are_different_values() -> None:
    assert Planes() != RotatedPlanes()
