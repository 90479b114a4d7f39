"""The chunk record: the header is the one drawn in its docstring, and each of its rules has its own damage."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from support.cases import each
from tensorus_codecs import chunk_record
from tensorus_codecs.chunk_record import (
    CANONICAL_BYTES_MAX,
    RAW_HEADER_BYTES,
    VERSION,
    ChunkRecord,
    Stream,
    pack_header,
    parse_record,
)
from tensorus_codecs.dtypes import DTYPES, DType, dtype_by_name, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError

FLOAT32 = dtype_by_name("float32")

QUANTIZED = ChunkRecord(
    FLOAT32, 2, 1, 0x00010204, b"parameters", b"filter", [Stream(3, b"first"), Stream(0, b"2nd"), Stream(2, b"")]
)

QUANTIZED_HEADER = bytes.fromhex(
    "01"  # version
    "0c"  # dtype: float32
    "04"  # element_bytes
    "02"  # quantizer
    "01"  # filter
    "01"  # flags: lossy
    "03"  # stream_count
    "06"  # filter_bytes
    "04020100"  # canonical_bytes
    "0a000000"  # quantizer_bytes
    "0305000000"  # streams: compressor, encoded bytes
    "0003000000"
    "0200000000"
)

RAW_RECORD = bytes.fromhex("01 0c 04 00 00 00 01 00 08000000 00000000 00 08000000") + b"12345678"


def drawn_fields() -> dict[str, tuple[int, int]]:
    """Return offset and size of the fields that the docstring draws."""
    rows = re.findall(r"^ {4,}(\d+) +(\d+)  (\w+)", chunk_record.__doc__, re.MULTILINE)
    return {name: (int(offset), int(size)) for offset, size, name in rows}


def record(**changes: Any) -> bytes:
    """Return a record of two float32 values, int8_block and gzip by their numbers, packed by hand, with `changes`."""
    fields = {
        "version": 1,
        "dtype": 12,
        "element_bytes": 4,
        "quantizer": 2,
        "filter": 0,
        "flags": 1,
        "canonical_bytes": 8,
        "quantizer_parameters": b"p" * 10,
        "filter_parameters": b"",
        "streams": [(1, b"stream")],
        "tail": b"",
        **changes,
    }
    streams = fields["streams"]
    header = struct.pack(
        "<BBBBBBBBII",
        *(fields[name] for name in ("version", "dtype", "element_bytes", "quantizer", "filter", "flags")),
        fields.get("stream_count", len(streams)),
        fields.get("filter_bytes", len(fields["filter_parameters"])),
        fields["canonical_bytes"],
        fields.get("quantizer_bytes", len(fields["quantizer_parameters"])),
    )
    sizes = b"".join(struct.pack("<BI", compressor, len(data)) for compressor, data in streams)
    parameters = fields["quantizer_parameters"] + fields["filter_parameters"]
    return header + sizes + parameters + b"".join(data for _, data in streams) + fields["tail"]


def raw(**changes: Any) -> bytes:
    """Return the record of a raw chunk with `changes`."""
    return record(**{"quantizer": 0, "flags": 0, "quantizer_parameters": b"", "streams": [(0, b"12345678")], **changes})


class TestPacking:
    """What `pack_header` writes."""

    def test_a_header_is_these_bytes(self) -> None:
        assert pack_header(QUANTIZED) == QUANTIZED_HEADER

    def test_the_docstring_draws_every_byte_up_to_the_streams(self) -> None:
        fields = drawn_fields()
        assert next(iter(fields)) == "version"
        position = 0
        for offset, size in fields.values():
            assert offset == position
            position += size
        assert position == 16

    def test_the_page_of_the_format_draws_the_same_fields(self) -> None:
        page = (Path(__file__).parents[2] / "docs" / "FORMAT.md").read_text(encoding="utf-8")
        section = page.split("## Chunk record", 1)[1].split("To decode", 1)[0]
        rows = re.findall(r"^ {4,}(\d+) +(\d+)  (\w+)", section, re.MULTILINE)
        assert {name: (int(offset), int(size)) for offset, size, name in rows} == drawn_fields()

    @each(
        ("field", "value"),
        {
            "version": 1,
            "dtype": 12,
            "element_bytes": 4,
            "quantizer": 2,
            "filter": 1,
            "flags": 1,
            "stream_count": 3,
            "filter_bytes": 6,
            "canonical_bytes": 0x00010204,
            "quantizer_bytes": 10,
        }.items(),
    )
    def test_a_field_stands_where_the_docstring_draws_it(self, field: str, value: int) -> None:
        offset, size = drawn_fields()[field]
        assert int.from_bytes(pack_header(QUANTIZED)[offset : offset + size], "little") == value

    def test_a_raw_chunks_header_is_21_bytes_before_its_canonical_bytes(self) -> None:
        header = pack_header(ChunkRecord(FLOAT32, 0, 0, 8, b"", b"", [Stream(0, b"12345678")]))
        assert header + b"12345678" == RAW_RECORD
        assert len(header) == RAW_HEADER_BYTES == 21

    def test_the_flag_says_lossy_exactly_where_there_is_a_quantizer(self) -> None:
        streams = [Stream(0, b"x")]
        assert pack_header(ChunkRecord(FLOAT32, 1, 0, 4, b"", b"", streams))[5] == 1
        assert pack_header(ChunkRecord(FLOAT32, 0, 1, 4, b"", b"", streams))[5] == 0

    def test_a_filter_without_streams_is_16_bytes_before_its_parameters(self) -> None:
        header = pack_header(ChunkRecord(FLOAT32, 0, 6, 8, b"", b"1234", []))
        assert header.hex() == "010c0400060000040800000000000000"

    def test_streams_are_counted_in_bytes(self) -> None:
        wide = memoryview(bytes(8)).cast("I")
        header = pack_header(ChunkRecord(FLOAT32, 0, 0, 8, b"", b"", [Stream(0, wide)]))
        assert header[-4:] == (8).to_bytes(4, "little")

    def test_an_opaque_dtype_has_number_0(self) -> None:
        header = pack_header(ChunkRecord(opaque_dtype(99, 24), 0, 0, 6, b"", b"", [Stream(0, b"123456")]))
        assert header[:3] == bytes([VERSION, 0, 3])


class TestParsing:
    """What `parse_record` makes of a good record."""

    def test_what_was_packed_is_parsed(self) -> None:
        found = parse_record(pack_header(QUANTIZED) + b"parameters" + b"filter" + b"first" + b"2nd")
        assert found == QUANTIZED

    def test_the_parameters_of_the_quantizer_are_before_those_of_the_filter(self) -> None:
        found = parse_record(record(filter=3, quantizer_parameters=b"quantizer", filter_parameters=b"filter"))
        assert (found.quantizer_parameters, found.filter_parameters) == (b"quantizer", b"filter")
        assert found.parameters == b"quantizerfilter"

    def test_a_raw_record(self) -> None:
        assert parse_record(RAW_RECORD) == ChunkRecord(FLOAT32, 0, 0, 8, b"", b"", [Stream(0, b"12345678")])

    def test_streams_are_views_and_parameters_are_copied(self) -> None:
        data = bytearray(record())
        found = parse_record(data)
        data[-1:] = b"M"
        assert bytes(found.streams[0].data) == b"streaM"
        assert type(found.quantizer_parameters) is type(found.filter_parameters) is bytes

    def test_a_record_within_a_larger_buffer(self) -> None:
        assert parse_record(memoryview(b"xx" + RAW_RECORD + b"yy")[2:-2]).canonical_bytes == 8

    @each("dtype", DTYPES)
    def test_every_dtype(self, dtype: DType) -> None:
        size = dtype.element_bytes
        found = parse_record(
            raw(dtype=dtype.number, element_bytes=size, canonical_bytes=size, streams=[(0, bytes(size))])
        )
        assert found.dtype is dtype

    @each("element_bytes", range(1, 17))
    def test_an_opaque_dtype_of_any_width(self, element_bytes: int) -> None:
        data = bytes(2 * element_bytes)
        found = parse_record(raw(dtype=0, element_bytes=element_bytes, canonical_bytes=len(data), streams=[(0, data)]))
        assert found.dtype == opaque_dtype(0, 8 * element_bytes)

    def test_the_largest_chunk(self) -> None:
        found = parse_record(record(canonical_bytes=CANONICAL_BYTES_MAX))
        assert found.canonical_bytes == CANONICAL_BYTES_MAX == 2 * 1024 * 1024

    @each("stream_count", range(10))
    def test_a_filter_has_up_to_nine_streams(self, stream_count: int) -> None:
        found = parse_record(record(filter=4, streams=[(1, bytes([n])) for n in range(stream_count)]))
        assert [bytes(stream.data) for stream in found.streams] == [bytes([n]) for n in range(stream_count)]

    def test_the_most_parameters_that_a_filter_may_have(self) -> None:
        found = parse_record(raw(filter=6, filter_parameters=bytes(range(255)), streams=[]))
        assert found.filter_parameters == bytes(range(255))
        assert not found.is_raw

    @each(
        ("changes", "is_raw"),
        [
            ({}, True),
            ({"streams": [(1, bytes(8))]}, False),
            ({"filter": 1, "streams": [(0, bytes(8))]}, False),
            ({"filter": 6, "filter_parameters": b"1234", "streams": []}, False),
            ({"quantizer": 2, "flags": 1}, False),
        ],
        ids=["raw", "compressed", "filtered", "without streams", "quantized"],
    )
    def test_raw_is_what_has_no_codec(self, changes, is_raw) -> None:
        assert parse_record(raw(**changes)).is_raw is is_raw


DAMAGE = {
    # version
    "nothing at all": (b"", r"^version of the chunk record is missing, must be 1$"),
    "version 0": (record(version=0), r"^version of the chunk record is 0, must be 1$"),
    "version 2": (record(version=2), r"^version of the chunk record is 2, must be 1$"),
    "another version before anything else": (b"\x02", r"^version of the chunk record is 2, must be 1$"),
    # length
    "a header that ends early": (b"\x01" * 15, r"^chunk record is 15 bytes, must be at least 16$"),
    "a version alone": (b"\x01", r"^chunk record is 1 bytes, must be at least 16$"),
    "too short for its streams": (
        record(filter=1, stream_count=8, streams=[(0, b"")], quantizer_parameters=b"123456"),
        r"^chunk record: length is 27 bytes, too short for 8 streams$",
    ),
    "too short for its only stream": (
        record(streams=[], stream_count=1, quantizer_parameters=b"1234"),
        r"^chunk record: length is 20 bytes, too short for 1 streams$",
    ),
    "one byte missing": (record()[:-1], r"^chunk record: length is 36 bytes, its sizes add up to 37$"),
    "one byte more": (record(tail=b"!"), r"^chunk record: length is 38 bytes, its sizes add up to 37$"),
    "parameters longer than the record": (
        record(quantizer_bytes=2**32 - 1),
        r"^chunk record: length is 37 bytes, its sizes add up to 4294967322$",
    ),
    "parameters of a filter longer than the record": (
        record(filter=3, filter_bytes=255),
        r"^chunk record: length is 37 bytes, its sizes add up to 292$",
    ),
    "parameters of a filter shorter than they are": (
        raw(filter=6, filter_bytes=3, filter_parameters=b"1234", streams=[]),
        r"^chunk record: length is 20 bytes, its sizes add up to 19$",
    ),
    # dtype
    "a dtype of the future": (record(dtype=18), r"^chunk record: dtype is 18, which this version does not know$"),
    "the largest dtype": (record(dtype=255), r"^chunk record: dtype is 255, which this version does not know$"),
    # element_bytes
    "elements of no bytes": (record(element_bytes=0), r"^chunk record: element_bytes is 0, must be 1 to 16$"),
    "elements of 17 bytes": (record(element_bytes=17), r"^chunk record: element_bytes is 17, must be 1 to 16$"),
    "opaque elements of no bytes": (
        raw(dtype=0, element_bytes=0),
        r"^chunk record: element_bytes is 0, must be 1 to 16$",
    ),
    "elements of another width": (record(element_bytes=8), r"^chunk record: element_bytes is 8, but float32 has 4$"),
    # flags
    "quantized but not lossy": (record(flags=0), r"^chunk record: flags is 0x00 with quantizer 2$"),
    "lossy but not quantized": (raw(flags=1), r"^chunk record: flags is 0x01 with quantizer 0$"),
    "a flag of the future": (record(flags=3), r"^chunk record: flags is 0x03 with quantizer 2$"),
    "the last flag": (raw(flags=0x80), r"^chunk record: flags is 0x80 with quantizer 0$"),
    # stream_count
    "no stream without a filter": (
        record(streams=[]),
        r"^chunk record: stream_count is 0 without a filter, must be 1$",
    ),
    "two streams without a filter": (
        record(streams=[(1, b"s")] * 2),
        r"^chunk record: stream_count is 2 without a filter, must be 1$",
    ),
    "two streams of a raw chunk": (
        raw(streams=[(0, b"1234")] * 2),
        r"^chunk record: stream_count is 2 without a filter, must be 1$",
    ),
    "ten streams": (
        record(filter=1, streams=[(1, b"s")] * 10),
        r"^chunk record: stream_count is 10, must be 0 to 9$",
    ),
    "ten streams without a filter": (
        record(streams=[(1, b"s")] * 10),
        r"^chunk record: stream_count is 10, must be 0 to 9$",
    ),
    # filter_bytes
    "parameters of a filter without one": (
        record(filter_parameters=b"p"),
        r"^chunk record: filter_bytes is 1 without a filter$",
    ),
    "parameters of a filter of a raw chunk": (
        raw(filter_parameters=bytes(255)),
        r"^chunk record: filter_bytes is 255 without a filter$",
    ),
    # canonical_bytes
    "no canonical bytes": (
        record(canonical_bytes=0),
        r"^chunk record: canonical_bytes is 0, must be 1 to 2097152 and whole elements of 4$",
    ),
    "too many canonical bytes": (
        record(canonical_bytes=CANONICAL_BYTES_MAX + 4),
        r"^chunk record: canonical_bytes is 2097156, must be 1 to 2097152 and whole elements of 4$",
    ),
    "four gibibytes": (record(canonical_bytes=2**32 - 4), r"^chunk record: canonical_bytes is 4294967292, must be "),
    "part of an element": (
        record(canonical_bytes=9),
        r"^chunk record: canonical_bytes is 9, must be 1 to 2097152 and whole elements of 4$",
    ),
    "part of an opaque element": (
        raw(dtype=0, element_bytes=3),
        r"^chunk record: canonical_bytes is 8, must be 1 to 2097152 and whole elements of 3$",
    ),
    # quantizer_bytes
    "parameters without a quantizer": (
        raw(quantizer_parameters=b"p"),
        r"^chunk record: quantizer_bytes is 1 without a quantizer$",
    ),
    "parameters without a quantizer but with a filter": (
        raw(filter=1, quantizer_parameters=b"p"),
        r"^chunk record: quantizer_bytes is 1 without a quantizer$",
    ),
    # streams
    "a raw chunk that is too short": (
        raw(streams=[(0, b"1234567")]),
        r"^chunk record: a raw chunk of 8 canonical bytes has a stream of 7$",
    ),
    "a raw chunk that is too long": (
        raw(streams=[(0, b"123456789")]),
        r"^chunk record: a raw chunk of 8 canonical bytes has a stream of 9$",
    ),
}


@each(("data", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_broken_rule_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptChunkError, match=message):
        parse_record(data)


def test_the_record_that_is_damaged_above_is_a_good_one() -> None:
    assert parse_record(record()).canonical_bytes == 8
    assert parse_record(raw()) == parse_record(RAW_RECORD)


def test_every_field_of_the_drawing_has_a_corruption_test() -> None:
    messages = " ".join(message for _, message in DAMAGE.values())
    # That numbers of codecs exist is for the pipeline to say.
    fields = set(drawn_fields()) - {"quantizer", "filter"}
    assert {field for field in fields if not re.search(rf"\b{field} (is|of)", messages)} == set()


@each(
    "data",
    [
        record(),
        raw(),
        record(filter=1, streams=[(1, b"abc")] * 3),
        record(filter=3, filter_parameters=b"f", streams=[(1, b"abc")] * 9),
        raw(filter=6, filter_parameters=b"1234", streams=[]),
    ],
)
def test_a_record_that_ends_early_is_damage(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(CorruptChunkError):
            parse_record(data[:length])
