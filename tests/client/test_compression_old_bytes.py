"""Bytes that `compress_tensor` of Tensorus 0.1 returned are read by whatever reads them; what is wrong with them is named."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import assert_same_bits, normal
from support.cases import each
from support.client import run_process, thin_environment
from support.old_tensorus import compressed, fp16_codes, int8_codes, plain_codes
from tensorus.compression import (
    CompressionError,
    FP16Quantization,
    GZIPCompression,
    INT8Quantization,
    LZ4Compression,
    NoCompression,
    NoQuantization,
    TensorCompression,
)
from tensorus.old_files import compressors
from tensorus.old_files.quantizers import dequantized

COMPRESSORS = {"none": NoCompression(), "gzip-6": GZIPCompression(), "lz4-1": LZ4Compression()}
QUANTIZERS = {"none": NoQuantization(), "fp16": FP16Quantization(), "int8": INT8Quantization()}
CODES = {"none": plain_codes, "fp16": fp16_codes, "int8": int8_codes}

TENSORS = {
    "weights": torch.from_numpy(normal((64, 32))),
    "a view": torch.from_numpy(normal((64, 32))).T[3:],
    "float64": torch.from_numpy(normal((30,), "float64")),
    "bfloat16": torch.randn(50).bfloat16(),
    "a range of 255": torch.tensor([0.0, 1, 254, 255]),
    "a constant": torch.full((3, 3), 3.14),
    "int8": torch.tensor([-5, 0, 7], dtype=torch.int8),
    "ids": torch.tensor([101, 2023, 50256]),
    "a scalar": torch.tensor(2.5),
}


@each("name", TENSORS)
@each("quantization", QUANTIZERS)
@each("compression", COMPRESSORS)
def test_bytes_of_tensorus_0_1_become_what_the_importer_makes_of_them(
    compression: str, quantization: str, name: str
) -> None:
    tensor = TENSORS[name]
    data, metadata = compressed(tensor, compression, quantization)
    codes, params = CODES[quantization](tensor)
    reader = TensorCompression(COMPRESSORS[compression], QUANTIZERS[quantization])
    found = reader.decompress_tensor(data, metadata)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    if quantization == "none":
        assert torch.equal(found, tensor)
    else:
        expected = dequantized(codes.numpy(), quantization, params).array
        assert_same_bits(reader.decompress_tensor(data, json.loads(json.dumps(metadata)), as_="numpy"), expected)


@each("quantization", QUANTIZERS)
@each("compression", COMPRESSORS)
def test_what_bytes_and_metadata_say_counts_and_not_the_algorithms_that_read_them(
    compression: str, quantization: str
) -> None:
    data, metadata = compressed(TENSORS["weights"], compression, quantization)
    expected = TensorCompression().decompress_tensor(data, metadata)
    for compressor in COMPRESSORS.values():
        for quantizer in QUANTIZERS.values():
            for form in (data, bytearray(data), memoryview(data)):
                assert torch.equal(TensorCompression(compressor, quantizer).decompress_tensor(form, metadata), expected)


def test_bytes_of_several_blocks_are_read() -> None:
    tensor = torch.from_numpy(normal((700, 1000)))
    for compression in COMPRESSORS:
        data, metadata = compressed(tensor, compression, "none")
        assert len(data) > 4 * 256 * 1024
        assert torch.equal(TensorCompression().decompress_tensor(data, metadata), tensor)


def test_more_than_a_record_may_hold_is_read_where_metadata_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    data, metadata = compressed(torch.zeros(100_000), "gzip-9", "none")
    monkeypatch.setattr(compressors, "INFLATED_BYTES_MAX", 1000)
    assert torch.equal(TensorCompression().decompress_tensor(data, metadata), torch.zeros(100_000))
    with pytest.raises(CompressionError, match="inflate to more than 1000 bytes, the limit"):
        TensorCompression().decompress_tensor(data, {**metadata, "original_size": 10})


WEIGHTS = {quantization: compressed(TENSORS["weights"], "gzip-6", quantization) for quantization in QUANTIZERS}


def without(key: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name != key}


def params_with(metadata: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**metadata, "quantization_params": {**metadata["quantization_params"], **changes}}


WRONG = {
    "none at all": ("fp16", lambda _: None, "it is a NoneType, must be the dict that came with the bytes"),
    "an empty dict": ("fp16", lambda _: {}, "quantization is None, must be names"),
    "no quantizer": ("int8", lambda metadata: without("quantization", metadata), "quantization is None, must be names"),
    "no parameters": (
        "int8",
        lambda metadata: without("quantization_params", metadata),
        "quantization is 'int8', and quantization_params have no original_dtype",
    ),
    "parameters of another kind": (
        "fp16",
        lambda metadata: {**metadata, "quantization_params": [1]},
        "quantization_params are a list, must be a dict",
    ),
    "another shape": (
        "int8",
        lambda metadata: params_with(metadata, original_shape=[32, 64]),
        r"quantization_params\['original_shape'\] is \[32, 64\], and the bytes hold \[64, 32\]",
    ),
    "another dtype": (
        "none",
        lambda metadata: params_with(metadata, original_dtype="torch.float64"),
        r"quantization_params\['original_dtype'\] is 'torch.float64', and the bytes hold 'torch.float32'",
    ),
}


@each("name", WRONG)
def test_metadata_that_is_missing_or_another_tensor_s_is_named(name: str) -> None:
    quantization, change, message = WRONG[name]
    data, metadata = WEIGHTS[quantization]
    with pytest.raises(CompressionError, match=f"^metadata of bytes of Tensorus 0.1: .*{message}") as raised:
        TensorCompression().decompress_tensor(data, change(metadata))
    assert raised.value.reason == "INVALID_REQUEST"


DAMAGED = {
    "another compressor's": (
        "none",
        lambda data, metadata: (data, {**metadata, "compression": "lz4-1"}),
        "its compressor is 'lz4-1', but its bytes begin with 1f8b0800",
    ),
    "of a compressor that 0.1 did not have": (
        "none",
        lambda data, metadata: (data, {**metadata, "compression": "zstd-3"}),
        "its compressor is 'zstd-3', must be gzip, lz4 or none",
    ),
    "of a quantizer that 0.1 did not have": (
        "none",
        lambda data, metadata: (data, {**params_with(metadata), "quantization": "int4"}),
        "its quantizer is 'int4', must be none, fp16 or int8",
    ),
    "another quantizer's": (
        "fp16",
        lambda data, metadata: (data, {**params_with(metadata, scale=1.0, zero_point=0), "quantization": "int8"}),
        "its codes are float16, must be int8 for the quantizer int8",
    ),
    "torn": ("int8", lambda data, metadata: (data[:-9], metadata), "its gzip bytes are torn"),
    "changed": (
        "int8",
        lambda data, metadata: (data[:300] + b"\0\0\0" + data[303:], metadata),
        "gzip bytes are damaged",
    ),
    "without its scale": (
        "int8",
        lambda data, metadata: (data, params_with(metadata, scale=None)),
        "its scale is a NoneType",
    ),
}


@each("name", DAMAGED)
def test_damaged_bytes_are_named(name: str) -> None:
    quantization, change, message = DAMAGED[name]
    with pytest.raises(CompressionError, match=f"^bytes of Tensorus 0.1: .*{message}") as raised:
        TensorCompression().decompress_tensor(*change(*WEIGHTS[quantization]))
    assert raised.value.reason == "DATA_CORRUPT"


def test_what_is_no_tensor_is_not_run() -> None:
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, file)
    with pytest.raises(CompressionError, match="it holds a dict, must hold a tensor"):
        TensorCompression().decompress_tensor(file.getvalue(), {"compression": "none", "quantization": "none"})


@given(
    quantization=st.sampled_from(list(QUANTIZERS)),
    compression=st.sampled_from(list(COMPRESSORS)),
    at=st.integers(0, 5000),
    mask=st.integers(0, 255),
)
def test_damage_to_old_bytes_is_an_error_or_harmless(quantization: str, compression: str, at: int, mask: int) -> None:
    tensor = torch.arange(100.0)
    data, metadata = compressed(tensor, compression, quantization)
    expected = TensorCompression().decompress_tensor(data, metadata)
    damaged = bytearray(data)
    position = at % len(damaged)
    if mask:
        damaged[position] ^= mask
    else:
        del damaged[position:]
    try:
        found = TensorCompression().decompress_tensor(damaged, metadata)
    except CompressionError:
        return
    assert torch.equal(found, expected)


JUNK = st.none() | st.booleans() | st.integers(-3, 10**400) | st.floats() | st.text(max_size=9) | st.just([2, 2])


@given(
    quantization=st.sampled_from(list(QUANTIZERS)),
    key=st.sampled_from(["original_dtype", "original_shape", "scale", "zero_point"]),
    junk=JUNK,
)
def test_junk_in_old_parameters_is_an_error_or_gives_a_tensor_of_the_shape(
    quantization: str, key: str, junk: object
) -> None:
    data, metadata = compressed(torch.arange(4.0).reshape(2, 2), "none", quantization)
    try:
        found = TensorCompression().decompress_tensor(data, params_with(metadata, **{key: junk}))
    except CompressionError:
        return
    assert (found.dtype, found.shape) == (torch.float32, (2, 2))


@pytest.mark.slow
def test_old_bytes_are_read_without_torch_and_lz4_is_named_where_it_is_missing(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    command = thin_environment(tmp_path_factory.mktemp("thin"))
    tensor = torch.linspace(-1, 1, 256)
    parts = {compression: compressed(tensor, compression, "int8") for compression in ("gzip-6", "lz4-1")}
    source = f"""
import json
from tensorus.compression import CompressionError, TensorCompression
result = []
for data, metadata in {[(data.hex(), metadata) for data, metadata in parts.values()]!r}:
    try:
        found = TensorCompression().decompress_tensor(bytes.fromhex(data), metadata)
        result.append([type(found).__name__, found.dtype.name, found.tolist()])
    except CompressionError as error:
        result.append([error.reason, str(error)])
print(json.dumps(result))
"""
    done = run_process(command, source=source)
    assert done.returncode == 0, done.stderr
    read, missing = json.loads(done.stdout)
    assert read[:2] == ["ndarray", "float32"]
    assert np.abs(np.array(read[2]) - tensor.numpy()).max() <= 2 / 255 / 2 * 1.001
    assert missing[0] == "UNSUPPORTED_CODEC"
    assert "lz4 is not installed" in missing[1]
    assert "pip install 'tensorus[codecs]'" in missing[1]
