"""The original's compressors undone: by name or by the first bytes, in pieces, and never beyond the limit."""

from __future__ import annotations

import gzip
import re
import sys
import tracemalloc
from collections.abc import Iterator

import lz4.frame
import pytest

from support.cases import each
from support.old_tensorus import COMPRESSORS
from tensorus.old_files.compressors import inflated
from tensorus.old_files.errors import OldRecordError

PLAIN = b"PK" + b"".join(number.to_bytes(3, "little") for number in range(300_000))

BLOCK_BYTES = 1000


def blocks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), BLOCK_BYTES):
        yield data[start : start + BLOCK_BYTES]


def undone(data: bytes, name: str | None, bytes_max: int = 2**30) -> bytes:
    return b"".join(inflated(blocks(data), name, bytes_max))


@each("name", COMPRESSORS)
@each("plain", [PLAIN, b"PK", PLAIN[: 256 * 1024], b"PK" + bytes(1_000_000)])
def test_every_compressor_is_undone(name: str, plain: bytes) -> None:
    assert undone(COMPRESSORS[name](plain), name) == plain


@each("name", COMPRESSORS)
def test_without_a_name_the_first_bytes_say_which_it_is(name: str) -> None:
    assert undone(COMPRESSORS[name](PLAIN), None) == PLAIN


@each("name", ["gzip", "gzip-6", "gzip-whatever"])
def test_the_level_in_a_name_means_nothing(name: str) -> None:
    assert undone(gzip.compress(PLAIN), name) == PLAIN


@each(("name", "other"), [("gzip-6", "lz4-1"), ("lz4-1", "gzip-6"), ("none", "gzip-1"), ("gzip-6", "none")])
def test_a_name_and_first_bytes_that_disagree_are_refused(name: str, other: str) -> None:
    with pytest.raises(OldRecordError, match=rf"its compressor is '{name}', but its bytes begin with \w+"):
        undone(COMPRESSORS[other](PLAIN), name)


def test_an_unknown_compressor_is_refused() -> None:
    with pytest.raises(OldRecordError, match="its compressor is 'zstd-3', must be gzip, lz4 or none"):
        undone(PLAIN, "zstd-3")


@each("data", [b"", b"P", b"\x28\xb5\x2f\xfd..."])
def test_first_bytes_of_no_compressor_are_refused(data: bytes) -> None:
    with pytest.raises(
        OldRecordError, match=r"its compressor is not known, and its bytes begin with \w*, as none does"
    ):
        undone(data, None)


@pytest.mark.parametrize("name", ["gzip-6", "lz4-1"])
def test_torn_bytes_are_refused(name: str) -> None:
    data = COMPRESSORS[name](PLAIN[:5000])
    for length in range(4, len(data), 7):
        with pytest.raises(OldRecordError, match=rf"its {name[:-2]} bytes are (torn|damaged)"):
            undone(data[:length], name)


@each("name", ["gzip-6", "lz4-1"])
@each("more", [b"x", b"x" * (2 * BLOCK_BYTES)])
def test_bytes_behind_the_end_are_refused(name: str, more: bytes) -> None:
    with pytest.raises(OldRecordError, match=rf"its {name[:-2]} bytes .*go on after their end"):
        undone(COMPRESSORS[name](PLAIN) + more, name)


def test_damaged_gzip_is_refused() -> None:
    data = bytearray(gzip.compress(PLAIN))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(OldRecordError, match="its gzip bytes are damaged"):
        undone(bytes(data), "gzip-6")


def test_damaged_lz4_is_refused() -> None:
    data = bytearray(lz4.frame.compress(PLAIN, content_checksum=True))
    data[5] ^= 0x55
    with pytest.raises(OldRecordError, match="its lz4 bytes are damaged"):
        undone(bytes(data), "lz4-1")


@each("name", COMPRESSORS)
def test_more_than_the_limit_is_refused(name: str) -> None:
    assert undone(COMPRESSORS[name](PLAIN), name, len(PLAIN)) == PLAIN
    message = f"its {name.partition('-')[0]} bytes inflate to more than {len(PLAIN) - 1} bytes, the limit"
    with pytest.raises(OldRecordError, match=re.escape(message)):
        undone(COMPRESSORS[name](PLAIN), name, len(PLAIN) - 1)


@pytest.mark.parametrize("name", ["gzip-1", "lz4-1"])
def test_a_bomb_takes_no_memory(name: str) -> None:
    data = COMPRESSORS[name](bytes(60_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(OldRecordError, match="inflate to more than 50000000 bytes"):
            for _ in inflated(blocks(data), name, 50_000_000):
                pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10_000_000


def test_without_lz4_the_extra_is_named_and_gzip_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    assert undone(gzip.compress(PLAIN), "gzip-6") == PLAIN
    with pytest.raises(ImportError, match=r"lz4 is not installed, .* pip install 'tensorus\[codecs\]'"):
        undone(COMPRESSORS["lz4-1"](PLAIN), "lz4-1")
