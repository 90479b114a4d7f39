"""The gzip compressor: the contract with either library, and the format that others read and write."""

from __future__ import annotations

import gzip
import importlib
import sys
import zlib
from types import ModuleType

import numpy as np
import pytest
from zlib_ng import zlib_ng

from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from support.arrays import normal
from support.cases import each
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.lossless import gzip as module
from tensorus_codecs.lossless.gzip import Gzip

_LEVELS = range(1, 10)
_MEMBER = gzip.compress(SAMPLE, mtime=0)


def use(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the codec decode, and encode every level, by this library alone."""
    monkeypatch.setattr(module, "_DECODER", library)
    monkeypatch.setattr(module, "_ENCODERS", dict.fromkeys(_LEVELS, library))


class GzipContract(CompressorContract, SettingsContract):
    """The contract with the libraries that a subclass leaves in place."""

    codec_type = Gzip
    id = "gzip"
    number = 1

    configurations = (
        {},
        {"level": 1},
        {"level": 9},
    )

    refusals = tuple(Refusal("level", value, "an integer from 1 to 9") for value in (0, 10, -1, 6.0, "6", True, None))


class TestGzip(GzipContract):
    """As it is installed here, with both libraries."""

    configurations = (
        {},
        *({"level": level} for level in _LEVELS),
    )


class TestByZlib(GzipContract):
    """As it is where zlib-ng is not installed."""

    @pytest.fixture(autouse=True)
    def library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(zlib, monkeypatch)


class TestByZlibNg(GzipContract):
    """By zlib-ng at every level, also those that it does not encode."""

    @pytest.fixture(autouse=True)
    def library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(zlib_ng, monkeypatch)


class TestLibraries:
    """Which library does what, and that nobody can tell from the result."""

    def test_zlib_ng_decodes_and_encodes_level_9(self) -> None:
        assert module._DECODER is zlib_ng
        assert {level: library.__name__ for level, library in module._ENCODERS.items()} == {
            **dict.fromkeys(range(1, 9), "zlib"),
            9: "zlib_ng.zlib_ng",
        }

    def test_without_zlib_ng_zlib_does_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.setitem(sys.modules, "zlib_ng.zlib_ng", None)
        without = importlib.import_module(module.__name__)
        assert {without._DECODER, *without._ENCODERS.values()} == {zlib}
        assert bytes(without.Gzip.decode(_MEMBER, len(SAMPLE))) == SAMPLE
        assert Gzip.decode(without.Gzip(level=9).encode(SAMPLE), len(SAMPLE)) == SAMPLE

    @pytest.mark.parametrize("encoder", [zlib, zlib_ng], ids=lambda library: library.__name__)
    def test_damage_has_the_same_outcome_and_message_with_either(
        self, monkeypatch: pytest.MonkeyPatch, encoder: ModuleType
    ) -> None:
        member = encoder.compress(SAMPLE, 9, 31)
        damaged = [member[:length] for length in range(len(member))]
        for position in range(8 * len(member)):
            flipped = bytearray(member)
            flipped[position // 8] ^= 1 << position % 8
            damaged.append(bytes(flipped))
        outcomes = []
        for library in (zlib, zlib_ng):
            use(library, monkeypatch)
            outcomes.append([self.outcome(data) for data in damaged])
        assert outcomes[0] == outcomes[1]

    def outcome(self, data: bytes) -> bytes | str:
        try:
            return Gzip.decode(data, len(SAMPLE))
        except CorruptChunkError as error:
            return str(error)

    def test_level_9_is_at_most_one_percent_larger_by_zlib_ng(self) -> None:
        random = np.random.default_rng(0)
        weights = normal((40_000,))
        kinds = {
            **DATA,
            "weights": weights.tobytes(),
            "exponents": (weights.view(np.uint32) >> 23).astype(np.uint8).tobytes(),
            "small integers": np.abs(random.standard_normal(40_000) * 300).astype(np.int32).tobytes(),
            "ids": np.sort(random.integers(0, 2**30, 20_000)).tobytes(),
        }
        for name, data in kinds.items():
            by_zlib = len(zlib.compress(data, 9, 31))
            assert len(Gzip(level=9).encode(data)) <= 1.01 * by_zlib + 1, name


def test_the_default_level_is_6() -> None:
    assert Gzip() == Gzip(level=6)
    assert Gzip().encode(SAMPLE) == Gzip(level=6).encode(SAMPLE)


@each("level", _LEVELS)
def test_the_level_is_the_librarys(level: int) -> None:
    # What follows the ten bytes of the header is a deflate stream without a wrapper.
    member = Gzip(level=level).encode(SAMPLE)
    compressor = (zlib_ng if level == 9 else zlib).compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    assert member[10:-8] == compressor.compress(SAMPLE) + compressor.flush()


@each("level", _LEVELS)
def test_the_header_names_no_file_and_no_time(level: int) -> None:
    magic_and_deflate, no_flags, no_time = b"\x1f\x8b\x08", b"\0", bytes(4)
    assert Gzip(level=level).encode(SAMPLE)[:8] == magic_and_deflate + no_flags + no_time


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
