"""The gzip compressor: the contract, and the format that others read and write."""

from __future__ import annotations

import gzip
import zlib

import pytest

from contract.codec_compressor_contract import SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.lossless.gzip import Gzip

_LEVELS = range(1, 10)
_MEMBER = gzip.compress(SAMPLE, mtime=0)


class TestGzip(CompressorContract, SettingsContract):
    codec_type = Gzip
    id = "gzip"
    number = 1

    @pytest.fixture(params=[{}, *({"level": level} for level in _LEVELS)], ids=str)
    def configuration(self, request):
        return request.param

    @pytest.fixture(
        params=[Refusal("level", value, "an integer from 1 to 9") for value in (0, 10, -1, 6.0, "6", True, None)],
        ids=str,
    )
    def refusal(self, request):
        return request.param


def test_the_default_level_is_6() -> None:
    assert Gzip() == Gzip(level=6)
    assert Gzip().encode(SAMPLE) == Gzip(level=6).encode(SAMPLE)


@pytest.mark.parametrize("level", _LEVELS)
def test_the_level_is_the_level_of_zlib(level: int) -> None:
    # What follows the ten bytes of the header is a deflate stream without a wrapper.
    member = Gzip(level=level).encode(SAMPLE)
    compressor = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    assert member[10:-8] == compressor.compress(SAMPLE) + compressor.flush()


def test_the_header_names_no_file_and_no_time() -> None:
    magic_and_deflate, no_flags, no_time = b"\x1f\x8b\x08", b"\0", bytes(4)
    assert Gzip().encode(SAMPLE)[:8] == magic_and_deflate + no_flags + no_time


def test_the_standard_library_reads_it() -> None:
    assert gzip.decompress(Gzip().encode(SAMPLE)) == SAMPLE


def test_a_member_of_the_standard_library_decodes() -> None:
    assert Gzip.decode(_MEMBER, len(SAMPLE)) == SAMPLE


def test_a_member_that_ends_with_empty_blocks_decodes() -> None:
    # What an encoder writes that is told of the end only after the last byte.
    compressor = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    member = compressor.compress(SAMPLE) + compressor.flush(zlib.Z_FULL_FLUSH) + compressor.flush()
    assert Gzip.decode(member, len(SAMPLE)) == SAMPLE


def test_a_wrong_checksum_is_damage() -> None:
    member = bytearray(Gzip().encode(SAMPLE))
    member[-8] ^= 1
    with pytest.raises(CorruptChunkError, match=rf"^gzip stream of {len(member)} bytes: .*incorrect data check"):
        Gzip.decode(member, len(SAMPLE))


@pytest.mark.parametrize("window_bits", [zlib.MAX_WBITS, -zlib.MAX_WBITS], ids=["zlib", "deflate"])
def test_other_wrappers_of_deflate_are_refused(window_bits: int) -> None:
    other = zlib.compress(SAMPLE, 6, window_bits)
    with pytest.raises(CorruptChunkError, match="incorrect header check"):
        Gzip.decode(other, len(SAMPLE))


def test_a_second_member_is_refused_although_the_first_has_the_declared_length() -> None:
    message = f"^gzip stream of {2 * len(_MEMBER)} bytes does not decode to exactly {len(SAMPLE)} bytes$"
    with pytest.raises(CorruptChunkError, match=message):
        Gzip.decode(_MEMBER * 2, len(SAMPLE))
