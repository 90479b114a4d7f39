"""The Brotli compressor: the contract, and streams that others read and write."""

from __future__ import annotations

import sys

import brotli
import numpy as np
import pytest

from contract.codec_compressor_contract import DATA, SAMPLE, CompressorContract
from contract.codec_contract import Refusal, SettingsContract
from contract.codec_libraries import hidden_library
from support.cases import each
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.lossless.brotli import Brotli
from tensorus_codecs.registry import codec_class

_QUALITIES = range(12)


class TestBrotli(CompressorContract, SettingsContract):
    codec_type = Brotli
    id = "brotli"
    number = 5

    configurations = (
        {},
        *({"quality": quality} for quality in (0, 1, 5, 9)),
    )

    refusals = tuple(Refusal("quality", value, "an integer from 0 to 11") for value in (-1, 12, 5.0, "5", True, None))


def test_the_default_quality_is_11() -> None:
    assert Brotli() == Brotli(quality=11)


@each("quality", _QUALITIES)
def test_the_quality_is_the_librarys(quality: int) -> None:
    assert Brotli(quality=quality).encode(SAMPLE) == brotli.compress(SAMPLE, quality=quality, lgwin=21)


@each("name", DATA)
def test_another_decoder_reads_its_streams(name: str) -> None:
    assert brotli.decompress(Brotli(quality=5).encode(DATA[name])) == DATA[name]


@each("window_bits", range(10, 22))
def test_another_encoders_stream_decodes_whatever_its_window(window_bits: int) -> None:
    stream = brotli.compress(DATA["exponents"], quality=5, lgwin=window_bits)
    assert Brotli.decode(stream, len(DATA["exponents"])) == DATA["exponents"]


@pytest.mark.parametrize("window_bits", [22, 23, 24])
def test_a_window_that_no_chunk_fills_is_refused(window_bits: int) -> None:
    stream = brotli.compress(SAMPLE, quality=5, lgwin=window_bits)
    message = f"^brotli stream of {len(stream)} bytes has a window of more than 2097152 bytes$"
    with pytest.raises(CorruptChunkError, match=message):
        Brotli.decode(stream, len(SAMPLE))


def test_the_window_spans_the_largest_chunk() -> None:
    # A window of 2**21 reaches 16 bytes less far back. Source: RFC 7932, section 9.1.
    repeated = np.random.default_rng(0).bytes(1000)
    data = repeated + bytes(CANONICAL_BYTES_MAX - 2016) + repeated
    assert len(Brotli(quality=9).encode(data)) < 1100


def test_bytes_after_the_end_are_damage_with_the_librarys_reason() -> None:
    stream = Brotli().encode(SAMPLE)
    with pytest.raises(
        CorruptChunkError, match=rf"^brotli stream of {len(stream) + 1} bytes: brotli: decoder"
    ) as caught:
        Brotli.decode(stream + b"\0", len(SAMPLE))
    assert isinstance(caught.value.__cause__, brotli.error)


def test_a_library_that_cannot_bound_decoding_counts_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldDecompressor:
        def process(self, data: bytes) -> bytes: ...

    with hidden_library("brotli"):
        monkeypatch.setitem(sys.modules, "brotli", brotli)
        monkeypatch.setattr(brotli, "Decompressor", OldDecompressor)
        with pytest.raises(
            UnsupportedCodecError, match=r"^codec 'brotli' needs the library 'brotli 1\.2 or newer', which"
        ):
            codec_class("brotli")
        monkeypatch.undo()
