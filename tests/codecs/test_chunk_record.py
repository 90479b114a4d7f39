"""The chunk record: the header is the one drawn in its docstring, and each of its rules has its own damage."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest

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
    FLOAT32, 2, 1, 0x00010204, b"parameters", [Stream(3, b"first"), Stream(0, b"2nd"), Stream(2, b"")]
)

QUANTIZED_HEADER = bytes.fromhex(
    "01"  # version
    "0c"  # dtype: float32
    "04"  # element_bytes
    "02"  # quantizer
    "01"  # filter
    "01"  # flags: lossy
    "03"  # stream_count
    "00"  # reserved
    "04020100"  # canonical_bytes
    "0a000000"  # parameters_bytes
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
        "stream_count": 1,
        "reserved": 0,
        "canonical_bytes": 8,
        "parameters": b"p" * 10,
        "streams": [(1, b"stream")],
        "tail": b"",
        **changes,
    }
    parameters, streams = fields["parameters"], fields["streams"]
    header = struct.pack(
        "<BBBBBBBBII",
        *(fields[name] for name in ("version", "dtype", "element_bytes", "quantizer", "filter", "flags")),
        *(fields[name] for name in ("stream_count", "reserved", "canonical_bytes")),
        fields.get("parameters_bytes", len(parameters)),
    )
    sizes = b"".join(struct.pack("<BI", compressor, len(data)) for compressor, data in streams)
    return header + sizes + parameters + b"".join(data for _, data in streams) + fields["tail"]


def raw(**changes: Any) -> bytes:
    """Return the record of a raw chunk with `changes`."""
    return record(**{"quantizer": 0, "flags": 0, "parameters": b"", "streams": [(0, b"12345678")], **changes})


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

    @pytest.mark.parametrize(
        ("field", "value"),
        {
            "version": 1,
            "dtype": 12,
            "element_bytes": 4,
            "quantizer": 2,
            "filter": 1,
            "flags": 1,
            "stream_count": 3,
            "reserved": 0,
            "canonical_bytes": 0x00010204,
            "parameters_bytes": 10,
        }.items(),
    )
    def test_a_field_stands_where_the_docstring_draws_it(self, field: str, value: int) -> None:
        offset, size = drawn_fields()[field]
        assert int.from_bytes(pack_header(QUANTIZED)[offset : offset + size], "little") == value

    def test_a_raw_chunks_header_is_21_bytes_before_its_canonical_bytes(self) -> None:
        header = pack_header(ChunkRecord(FLOAT32, 0, 0, 8, b"", [Stream(0, b"12345678")]))
        assert header + b"12345678" == RAW_RECORD
        assert len(header) == RAW_HEADER_BYTES == 21

    def test_the_flag_says_lossy_exactly_where_there_is_a_quantizer(self) -> None:
        streams = [Stream(0, b"x")]
        assert pack_header(ChunkRecord(FLOAT32, 1, 0, 4, b"", streams))[5] == 1
        assert pack_header(ChunkRecord(FLOAT32, 0, 1, 4, b"", streams))[5] == 0

    def test_streams_are_counted_in_bytes(self) -> None:
        wide = memoryview(bytes(8)).cast("I")
        assert pack_header(ChunkRecord(FLOAT32, 0, 0, 8, b"", [Stream(0, wide)]))[-4:] == (8).to_bytes(4, "little")

    def test_an_opaque_dtype_has_number_0(self) -> None:
        header = pack_header(ChunkRecord(opaque_dtype(99, 24), 0, 0, 6, b"", [Stream(0, b"123456")]))
        assert header[:3] == bytes([VERSION, 0, 3])


class TestParsing:
    """What `parse_record` makes of a good record."""

    def test_what_was_packed_is_parsed(self) -> None:
        body = QUANTIZED.parameters + b"".join(bytes(stream.data) for stream in QUANTIZED.streams)
        found = parse_record(pack_header(QUANTIZED) + body)
        assert found == QUANTIZED

    def test_a_raw_record(self) -> None:
        assert parse_record(RAW_RECORD) == ChunkRecord(FLOAT32, 0, 0, 8, b"", [Stream(0, b"12345678")])

    def test_streams_are_views_and_parameters_are_copied(self) -> None:
        data = bytearray(record())
        found = parse_record(data)
        data[-1:] = b"M"
        assert bytes(found.streams[0].data) == b"streaM"
        assert type(found.parameters) is bytes

    def test_a_record_within_a_larger_buffer(self) -> None:
        assert parse_record(memoryview(b"xx" + RAW_RECORD + b"yy")[2:-2]).canonical_bytes == 8

    @pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
    def test_every_dtype(self, dtype: DType) -> None:
        size = dtype.element_bytes
        found = parse_record(
            raw(dtype=dtype.number, element_bytes=size, canonical_bytes=size, streams=[(0, bytes(size))])
        )
        assert found.dtype is dtype

    @pytest.mark.parametrize("element_bytes", range(1, 17))
    def test_an_opaque_dtype_of_any_width(self, element_bytes: int) -> None:
        data = bytes(2 * element_bytes)
        found = parse_record(raw(dtype=0, element_bytes=element_bytes, canonical_bytes=len(data), streams=[(0, data)]))
        assert found.dtype == opaque_dtype(0, 8 * element_bytes)

    def test_the_largest_chunk(self) -> None:
        found = parse_record(record(canonical_bytes=CANONICAL_BYTES_MAX))
        assert found.canonical_bytes == CANONICAL_BYTES_MAX == 2 * 1024 * 1024

    def test_eight_streams(self) -> None:
        assert len(parse_record(record(stream_count=8, streams=[(1, bytes([n])) for n in range(8)])).streams) == 8

    @pytest.mark.parametrize(
        ("changes", "is_raw"),
        [
            ({"quantizer": 0, "flags": 0, "parameters": b"", "streams": [(0, bytes(8))]}, True),
            ({"quantizer": 0, "flags": 0, "parameters": b""}, False),
            ({"quantizer": 0, "flags": 0, "parameters": b"", "filter": 1, "streams": [(0, bytes(8))]}, False),
            ({"streams": [(0, bytes(8))]}, False),
        ],
        ids=["raw", "compressed", "filtered", "quantized"],
    )
    def test_raw_is_what_has_no_codec(self, changes, is_raw) -> None:
        assert parse_record(record(**changes)).is_raw is is_raw


DAMAGE = {
    # version
    "nothing at all": (b"", r"^version of the chunk record is missing, must be 1$"),
    "version 0": (record(version=0), r"^version of the chunk record is 0, must be 1$"),
    "version 2": (record(version=2), r"^version of the chunk record is 2, must be 1$"),
    "another version before anything else": (b"\x02", r"^version of the chunk record is 2, must be 1$"),
    # length
    "a header that ends early": (b"\x01" * 20, r"^chunk record is 20 bytes, must be at least 21$"),
    "a version alone": (b"\x01", r"^chunk record is 1 bytes, must be at least 21$"),
    "too short for its streams": (
        record(stream_count=8, streams=[(0, b"")] * 1, parameters=b"123456"),
        r"^chunk record: length is 27 bytes, too short for 8 streams$",
    ),
    "one byte missing": (record()[:-1], r"^chunk record: length is 36 bytes, its sizes add up to 37$"),
    "one byte more": (record(tail=b"!"), r"^chunk record: length is 38 bytes, its sizes add up to 37$"),
    "parameters longer than the record": (
        record(parameters_bytes=2**32 - 1),
        r"^chunk record: length is 37 bytes, its sizes add up to 4294967322$",
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
    "no stream": (
        record(stream_count=0, streams=[]),
        r"^chunk record: stream_count is 0, must be 1 to 8$",
    ),
    "nine streams": (
        record(stream_count=9, streams=[(1, b"s")] * 9),
        r"^chunk record: stream_count is 9, must be 1 to 8$",
    ),
    # reserved
    "reserved is used": (record(reserved=1), r"^chunk record: reserved is 1, must be 0$"),
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
    # parameters_bytes
    "parameters without a quantizer": (
        raw(parameters=b"p"),
        r"^chunk record: parameters_bytes is 1 without a quantizer$",
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


@pytest.mark.parametrize(("data", "message"), DAMAGE.values(), ids=DAMAGE)
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


@pytest.mark.parametrize("data", [record(), raw(), record(stream_count=3, filter=1, streams=[(1, b"abc")] * 3)])
def test_a_record_that_ends_early_is_damage(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(CorruptChunkError):
            parse_record(data[:length])
