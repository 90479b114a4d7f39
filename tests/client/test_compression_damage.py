"""The bytes of a compressed tensor and the parameters of a quantized one: what they are, and that damage is found and named."""

from __future__ import annotations

import copy
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from support.arrays import assert_same_bits, normal
from support.cases import each
from tensorus.compression import (
    BF16Quantization,
    CompressionError,
    FP16Quantization,
    GZIPCompression,
    INT4BlockQuantization,
    INT8BlockQuantization,
    INT8Quantization,
    NoCompression,
    NoQuantization,
    PcodecCompression,
    QuantizationError,
    TensorCompression,
    ZstdCompression,
)
from tensorus_codecs.checksum import crc32c

READER = TensorCompression()

# ---- Bytes as they are drawn --------------------------------------------------------------------------------------------

TWO_FLOATS = (
    "544e5352 01 0c 01 00 0200000000000000 c9d64b24"
    "1d000000 0907cd60"
    "01 0c 04 00 00 00 01 00 08000000 00000000 00 08000000 0000803f 00000040"
)
AN_EMPTY_ONE = "544e5352 01 09 02 00 0000000000000000 0300000000000000 01041c13"
INT8_OF_64 = (
    "544e5352 01 0c 01 00 4000000000000000 b5e733ac"
    "63000000 a90644fb"
    "01 0c 04 02 00 01 01 00 00010000 0e000000 00 40000000 4000 0100 00000000 7e3e 00000242"
    "8185898d9195999da1a5a9adb1b5b9bdc2c6caced2d6dadee2e6eaeef2f6fafe02060a0e12161a1e22262a2e32363a3e43474b4f53575b5f"
    "63676b6f73777b7f"
)
"""Eight-bit codes around a midpoint of 32.5, which gzip does not make smaller."""


@each(
    ("compressor", "values", "expected"),
    [
        pytest.param(TensorCompression(), np.array([1, 2], np.float32), TWO_FLOATS, id="two floats"),
        pytest.param(TensorCompression(), np.empty((0, 3), np.int64), AN_EMPTY_ONE, id="an empty one"),
        pytest.param(
            TensorCompression(GZIPCompression(), INT8Quantization()),
            np.arange(64, dtype=np.float32) + 1,
            INT8_OF_64,
            id="int8",
        ),
    ],
)
def test_the_bytes_are_as_they_are_drawn(
    compressor: TensorCompression, values: np.ndarray[Any, Any], expected: str
) -> None:
    compressed, metadata = compressor.compress_tensor(values)
    assert compressed.hex() == expected.replace(" ", "")
    found = READER.decompress_tensor(bytes.fromhex(expected), as_="numpy")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    np.testing.assert_allclose(found, values, atol=metadata["max_absolute_error"])


# ---- A test for each rule -----------------------------------------------------------------------------------------------

RECORD = bytes.fromhex(TWO_FLOATS)[28:]


def sealed(  # noqa: PLR0917 - as they stand in the header
    magic: bytes = b"TNSR",
    version: int = 1,
    dtype: int = 12,
    shape: tuple[int, ...] = (2,),
    reserved: int = 0,
    records: tuple[bytes, ...] = (RECORD,),
) -> bytes:
    """Return bytes with right checksums, whatever they say."""
    data = struct.pack(f"<4sBBBB{len(shape)}Q", magic, version, dtype, len(shape), reserved, *shape)
    crc = crc32c(data)
    data += struct.pack("<I", crc)
    for record in records:
        crc = crc32c(record, crc)
        data += struct.pack("<II", len(record), crc) + record
    return data


def test_sealing_makes_what_compressing_makes() -> None:
    assert sealed().hex() == TWO_FLOATS.replace(" ", "")


def record_with(at: int, value: int) -> bytes:
    return RECORD[:at] + bytes([value]) + RECORD[at + 1 :]


GOOD = bytes.fromhex(TWO_FLOATS)

BROKEN = {
    "nothing": (b"", r"is 0 bytes, its header has at least 12"),
    "a start": (GOOD[:7], r"is 7 bytes, its header has at least 12"),
    "other magic": (sealed(magic=b"TNSQ"), r"begins with the bytes 544e5351, must be 544e5352"),
    "a later version": (sealed(version=2), r"has version 2, this version of Tensorus reads 1"),
    "half a header": (GOOD[:15], r"is 15 bytes, its header with 1 axes has 20"),
    "a changed header": (GOOD[:9] + b"\x01" + GOOD[10:], r"has a header with CRC32C [0-9a-f]{8}, must be 244bd6c9"),
    "an unknown dtype": (sealed(dtype=99), r"has dtype 99, which this version of Tensorus does not know"),
    "an opaque dtype": (sealed(dtype=0), r"has dtype 0, which this version of Tensorus does not know"),
    "too many axes": (sealed(shape=(1,) * 65), r"has 65 axes and a reserved field of 0, must be 0 to 64 axes and 0"),
    "a reserved bit": (sealed(reserved=1), r"has 1 axes and a reserved field of 1, must be 0 to 64 axes and 0"),
    "no records": (sealed(records=()), r"has chunks of 0 canonical bytes in all, dtype and shape need 8"),
    "another record": (sealed(records=(RECORD, RECORD)), r"has chunks of 16 canonical bytes in all, .* need 8"),
    "a larger shape": (sealed(shape=(1 << 40,)), r"has chunks of 8 canonical bytes in all, .* need 4398046511104"),
    "a shape that nothing holds": (sealed(shape=(0, 1 << 63), records=()), r"has shape \(0, 9223372036854775808\)"),
    "half a length": (GOOD[:23], r"ends 3 bytes into what precedes chunk 0, 8 bytes"),
    "half a record": (GOOD[:-1], r"has 28 bytes of chunk 0, must be 29"),
    "bytes that follow": (GOOD + b"\0", r"ends 1 bytes into what precedes chunk 1, 8 bytes"),
    "a changed value": (GOOD[:-1] + b"\x41", r"has CRC32C [0-9a-f]{8} up to chunk 0, must be 60cd0709"),
    "a record of a later version": (
        sealed(records=(record_with(0, 2),)),
        r"has a chunk 0 that cannot be read: version of",
    ),
    "a record of another dtype": (sealed(dtype=7), r"has a chunk 0 of float32, must be int32"),
    "an unknown quantizer": (
        sealed(records=(RECORD[:3] + b"\x7f" + RECORD[4:5] + b"\x01" + RECORD[6:],)),
        r"has a chunk 0 that cannot be read: quantizer number is 127, which this version assigns to no codec",
    ),
    "a compressor that is none": (
        sealed(records=(RECORD[:16] + b"\x01" + RECORD[17:],)),
        r"has a chunk 0 that cannot be read: gzip stream of 8 bytes",
    ),
}


@each("name", BROKEN)
def test_what_breaks_a_rule_is_named(name: str) -> None:
    data, message = BROKEN[name]
    with pytest.raises(CompressionError, match=f"^compressed tensor {message}") as raised:
        READER.decompress_tensor(data, {})
    assert raised.value.reason == "DATA_CORRUPT"


def test_records_out_of_place_are_damage() -> None:
    values = normal((3, 512 * 1024))
    data, _ = READER.compress_tensor(values)
    header, rest = data[:28], data[28:]
    length = len(rest) // 6
    records = [rest[start : start + length] for start in range(0, len(rest), length)]
    assert b"".join([header, *records]) == data
    swapped = b"".join([header, records[0], records[2], records[1], *records[3:]])
    with pytest.raises(CompressionError, match="up to chunk 1, must be"):
        READER.decompress_tensor(swapped)
    other, _ = READER.compress_tensor(values + 1)
    with pytest.raises(CompressionError, match="up to chunk 5, must be"):
        READER.decompress_tensor(data[:-length] + other[-length:])


def test_a_third_party_s_codec_that_is_not_installed_is_named() -> None:
    data = sealed(records=(RECORD[:16] + b"\xc8" + RECORD[17:],))
    with pytest.raises(
        CompressionError,
        match="chunk 0 of a compressed tensor: compressor number is 200, which is reserved for third parties",
    ) as raised:
        READER.decompress_tensor(data)
    assert raised.value.reason == "UNSUPPORTED_CODEC"


def test_garbage_is_named_whatever_the_metadata_says() -> None:
    with pytest.raises(CompressionError, match="begins with the bytes 696e7661"):
        TensorCompression(GZIPCompression(), NoQuantization()).decompress_tensor(
            b"invalid data", {"compression": "gzip-6", "quantization": "none", "quantization_params": {}}
        )


def test_metadata_that_is_wrong_or_missing_changes_nothing() -> None:
    values = normal((100,))
    data, metadata = TensorCompression(ZstdCompression()).compress_tensor(values)
    for wrong in ({}, None, {**metadata, "compression": "lz4-1", "quantization": "int8", "original_size": 1}):
        assert_same_bits(READER.decompress_tensor(data, wrong, as_="numpy"), values)


def test_bytes_of_another_kind_are_no_compressed_bytes() -> None:
    tensor, _ = TensorCompression(PcodecCompression()).compress_tensor(normal((3,)))
    with pytest.raises(CompressionError, match=r"compressed data is a tensor of float32, shape \(3,\), must be bytes"):
        PcodecCompression().decompress(tensor)


# ---- Parameters ---------------------------------------------------------------------------------------------------------

VALUES = normal((10, 20), scale=1.0)
CODES, PARAMS = INT8BlockQuantization().quantize(VALUES)

Change = Callable[[dict[str, Any]], object]

WRONG_PARAMS: dict[str, tuple[Change, str]] = {
    "no codec": (lambda params: params.pop("codec"), "codec is missing"),
    "an unknown codec": (lambda params: params.update(codec="int7"), "codec: codec 'int7' is not one of"),
    "a codec of another kind": (lambda params: params.update(codec="gzip"), "codec is 'gzip', which does not quantize"),
    "a codec that is a number": (lambda params: params.update(codec=2), "codec is 2, of another type"),
    "another codec": (lambda params: params.update(codec="fp16"), r"codes are int8, shape \(10, 20\); fp16 of float32"),
    "no dtype": (lambda params: params.pop("original_dtype"), "original_dtype is missing"),
    "an unknown dtype": (lambda params: params.update(original_dtype="torch.int7"), "original_dtype: dtype 'int7' is"),
    "a dtype of integers": (lambda params: params.update(original_dtype="torch.int8"), "does not quantize int8"),
    "no shape": (lambda params: params.pop("original_shape"), "original_shape is missing"),
    "another shape": (lambda params: params.update(original_shape=[20, 10]), r"shape \(20, 10\), has int8, shape"),
    "a smaller shape": (lambda params: params.update(original_shape=[]), r"shape \(\), has int8, shape \(\)"),
    "a negative size": (lambda params: params.update(original_shape=[-10, -20]), "must be sizes that are not negative"),
    "a size that is none": (lambda params: params.update(original_shape=[True, 20]), "must be sizes that are not"),
    "no chunks": (lambda params: params.update(parameters=[]), "they are of 0 chunks, 200 values in chunks of 262144"),
    "too many chunks": (lambda params: params["parameters"].append(""), "they are of 2 chunks, 200 values"),
    "chunks of nothing": (
        lambda params: params.update(chunk_bytes=0),
        "they are of 1 chunks, 200 values in chunks of 0",
    ),
    "smaller chunks": (
        lambda params: params.update(chunk_bytes=256),
        "they are of 1 chunks, 200 values in chunks of 64",
    ),
    "no Base64": (lambda params: params.update(parameters=["#"]), "those of chunk 0 cannot be read: "),
    "no text": (lambda params: params.update(parameters=[None]), "those of chunk 0 cannot be read: "),
    "none of a chunk": (lambda params: params.update(parameters=[""]), "int8_block has 0 bytes of parameters"),
    "fewer of a chunk": (
        lambda params: params.update(parameters=[params["parameters"][0][:-4]]),
        r"int8_block has \d+ bytes of parameters, must be \d+",
    ),
}


@each("name", WRONG_PARAMS)
def test_parameters_that_are_damaged_or_another_tensor_s_are_named(name: str) -> None:
    change, message = WRONG_PARAMS[name]
    params = copy.deepcopy(PARAMS)
    change(params)
    with pytest.raises(QuantizationError, match=f"^quantization parameters: .*{message}") as raised:
        INT8BlockQuantization().dequantize(CODES, params)
    assert raised.value.reason == "INVALID_REQUEST"


@each(
    ("codes", "message"),
    [
        (
            CODES.astype(np.int16),
            r"codes are int16, shape \(10, 20\); int8_block of float32, shape \(10, 20\), has int8",
        ),
        (CODES[:5], r"codes are int8, shape \(5, 20\)"),
        (CODES.T, r"codes are int8, shape \(20, 10\)"),
        (np.where(np.equal(CODES, CODES.max()), np.int8(-128), CODES), "exceptions, but"),
    ],
)
def test_codes_that_are_not_those_of_the_parameters_are_named(codes: Any, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        INT8BlockQuantization().dequantize(codes, PARAMS)


def test_packed_codes_of_another_count_are_named() -> None:
    codes, params = INT4BlockQuantization().quantize(VALUES)
    with pytest.raises(QuantizationError, match=r"codes are uint8, shape \(99,\); .* has uint8, shape \(100,\)"):
        INT4BlockQuantization().dequantize(codes[:-1], params)


def test_a_shape_that_nothing_holds_is_named() -> None:
    codes, params = BF16Quantization().quantize(np.empty((0, 3), np.float32))
    params["original_shape"] = [0, 1 << 62]
    with pytest.raises(QuantizationError, match=r"shape \(0, 3\)"):
        BF16Quantization().dequantize(codes, params)
    params["original_shape"], params["codec"] = [0, 1 << 62], "int4_block"
    with pytest.raises(QuantizationError, match=r"original_shape is \(0, 4611686018427387904\)"):
        BF16Quantization().dequantize(np.empty(0, np.uint8), params)


def test_a_tensor_that_passed_must_be_the_one_that_passed() -> None:
    _, params = FP16Quantization().quantize(np.ones(3, np.float16))
    with pytest.raises(QuantizationError, match=r"original_dtype is 'torch.float16' .* this one is 'torch.float32'"):
        FP16Quantization().dequantize(np.ones(3, np.float32), params)


def test_parameters_that_are_no_dict_are_named() -> None:
    for params in (None, [], "codec"):
        with pytest.raises(QuantizationError, match=r"they are a .*, must be a dict"):
            NoQuantization().dequantize(CODES, params)  # type: ignore[arg-type]


def test_no_compression_has_nothing_to_check() -> None:
    assert NoCompression().decompress(b"anything") == b"anything"
