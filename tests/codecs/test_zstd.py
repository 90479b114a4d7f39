"""The Zstandard compressor: the contract, the format that others read and write, and the mode that only counts symbols."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract, each_codec
from support.cases import each
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.errors import CorruptChunkError
from tensorus_codecs.lossless.zstd import Zstd

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC = b"\x28\xb5\x2f\xfd"
_HUFFMAN = Zstd(huffman_only=True)


def _entropy_bytes(data: bytes) -> float:
    """Return how many bytes a perfect coder of single symbols needs."""
    counts = np.bincount(np.frombuffer(data, np.uint8))
    shares = counts[counts > 0] / len(data)
    return float(-(shares * np.log2(shares)).sum()) * len(data) / 8


def _symbols(count: int, size: int) -> bytes:
    """Return `size` bytes in random order among which `count` symbols are equally frequent."""
    symbols = (np.arange(size) % count).astype(np.uint8)
    return np.random.default_rng(count).permutation(symbols).tobytes()


def _frame(**parameters: int) -> bytes:
    """Return SAMPLE as a stranger's encoder writes it that does not know the length beforehand."""
    options = {getattr(zstd.CompressionParameter, name): value for name, value in parameters.items()}
    compressor = zstd.ZstdCompressor(options=options)
    return compressor.compress(SAMPLE) + compressor.flush()


class TestZstd(CompressorContract, SettingsContract):
    codec_type = Zstd
    id = "zstd"
    number = 3

    configurations = (
        {},
        *({"level": level} for level in (1, 3, 9, 19, 22)),
        {"huffman_only": True},
        {"level": 5, "huffman_only": True},
        {"level": 3, "huffman_only": False},
    )

    refusals = (
        *(Refusal("level", value, "an integer from 1 to 22") for value in (0, 23, -1, 3.0, "3", True, None)),
        *(Refusal("huffman_only", value, "true or false") for value in (0, 1, "true", None)),
    )

    @each_codec
    def test_the_frame_has_neither_content_size_nor_checksum_nor_dictionary(self, codec: Zstd) -> None:
        frame = codec.encode(SAMPLE)
        assert frame is not None
        assert frame[:4] == _MAGIC
        # RFC 8878, 3.1.1.1.1: content size flag 0, no single segment, reserved bits 0, no checksum, no dictionary.
        assert frame[4] == 0

    @each_codec
    def test_the_library_reads_it(self, codec: Zstd) -> None:
        frame = codec.encode(SAMPLE)
        assert frame is not None
        assert zstd.decompress(frame) == SAMPLE


def test_the_defaults_are_level_3_with_repetitions() -> None:
    assert Zstd() == Zstd(level=3, huffman_only=False)


@pytest.mark.parametrize("level", [1, 3, 19])
def test_the_level_is_the_level_of_the_library(level: int) -> None:
    data = DATA["weights"]
    options = {zstd.CompressionParameter.compression_level: level, zstd.CompressionParameter.content_size_flag: 0}
    assert Zstd(level=level).encode(data) == zstd.compress(data, options=options)


def test_the_slowest_level_decodes_the_largest_chunk() -> None:
    # Level 22 asks for a window of 128 MiB; the length of the chunk must bring it down to what the decoder allows.
    data = bytes(CANONICAL_BYTES_MAX - 8) + b"the end."
    encoded = Zstd(level=22).encode(data)
    assert encoded is not None
    assert Zstd.decode(encoded, len(data)) == data


def test_a_checksum_or_a_content_size_of_another_encoder_is_no_obstacle() -> None:
    assert (
        Zstd.decode(zstd.compress(SAMPLE, options={zstd.CompressionParameter.checksum_flag: 1}), len(SAMPLE)) == SAMPLE
    )


def test_a_frame_that_ends_with_an_empty_block_decodes() -> None:
    # What an encoder writes that is told of the end only after the last byte.
    compressor = zstd.ZstdCompressor()
    frame = compressor.compress(SAMPLE, zstd.ZstdCompressor.FLUSH_BLOCK) + compressor.flush()
    assert Zstd.decode(frame, len(SAMPLE)) == SAMPLE


class TestHuffmanOnly:
    """`huffman_only`: symbols by how often they occur."""

    def test_skewed_symbols_come_close_to_their_entropy(self) -> None:
        data = DATA["exponents"] * 10
        encoded = _HUFFMAN.encode(data)
        assert encoded is not None
        assert len(encoded) < 1.03 * _entropy_bytes(data)

    def test_the_level_has_no_meaning(self) -> None:
        assert Zstd(level=19, huffman_only=True).encode(DATA["exponents"]) == _HUFFMAN.encode(DATA["exponents"])

    def test_distant_repetitions_are_not_looked_for(self) -> None:
        # Twice the same 512 KiB: the window of this mode is 256 KiB, that of the default level covers both.
        half = np.abs(np.random.default_rng(0).standard_normal(2**19) * 8).astype(np.uint8).tobytes()
        once, twice, default = _HUFFMAN.encode(half), _HUFFMAN.encode(half * 2), Zstd().encode(half * 2)
        assert once is not None
        assert twice is not None
        assert default is not None
        assert len(default) < 1.2 * len(once)
        assert len(twice) > 1.9 * len(once)

    def test_the_window_is_256_kib(self) -> None:
        frame = _HUFFMAN.encode(bytes(2**20))
        assert frame is not None
        # RFC 8878, 3.1.1.1.2: the exponent above 10 in the upper five bits.
        assert frame[5] == (18 - 10) << 3

    @pytest.mark.parametrize("data", [DATA["noise"], _symbols(256, 2**18), _symbols(216, 2**14)])
    def test_nearly_equal_frequencies_are_not_worth_trying(self, data: bytes) -> None:
        assert _HUFFMAN.encode(data) is None

    @each("symbol_count", [1, 2, 128, 200])
    def test_fewer_symbols_are(self, symbol_count: int) -> None:
        # log2(200) is 7.64 and log2(216), above, 7.75: the limit lies between.
        assert _HUFFMAN.encode(_symbols(symbol_count, 2**14)) is not None

    @each("symbol_count", [1, 4, 16, 64])
    def test_few_symbols_shrink(self, symbol_count: int) -> None:
        data = _symbols(symbol_count, 2**14)
        encoded = _HUFFMAN.encode(data)
        assert encoded is not None
        assert len(encoded) <= 1.01 * _entropy_bytes(data) + 200

    @pytest.mark.parametrize("noise_first", [True, False], ids=["noise first", "noise last"])
    def test_the_whole_buffer_is_looked_at(self, noise_first):
        noise, zeros = _symbols(256, 2**16), bytes(2**16)
        encoded = _HUFFMAN.encode(noise + zeros if noise_first else zeros + noise)
        assert encoded is not None

    def test_noise_is_compressed_without_it(self) -> None:
        assert Zstd().encode(DATA["noise"]) is not None


class TestHostileFrames:
    """What no encoder of ours writes."""

    def test_a_window_as_large_as_a_chunk_is_allowed(self) -> None:
        assert Zstd.decode(_frame(window_log=21), len(SAMPLE)) == SAMPLE

    @pytest.mark.parametrize("window_log", [22, 25, 27])
    def test_a_larger_window_is_refused_before_it_is_allocated(self, window_log: int) -> None:
        frame = _frame(window_log=window_log)
        with pytest.raises(CorruptChunkError, match=rf"^zstd frame of {len(frame)} bytes: .*too much memory"):
            Zstd.decode(frame, len(SAMPLE))

    def test_a_claimed_content_of_a_tebibyte_is_refused(self) -> None:
        # RFC 8878: single segment with a content size of eight bytes, then a last block of one repeated byte.
        repeated_block = ((1000 << 3) | (1 << 1) | 1).to_bytes(3, "little") + b"x"
        frame = _MAGIC + b"\xe0" + (2**40).to_bytes(8, "little") + repeated_block
        with pytest.raises(CorruptChunkError, match=r"^zstd frame of 17 bytes: .*too much memory"):
            Zstd.decode(frame, 1000)

    def test_a_frame_that_does_not_end_is_damage_although_every_byte_is_there(self) -> None:
        compressor = zstd.ZstdCompressor()
        frame = compressor.compress(SAMPLE, zstd.ZstdCompressor.FLUSH_BLOCK)
        with pytest.raises(CorruptChunkError, match="does not decode to exactly"):
            Zstd.decode(frame, len(SAMPLE))

    @each("missing", [1, 2, 3, 4])
    def test_a_checksum_that_ends_early_is_damage(self, missing: int) -> None:
        frame = zstd.compress(SAMPLE, options={zstd.CompressionParameter.checksum_flag: 1})
        with pytest.raises(CorruptChunkError, match="does not decode to exactly"):
            Zstd.decode(frame[:-missing], len(SAMPLE))

    def test_a_skippable_frame_is_not_a_chunk(self) -> None:
        skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"skip"
        with pytest.raises(CorruptChunkError, match="does not decode to exactly"):
            Zstd.decode(skippable + _frame(), len(SAMPLE))

    def test_a_dictionary_that_nobody_has_is_damage(self) -> None:
        dictionary = zstd.ZstdDict(SAMPLE, is_raw=True)
        compressor = zstd.ZstdCompressor(zstd_dict=dictionary)
        frame = compressor.compress(SAMPLE[5:]) + compressor.flush()
        with pytest.raises(CorruptChunkError, match=r"^zstd frame of "):
            Zstd.decode(frame, len(SAMPLE) - 5)

    def test_a_second_frame_is_refused_although_the_first_has_the_declared_length(self) -> None:
        frame = _frame()
        message = f"^zstd frame of {2 * len(frame)} bytes does not decode to exactly {len(SAMPLE)} bytes$"
        with pytest.raises(CorruptChunkError, match=message):
            Zstd.decode(frame * 2, len(SAMPLE))
