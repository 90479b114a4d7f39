"""The golden chunk records decode with a reader that was written from docs/FORMAT.md alone."""

import hashlib
import json
from pathlib import Path

import pytest

from format.reader import coarse_length, decode, decode_coarse
from format.words import FormatError
from support.cases import each
from tensorus_codecs.checksum import crc32c
from tensorus_codecs.coarse import HEAD_BYTES, CoarseHead
from tensorus_codecs.pipeline import decode_record

GOLDEN = Path(__file__).parents[1] / "golden" / "chunk_records"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text(encoding="utf-8"))
NAMES = sorted(path.name for path in GOLDEN.glob("v1_*.bin"))


def base_of(name):
    """The base of a record, which is what another record decodes to; None if it needs none."""
    base = MANIFEST[name].get("base")
    return None if base is None else decode((GOLDEN / base).read_bytes())


def test_every_record_is_in_the_manifest():
    assert sorted(name for name in MANIFEST if name.startswith("v1_")) == NAMES
    assert NAMES


@each("name", NAMES)
def test_record_decodes(name):
    decoded = decode((GOLDEN / name).read_bytes(), base_of(name))
    assert len(decoded) == MANIFEST[name]["decoded_bytes"]
    assert hashlib.sha256(decoded).hexdigest() == MANIFEST[name]["decoded_sha256"]


@each("name", NAMES)
def test_record_of_another_length_is_refused(name):
    record = (GOLDEN / name).read_bytes()
    for damaged in (record[:-1], record + b"\0", record[:15]):
        with pytest.raises(FormatError):
            decode(damaged, base_of(name))


@pytest.mark.parametrize("name", [name for name in NAMES if "base" in MANIFEST[name]])
def test_record_without_its_base_or_with_another_one_is_refused(name):
    record, base = (GOLDEN / name).read_bytes(), base_of(name)
    for other in (None, base[:-1], bytes([base[0] ^ 1]) + base[1:]):
        with pytest.raises(FormatError, match="base"):
            decode(record, other)


COARSE = [name for name in NAMES if coarse_length((GOLDEN / name).read_bytes()[:40], (GOLDEN / name).stat().st_size)]


def test_some_records_have_a_coarse_form():
    assert COARSE == [
        "v1_bf16_planes_gzip_complex64.bin",
        "v1_bf16_planes_huffman_float32.bin",
        "v1_bf16_planes_zstd_float32_coarse_special.bin",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_product_finds_the_same_coarse_form(name):
    record = (GOLDEN / name).read_bytes()
    head = CoarseHead.parse(record[:HEAD_BYTES], len(record))
    length = coarse_length(record[:40], len(record))
    assert (head and HEAD_BYTES + head.streams_bytes) == length
    if head is not None:
        streams = record[HEAD_BYTES:length]
        assert decode_coarse(record[:length], len(record), crc32c(record)) == decode_record(head.record(streams))


@pytest.mark.parametrize("name", COARSE)
def test_a_damaged_start_is_refused(name):
    record = (GOLDEN / name).read_bytes()
    length = coarse_length(record[:40], len(record))
    for position in (20, 37, 40, length - 1):
        damaged = bytearray(record[:length])
        damaged[position] ^= 1
        with pytest.raises(FormatError, match="damaged"):
            decode_coarse(bytes(damaged), len(record), crc32c(record))
