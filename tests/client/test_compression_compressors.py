"""Compressors used alone: what they take comes back, and damage is an error that names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.cases import each
from support.compression import COMPRESSORS
from tensorus.compression import (
    BrotliCompression,
    CompressionAlgorithm,
    CompressionError,
    GZIPCompression,
    LZ4Compression,
    NoCompression,
    PcodecCompression,
    ZstdCompression,
)

TEXT = b"test data " * 100


@each("name", COMPRESSORS)
def test_a_compressor_returns_what_it_took_and_tells_its_name_and_level(name: str) -> None:
    algorithm = COMPRESSORS[name]
    assert algorithm.name == name
    for data in (TEXT, b"", b"x", bytes(range(256)) * 9):
        compressed = algorithm.compress(data)
        assert isinstance(compressed, bytes)
        assert algorithm.decompress(compressed) == data


@each("name", [name for name in COMPRESSORS if name != "none"])
def test_a_compressor_makes_text_smaller(name: str) -> None:
    assert len(COMPRESSORS[name].compress(TEXT)) < len(TEXT)


def test_no_compression_is_the_identity() -> None:
    assert NoCompression().compress(TEXT) is TEXT
    assert NoCompression().decompress(TEXT) is TEXT
    assert NoCompression().compress(bytearray(TEXT)) == TEXT


@each("name", COMPRESSORS)
@each("kind", [bytearray, memoryview])
def test_a_compressor_takes_any_bytes(name: str, kind: Callable[[bytes], Any]) -> None:
    algorithm = COMPRESSORS[name]
    assert algorithm.decompress(kind(algorithm.compress(kind(TEXT)))) == TEXT


@each("name", [name for name in COMPRESSORS if name != "none"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"invalid data", id="garbage"),
        pytest.param(lambda data: b"", id="nothing"),
        pytest.param(lambda data: data[:-1], id="truncated"),
        pytest.param(lambda data: data[: len(data) // 2], id="halved"),
        pytest.param(lambda data: data + b"more", id="followed by others"),
    ],
)
def test_what_no_compressor_made_is_an_error_that_names_the_compressor(
    name: str, damage: Callable[[bytes], bytes]
) -> None:
    algorithm = COMPRESSORS[name]
    with pytest.raises(
        CompressionError, match=rf"^({name.partition('-')[0]} data of \d+ bytes|compressed tensor)"
    ) as raised:
        algorithm.decompress(damage(algorithm.compress(TEXT)))
    assert raised.value.reason == "DATA_CORRUPT"


@each("name", ["gzip-6", "lz4-1", "zstd-3"])
def test_damage_inside_is_found_by_a_checksum_of_the_format(name: str) -> None:
    algorithm = COMPRESSORS[name]
    data = np.random.default_rng(0).bytes(1000)
    compressed = bytearray(algorithm.compress(data))
    compressed[len(compressed) // 2] ^= 1
    with pytest.raises(CompressionError):
        algorithm.decompress(compressed)


@each(
    ("algorithm", "magic"),
    [(GZIPCompression(), "1f8b"), (LZ4Compression(), "04224d18"), (ZstdCompression(), "28b52ffd")],
)
def test_what_is_made_is_the_format_of_that_name(algorithm: CompressionAlgorithm, magic: str) -> None:
    assert algorithm.compress(TEXT).startswith(bytes.fromhex(magic))


@each(
    ("make", "level", "name"),
    [
        (GZIPCompression, 0, "gzip-1"),
        (GZIPCompression, 10, "gzip-9"),
        (LZ4Compression, 0, "lz4-1"),
        (LZ4Compression, 99, "lz4-12"),
        (ZstdCompression, -5, "zstd-1"),
        (ZstdCompression, 23, "zstd-22"),
        (BrotliCompression, -1, "brotli-0"),
        (BrotliCompression, 12, "brotli-11"),
        (PcodecCompression, 13, "pcodec-12"),
    ],
)
def test_a_level_is_taken_to_the_nearest_one(make: Any, level: int, name: str) -> None:
    algorithm = make(compression_level=level)
    assert algorithm.name == name
    assert algorithm.compression_level == int(name.rpartition("-")[2])
    assert algorithm.decompress(algorithm.compress(TEXT)) == TEXT


@each("level", ["6", 6.0, None, True])
def test_a_level_that_is_no_integer_is_refused(level: object) -> None:
    with pytest.raises(ValueError, match=r"compression_level of gzip is .*, must be an integer"):
        GZIPCompression(level)  # type: ignore[arg-type]


def test_text_is_not_bytes() -> None:
    for algorithm in COMPRESSORS.values():
        with pytest.raises(TypeError):
            algorithm.compress("text")  # type: ignore[arg-type]
