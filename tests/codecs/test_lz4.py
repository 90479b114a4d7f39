"""The LZ4 compressor: the contract, and the block format that others read and write."""

from __future__ import annotations

import lz4.block
import pytest

from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from support.cases import each
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.lossless.lz4 import Lz4

_LEVELS = range(1, 13)


class TestLz4(CompressorContract, SettingsContract):
    codec_type = Lz4
    id = "lz4"
    number = 2

    configurations = (
        {},
        *({"level": level} for level in _LEVELS),
    )

    refusals = tuple(Refusal("level", value, "an integer from 1 to 12") for value in (0, 13, -1, 1.0, "1", False, None))


def test_the_default_level_is_1() -> None:
    assert Lz4() == Lz4(level=1)


@pytest.mark.parametrize("level", [1, 2])
def test_the_lowest_levels_are_the_fast_mode(level: int) -> None:
    data = DATA["exponents"]
    assert Lz4(level=level).encode(data) == lz4.block.compress(data, store_size=False)


@each("level", _LEVELS[2:])
def test_the_other_levels_are_those_of_high_compression(level: int) -> None:
    data = DATA["exponents"]
    expected = lz4.block.compress(data, mode="high_compression", compression=level, store_size=False)
    assert Lz4(level=level).encode(data) == expected


def test_high_compression_is_smaller_than_the_fast_mode() -> None:
    data = DATA["exponents"]
    assert len(Lz4(level=12).encode(data)) < len(Lz4(level=3).encode(data)) < len(Lz4(level=1).encode(data))


def test_the_block_carries_no_length_of_its_own() -> None:
    # Five literals are the shortest block there is: a token with the length, then the bytes.
    assert Lz4().encode(b"abcde") == b"\x50abcde"


def test_another_encoders_block_decodes() -> None:
    # One literal "a", then a match at offset 1 of 4 + 10 bytes, then the five literals that end a block.
    assert Lz4.decode(b"\x1aa\x01\x00\x50bcdef", 20) == b"a" * 15 + b"bcdef"


def test_a_match_before_the_beginning_is_damage() -> None:
    with pytest.raises(CorruptChunkError, match=r"^lz4 block of 10 bytes: "):
        Lz4.decode(b"\x1aa\x02\x00\x50bcdef", 20)


def test_a_block_that_is_too_short_names_both_lengths() -> None:
    with pytest.raises(CorruptChunkError, match=r"^lz4 block decodes to 5 bytes, not to 6$"):
        Lz4.decode(b"\x50abcde", 6)


def test_a_block_that_is_too_long_is_damage() -> None:
    with pytest.raises(CorruptChunkError, match=f"^lz4 block of {len(Lz4().encode(SAMPLE))} bytes: "):
        Lz4.decode(Lz4().encode(SAMPLE), len(SAMPLE) - 1)
