"""Decoding records that no encoder wrote: each is damage with a name, and costs little memory."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from contract.codec_chunks import encode, encoding_of, record_bytes
from contract.codec_libraries import LIBRARIES, hidden_library
from contract.codec_memory import allocating_at_most
from support.arrays import normal
from support.cases import each
from tensorus_codecs.chunk_record import CANONICAL_BYTES_MAX, ChunkRecord, Stream, pack_header, parse_record
from tensorus_codecs.dtypes import dtype_by_name, opaque_dtype
from tensorus_codecs.errors import CorruptChunkError, UnsupportedCodecError
from tensorus_codecs.lossless.gzip import Gzip
from tensorus_codecs.lossless.lz4 import Lz4
from tensorus_codecs.lossless.zstd import Zstd
from tensorus_codecs.pipeline import codec_ids, decode_chunk, decode_chunk_into, decode_record

FP16, INT8 = 1, 2
PLANES, ROTATED, DELTA, BITMAP, PACKBITS, CONSTANT = 1, 2, 3, 4, 5, 6
NONE, GZIP, LZ4, ZSTD = 0, 1, 2, 3
TWO = struct.pack("<2f", 1.0, 2.0)
FP16_PARAMETERS = struct.pack("<h", 2)
_A_FEW_TIMES = 6
"""Codes, values in float32 for 16-bit dtypes, repeated scales and a mask are at most that many times the canonical bytes."""


def record(
    dtype="float32",
    *,
    quantizer=0,
    filter_number=0,
    canonical_bytes=8,
    parameters=b"",
    filter_parameters=b"",
    streams=(),
) -> bytes:
    """Return a record packed with these fields, whatever they mean; `parameters` are the quantizer's."""
    found = dtype_by_name(dtype) if isinstance(dtype, str) else dtype
    packed = [Stream(compressor, data) for compressor, data in streams]
    fields = ChunkRecord(found, quantizer, filter_number, canonical_bytes, parameters, filter_parameters, packed)
    return pack_header(fields) + fields.parameters + b"".join(data for _, data in streams)


GOOD = {
    "raw": (record(streams=[(NONE, TWO)]), TWO),
    "compressed": (record(streams=[(GZIP, Gzip().encode(TWO))]), TWO),
    "planes": (
        record(
            filter_number=PLANES, streams=[(NONE, b"\0\0"), (NONE, b"\0\0"), (NONE, b"\x80\0"), (NONE, b"\x3f\x40")]
        ),
        TWO,
    ),
    "quantized": (
        record(quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, struct.pack("<2e", 8192.0, 16384.0))]),
        TWO,
    ),
    "quantized planes": (
        record(
            quantizer=FP16,
            filter_number=ROTATED,
            parameters=FP16_PARAMETERS,
            streams=[(NONE, b"\0\0"), (LZ4, b"\x20\xe0\xe8")],
        ),
        TWO,
    ),
    "complex": (
        record(
            "complex64", quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, struct.pack("<2e", 8192, 16384))]
        ),
        TWO,
    ),
    "planes of a single byte": (record("uint8", filter_number=PLANES, streams=[(NONE, TWO)]), TWO),
    "delta": (
        record(
            "int16", filter_number=DELTA, filter_parameters=b"\x01", streams=[(NONE, b"\x02\x01\4\0"), (NONE, bytes(4))]
        ),
        struct.pack("<4h", 1, 0, 2, 2),
    ),
    "bitmap": (
        record(filter_number=BITMAP, filter_parameters=b"\1\0\0\0", streams=[(NONE, b"\2"), *[(NONE, b"\1")] * 4]),
        b"\0\0\0\0\x80\x80\x80\x80",
    ),
    "bitmap of zeros, whose planes are empty": (
        record(filter_number=BITMAP, filter_parameters=bytes(4), streams=[(NONE, b"\0"), *[(NONE, b"")] * 4]),
        bytes(8),
    ),
    "packbits": (
        record("bool", filter_number=PACKBITS, streams=[(NONE, b"\x81")]),
        b"\1\0\0\0\0\0\0\1",
    ),
    "constant": (record(filter_number=CONSTANT, filter_parameters=TWO[4:]), TWO[4:] * 2),
    "constant of a complex element": (record("complex64", filter_number=CONSTANT, filter_parameters=TWO), TWO),
    "constant of an opaque element": (
        record(opaque_dtype(99, 24), filter_number=CONSTANT, canonical_bytes=9, filter_parameters=b"abc"),
        b"abcabcabc",
    ),
    "quantized, and constant": (
        record(
            quantizer=FP16,
            filter_number=CONSTANT,
            parameters=FP16_PARAMETERS,
            filter_parameters=struct.pack("<e", 8192.0),
        ),
        TWO[:4] * 2,
    ),
    "quantized, affine": (
        record(
            quantizer=INT8,
            parameters=struct.pack("<HHIHf", 64, 1, 0, 0x3F80, 1.0),
            streams=[(NONE, b"\0\1")],
        ),
        TWO,
    ),
}


@each(("data", "expected"), GOOD.values(), ids=GOOD)
def test_a_record_built_by_hand_decodes(data: bytes, expected: bytes) -> None:
    assert bytes(decode_chunk(data)) == expected
    assert bytes(decode_record(parse_record(data))) == expected


DAMAGE = {
    "no such quantizer": (
        record(quantizer=100, streams=[(NONE, b"12")]),
        r"^quantizer number is 100, which this version assigns to no codec$",
    ),
    "no such filter": (
        record(filter_number=100, streams=[(NONE, TWO)]),
        r"^filter number is 100, which this version assigns to no codec$",
    ),
    "no such compressor": (
        record(streams=[(100, TWO)]),
        r"^compressor number is 100, which this version assigns to no codec$",
    ),
    "quantized integers": (
        record("int32", quantizer=INT8, streams=[(NONE, b"12")]),
        r"^chunk record: quantizer int8_block does not apply to int32$",
    ),
    "quantized bools": (
        record("bool", quantizer=INT8, streams=[(NONE, TWO)]),
        r"^chunk record: quantizer int8_block does not apply to bool$",
    ),
    "a quantized unknown dtype": (
        record(opaque_dtype(99, 32), quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, b"1234")]),
        r"^chunk record: quantizer fp16 does not apply to dtype_0$",
    ),
    "float16 quantized to float16": (
        record("float16", quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, TWO)]),
        r"^chunk record: quantizer fp16 does not apply to float16$",
    ),
    "several streams without a filter": (
        record(streams=[(NONE, TWO), (NONE, b"")]),
        r"^chunk record: stream_count is 2 without a filter, must be 1$",
    ),
    "too few streams for the filter": (
        record(filter_number=PLANES, streams=[(NONE, b"12")] * 3),
        r"^chunk record: 3 streams, planes has 4$",
    ),
    "too many streams for the filter": (
        record("uint16", filter_number=ROTATED, streams=[(NONE, b"1234")] * 3),
        r"^chunk record: 3 streams, rotated_planes has 2$",
    ),
    "no streams for a filter that has some": (
        record(filter_number=PLANES),
        r"^chunk record: 0 streams, planes has 4$",
    ),
    "a stream for a filter that has none": (
        record(filter_number=CONSTANT, filter_parameters=TWO[4:], streams=[(NONE, b"")]),
        r"^chunk record: 1 streams, constant has 0$",
    ),
    "parameters of a filter that has none": (
        record(filter_number=PLANES, filter_parameters=b"\1", streams=[(NONE, b"12")] * 4),
        r"^planes has 1 bytes of parameters, must be 0$",
    ),
    "delta without its distance": (
        record(filter_number=DELTA, streams=[(NONE, b"12")] * 4),
        r"^delta has 0 bytes of parameters, must be 1$",
    ),
    "bitmap with the parameters of delta": (
        record(filter_number=BITMAP, filter_parameters=b"\1", streams=[(NONE, b"\1")] * 5),
        r"^bitmap has 1 bytes of parameters, must be 4$",
    ),
    "bitmap whose count lies": (
        record(filter_number=BITMAP, filter_parameters=b"\1\0\0\0", streams=[(NONE, b"\3"), *[(NONE, b"1")] * 4]),
        r"^word_count of bitmap is 1, its bits say 2$",
    ),
    "an empty stream that is compressed": (
        record(
            filter_number=BITMAP,
            filter_parameters=bytes(4),
            streams=[(NONE, b"\0"), (GZIP, Gzip().encode(b"")), *[(NONE, b"")] * 3],
        ),
        r"^chunk record: an empty stream is compressed with gzip, must be uncompressed$",
    ),
    "an empty stream that is not empty": (
        record(
            filter_number=BITMAP,
            filter_parameters=bytes(4),
            streams=[(NONE, b"\0"), (NONE, b"1"), *[(NONE, b"")] * 3],
        ),
        r"^chunk record: a stream without compressor is 1 bytes, must be 0$",
    ),
    "packed words of several bytes": (
        record(filter_number=PACKBITS, streams=[(NONE, b"\1")]),
        r"^packbits has 0 bytes of parameters and words of 4 bytes, must be 0 and 1$",
    ),
    "an element of another size": (
        record(filter_number=CONSTANT, filter_parameters=b"123"),
        r"^constant has an element of 3 bytes, 2 words of 4 bytes are not a multiple of it$",
    ),
    "an element that is larger than the chunk": (
        record(filter_number=CONSTANT, filter_parameters=bytes(16)),
        r"^constant has an element of 16 bytes, 2 words of 4 bytes are not a multiple of it$",
    ),
    "a plane too short": (
        record(filter_number=PLANES, streams=[(NONE, b"12"), (NONE, b"12"), (NONE, b"1"), (NONE, b"12")]),
        r"^chunk record: a stream without compressor is 1 bytes, must be 2$",
    ),
    "a plane too long": (
        record(filter_number=PLANES, streams=[(NONE, b"12"), (NONE, b"12"), (NONE, b"123"), (NONE, b"12")]),
        r"^chunk record: a stream without compressor is 3 bytes, must be 2$",
    ),
    "codes too short": (
        record(quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, b"123")]),
        r"^chunk record: a stream without compressor is 3 bytes, must be 4$",
    ),
    "codes as long as the values": (
        record(quantizer=FP16, parameters=FP16_PARAMETERS, streams=[(NONE, TWO)]),
        r"^chunk record: a stream without compressor is 8 bytes, must be 4$",
    ),
    "a stream that is not its compressor's": (record(streams=[(GZIP, TWO)]), r"^gzip stream of 8 bytes: "),
    "a stream of another length": (
        record(streams=[(GZIP, Gzip().encode(TWO + b"!"))]),
        r"^gzip stream of \d+ bytes does not decode to exactly 8 bytes$",
    ),
    "a quantizer without parameters": (
        record(quantizer=FP16, streams=[(NONE, b"1234")]),
        r"^fp16 has 0 bytes of parameters, must be 2$",
    ),
    "parameters of another quantizer": (
        record(quantizer=INT8, parameters=FP16_PARAMETERS, streams=[(NONE, b"12")]),
        r"^int8_block has 2 bytes of parameters, at least 8$",
    ),
    "a broken header": (b"\x02", r"^version of the chunk record is 2, must be 1$"),
}


@each(("data", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_record_that_no_encoder_wrote_is_damage(data: bytes, message: str) -> None:
    with pytest.raises(CorruptChunkError, match=message):
        decode_chunk(data)


@pytest.mark.parametrize("kind", ["no such quantizer", "no such filter", "no such compressor"])
def test_codec_ids_of_a_number_that_no_codec_has_are_damage(kind: str) -> None:
    data, message = DAMAGE[kind]
    with pytest.raises(CorruptChunkError, match=message):
        codec_ids(parse_record(data))


def test_codec_ids_name_each_compressor_once_and_skip_what_is_stored() -> None:
    streams = [(NONE, b"12"), (ZSTD, b"z"), (GZIP, b"g"), (ZSTD, b"z")]
    found = codec_ids(parse_record(record(quantizer=INT8, filter_number=PLANES, streams=streams)))
    assert found == ("int8_block", "planes", "zstd", "gzip")


_BOMBS = {
    "gzip": (GZIP, Gzip().encode(bytes(2**24))),
    "zstd": (ZSTD, Zstd().encode(bytes(2**24))),
    "zstd, huffman only": (ZSTD, Zstd(huffman_only=True).encode(bytes(2**24))),
    "lz4": (LZ4, Lz4().encode(bytes(2**24))),
}


@each("bomb", _BOMBS.values(), ids=_BOMBS)
@each("canonical_bytes", [8, 2**16, CANONICAL_BYTES_MAX])
def test_a_bomb_costs_no_more_than_a_few_times_the_declared_bytes(
    bomb: tuple[int, bytes], canonical_bytes: int
) -> None:
    for changes in (
        {"streams": [bomb]},
        {"streams": [bomb] * 4, "filter_number": PLANES},
        {"streams": [bomb], "quantizer": FP16, "parameters": FP16_PARAMETERS},
        {"streams": [bomb] * 4, "filter_number": DELTA, "filter_parameters": b"\x01"},
        {
            "streams": [bomb] * 5,
            "filter_number": BITMAP,
            "filter_parameters": struct.pack("<I", canonical_bytes // 4),
        },
    ):
        data = record(canonical_bytes=canonical_bytes, **changes)
        with (
            allocating_at_most(_A_FEW_TIMES * canonical_bytes + len(data) + 2**17),
            pytest.raises(CorruptChunkError),
        ):
            decode_chunk(data)


@each("preset", ["none", "lossless", "balanced"])
@each("length", [0, 3996, 4004])
def test_a_chunk_is_not_decoded_into_a_place_of_another_length(preset: str, length: int) -> None:
    data = record_bytes(encode(normal((1000,), "float32"), preset))
    with pytest.raises(CorruptChunkError, match=f"^chunk record decodes to 4000 bytes, {length} are expected$"):
        decode_chunk_into(data, memoryview(bytearray(length)))


@pytest.mark.slow
@each(
    ("preset", "names"),
    [
        ("none", ["uint8"]),
        ("lossless", ["bfloat16", "float32", "float64", "complex64", "int32", "uint8"]),
        ("balanced", ["float32", "complex64"]),
        ("maximum", ["float16", "bfloat16", "float32", "float64", "complex64"]),
        ("int8_only", ["float16", "float64"]),
    ],
)
def test_the_largest_chunk_costs_no_more_than_a_few_times_its_bytes(preset: str, names: list[str]) -> None:
    for name in names:
        data = record_bytes(encode(normal((CANONICAL_BYTES_MAX // dtype_by_name(name).element_bytes,), name), preset))
        with allocating_at_most(_A_FEW_TIMES * CANONICAL_BYTES_MAX):
            decoded = decode_chunk(data)
        assert decoded.nbytes == CANONICAL_BYTES_MAX, name


def test_an_int8_chunk_that_claims_the_most_costs_no_more_either() -> None:
    # Every code is an exception, and none is there.
    codes = Zstd().encode(b"\x80" * (CANONICAL_BYTES_MAX // 2))
    parameters = struct.pack("<HHI", 32, 0, 2**32 - 1)
    data = record(
        "float16", quantizer=INT8, canonical_bytes=CANONICAL_BYTES_MAX, parameters=parameters, streams=[(ZSTD, codes)]
    )
    with (
        allocating_at_most(_A_FEW_TIMES * CANONICAL_BYTES_MAX),
        pytest.raises(CorruptChunkError, match=r"^int8_block has 8 bytes of parameters, must be "),
    ):
        decode_chunk(data)


@each("name", LIBRARIES)
def test_a_record_whose_library_is_missing_is_not_called_damaged(name: str) -> None:
    values = np.zeros(1000, np.float32)
    data = record_bytes(encode(values, encoding_of(name)))
    with hidden_library(name), pytest.raises(UnsupportedCodecError, match=f"^codec '{name}' needs the library"):
        decode_chunk(data)
    assert bytes(decode_chunk(data)) == values.tobytes()


def test_a_raw_record_needs_no_library() -> None:
    data = record_bytes(encode(normal((100,)), "none"))
    with hidden_library("zstd"), hidden_library("lz4"):
        assert bytes(decode_chunk(data)) == normal((100,)).tobytes()


def test_extreme_parameters_warn_nobody() -> None:
    # The largest exponent and codes make every value infinite: warnings are errors in these tests.
    codes = struct.pack("<2e", 65504.0, -65504.0)
    decoded = decode_chunk(record(quantizer=FP16, parameters=struct.pack("<h", 128), streams=[(NONE, codes)]))
    assert np.frombuffer(decoded, np.float32).tolist() == [np.inf, -np.inf]
    scale = struct.pack("<HHIH", 64, 0, 0, 0x7F7F)
    decoded = decode_chunk(record(quantizer=INT8, parameters=scale, streams=[(NONE, b"\x7f\x81")]))
    assert np.frombuffer(decoded, np.float32).tolist() == [np.inf, -np.inf]
