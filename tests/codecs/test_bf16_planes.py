"""bf16_planes: the contract, where each bit goes, and which words have a coarse form."""

from __future__ import annotations

import numpy as np
import pytest

from contract.codec_filter_contract import FilterContract, words_of
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.filters.bf16_planes import Bf16Planes


class TestBf16Planes(FilterContract):
    codec_type = Bf16Planes
    id = "bf16_planes"
    number = 7
    word_types = ("<u4",)


LAYOUTS = {
    "the lower half below one half": (0x81027FFF, ["05", "02", "ff", "7f"]),
    "the lower half at one half rounds up": (0x81028000, ["07", "02", "00", "80"]),
    "rounding carries into the exponent": (0x3FFFFFFF, ["00", "80", "ff", "ff"]),
    "rounding wraps around": (0xFFFFFFFF, ["00", "00", "ff", "ff"]),
}


@pytest.mark.parametrize(("word", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_has_its_place(word: int, streams: list[str]) -> None:
    filtered = Bf16Planes().encode(np.array([word], "<u4"))
    assert filtered is not None
    assert [bytes(stream).hex() for stream in filtered.streams] == streams
    assert filtered.parameters == b""


@pytest.mark.parametrize(("word", "streams"), LAYOUTS.values(), ids=LAYOUTS)
def test_every_bit_comes_back_from_its_place(word: int, streams: list[str]) -> None:
    found = np.zeros(1, "<u4")
    Bf16Planes.decode([bytes.fromhex(stream) for stream in streams], b"", found)
    assert found.tolist() == [word]


def test_the_upper_half_of_every_float_is_rounded_as_integers_are() -> None:
    words = words_of("<u4", 4099)
    filtered = Bf16Planes().encode(words)
    assert filtered is not None
    rotated = [high | exponent << 8 for high, exponent in zip(*filtered.streams[:2], strict=True)]
    highs = [word >> 1 | (word & 1) << 15 for word in rotated]
    assert highs == [(word + 0x8000) % 2**32 >> 16 for word in words.tolist()]


def kind(word: int) -> str:
    magnitude = word & 0x7FFFFFFF
    return "finite" if magnitude < 0x7F800000 else "infinite" if magnitude == 0x7F800000 else "NaN"


@pytest.mark.parametrize("sign", [0, 0x80000000], ids=["positive", "negative"])
def test_words_have_a_coarse_form_if_and_only_if_rounding_keeps_their_kind(sign: int) -> None:
    borders = (0, 0x7F7F8000, 0x7F800000, 0x7F808000, 0x7FC00000, 0x7FFF8000, 0x7FFFFFFF)
    for word in {border + step & 0x7FFFFFFF | sign for border in borders for step in (-1, 0, 1)}:
        filtered = Bf16Planes().encode(np.array([0x3F800000, word], "<u4"))
        assert filtered is not None
        rounded = (word + 0x8000) % 2**32 & 0xFFFF0000
        keeps = kind(rounded) == kind(word) and (word ^ rounded) < 0x80000000
        assert bool(filtered.coarse_streams) == keeps, f"{word:#010x}"


@pytest.mark.parametrize("length", [1, 3, 5, 255])
def test_parameters_of_another_length_are_damage(length: int) -> None:
    with pytest.raises(CorruptChunkError, match=rf"^bf16_planes has {length} bytes of parameters, must be 0 or 4$"):
        Bf16Planes.stream_lengths(4, 10, bytes(length))


@pytest.mark.parametrize("word_bytes", [1, 2, 8])
def test_words_of_another_width_are_damage(word_bytes: int) -> None:
    with pytest.raises(CorruptChunkError, match=rf"^bf16_planes has words of {word_bytes} bytes, must be 4$"):
        Bf16Planes.stream_lengths(word_bytes, 10, b"")
