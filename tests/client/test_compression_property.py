"""Whatever the tensor and whatever the damage: values are exact or within what was measured, and errors are of one kind."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, assert_same_bits, random_bits
from tensorus.compression import (
    COMPRESSION_PRESETS,
    AutoQuantization,
    BF16Quantization,
    BitRoundQuantization,
    BloscLZ4Compression,
    BrotliCompression,
    CompressionAlgorithm,
    CompressionError,
    FP8E4M3FNQuantization,
    FP8E5M2Quantization,
    FP16Quantization,
    GZIPCompression,
    INT4BlockQuantization,
    INT8BlockQuantization,
    INT8Quantization,
    LZ4Compression,
    NF4Quantization,
    NoCompression,
    NoQuantization,
    PcodecCompression,
    QuantizationAlgorithm,
    QuantizationError,
    TensorCompression,
    ZstdCompression,
)

Array = np.ndarray[Any, Any]

COMPRESSORS: list[CompressionAlgorithm] = [
    NoCompression(),
    GZIPCompression(1),
    LZ4Compression(),
    ZstdCompression(1),
    BrotliCompression(1),
    BloscLZ4Compression(),
    PcodecCompression(1),
]

QUANTIZERS: list[QuantizationAlgorithm] = [
    INT8Quantization(),
    INT8BlockQuantization(block_size=32, variant="symmetric"),
    FP16Quantization(),
    BF16Quantization(),
    FP8E4M3FNQuantization(),
    FP8E5M2Quantization(),
    INT4BlockQuantization(),
    NF4Quantization(),
    BitRoundQuantization(keep_bits=3),
    AutoQuantization(max_relative_error=1e-2),
    AutoQuantization(max_absolute_error=1e-3),
]

CODECS = [quantizer for quantizer in QUANTIZERS if not isinstance(quantizer, (INT8Quantization, FP16Quantization))]
"""Those that do alone what they do when tensors are compressed."""

SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple) | st.tuples(st.integers(1, 3000))


@st.composite
def bits(draw: st.DrawFn) -> Array:
    """Return values of random bits, NaN with payloads among them."""
    return np.asarray(random_bits(draw(st.sampled_from(DTYPE_NAMES)), draw(SHAPES), seed=draw(st.integers(0, 2**32))))


@st.composite
def numbers(draw: st.DrawFn) -> Array:
    """Return floats of some scale around some middle, of which some are irregular."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    name = draw(st.sampled_from(["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]))
    shape = draw(SHAPES)
    scale, middle = draw(st.sampled_from([0.0, 1e-8, 0.02, 1.0, 1e4])), draw(st.sampled_from([0.0, 0.0, 1.0, -300.0]))
    values = generator.standard_normal(shape) * scale + middle
    if name.startswith("complex"):
        values = values + 1j * generator.standard_normal(shape) * scale
    with np.errstate(over="ignore"):
        typed = np.asarray(values).astype(getattr(ml_dtypes, name, None) or name)
    for irregular in draw(st.lists(st.sampled_from([np.nan, np.inf, -np.inf, -0.0]), max_size=3)):
        if typed.size:
            typed.reshape(-1)[draw(st.integers(0, typed.size - 1))] = irregular
    return typed


def components(array: Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    flat = array.reshape(-1)
    with np.errstate(invalid="ignore"):  # a signaling NaN
        return (flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat).astype(np.float64)


@given(values=bits(), algorithm=st.sampled_from(COMPRESSORS))
def test_every_bit_survives_every_compressor(values: Array, algorithm: CompressionAlgorithm) -> None:
    compressed, metadata = TensorCompression(algorithm).compress_tensor(values)
    assert_same_bits(TensorCompression().decompress_tensor(compressed, metadata, as_="numpy"), values)
    assert not metadata["lossy"]


@given(values=numbers() | bits(), algorithm=st.sampled_from(COMPRESSORS), quantizer=st.sampled_from(QUANTIZERS))
def test_errors_are_what_was_measured(
    values: Array, algorithm: CompressionAlgorithm, quantizer: QuantizationAlgorithm
) -> None:
    compressed, metadata = TensorCompression(algorithm, quantizer).compress_tensor(values)
    found = TensorCompression().decompress_tensor(compressed, metadata, as_="numpy")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    if not metadata["lossy"]:
        assert_same_bits(found, values)
        return
    before, after = components(values), components(found)
    np.testing.assert_array_equal(np.isnan(after), np.isnan(before))
    finite = np.isfinite(before)
    np.testing.assert_array_equal(after[~finite], before[~finite])
    assert float(np.abs(after[finite] - before[finite]).max(initial=0.0)) == metadata["max_absolute_error"]
    for key in ("max_relative_error", "max_absolute_error"):
        bound = getattr(quantizer, key)
        assert bound is None or metadata[key.removeprefix("max_") if "relative" in key else key] <= bound


@given(values=bits() | numbers(), preset=st.sampled_from(list(COMPRESSION_PRESETS)))
def test_presets_read_what_presets_wrote(values: Array, preset: str) -> None:
    compressed, metadata = COMPRESSION_PRESETS[preset].create_tensor_compression().compress_tensor(values)
    found = TensorCompression().decompress_tensor(compressed, json.loads(json.dumps(metadata)), as_="numpy")
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    if not metadata["lossy"]:
        assert_same_bits(found, values)


@given(values=numbers() | bits(), quantizer=st.sampled_from([*CODECS, NoQuantization()]))
def test_codes_alone_give_what_compressing_gives(values: Array, quantizer: QuantizationAlgorithm) -> None:
    try:
        codes, params = quantizer.quantize(values)
    except QuantizationError:
        return
    found = quantizer.dequantize(codes, json.loads(json.dumps(params)))
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    compressed, metadata = TensorCompression(ZstdCompression(1), quantizer).compress_tensor(values)
    if metadata["lossy"] and not isinstance(quantizer, AutoQuantization):
        assert_same_bits(found, TensorCompression().decompress_tensor(compressed, as_="numpy"))
    elif params["codec"] is None:
        assert_same_bits(found, values)


@given(
    values=numbers() | bits(),
    algorithm=st.sampled_from(COMPRESSORS),
    quantizer=st.sampled_from([*QUANTIZERS, NoQuantization()]),
    data=st.data(),
)
def test_any_damage_to_a_compressed_tensor_is_an_error(
    values: Array, algorithm: CompressionAlgorithm, quantizer: QuantizationAlgorithm, data: st.DataObject
) -> None:
    compressed, metadata = TensorCompression(algorithm, quantizer).compress_tensor(values)
    at = data.draw(st.integers(0, len(compressed) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "drop", "add"]))
    damaged = bytearray(compressed)
    if kind == "flip":
        damaged[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del damaged[at:]
    elif kind == "drop":
        del damaged[at]
    else:
        damaged += data.draw(st.binary(min_size=1, max_size=40))
    with pytest.raises(CompressionError):
        TensorCompression().decompress_tensor(damaged, metadata)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"TNSR\x01" + tail))
def test_garbage_is_an_error_to_everything_that_reads(garbage: bytes) -> None:
    with pytest.raises(CompressionError):
        TensorCompression().decompress_tensor(garbage)
    for algorithm in COMPRESSORS[1:]:
        try:
            algorithm.decompress(garbage)
        except CompressionError:
            continue
        # The only format without a magic number: byte 6 is nothing, compressed.
        assert isinstance(algorithm, BrotliCompression)


@given(
    content=st.binary(max_size=300),
    algorithm=st.sampled_from(COMPRESSORS[1:]),
    at=st.integers(0, 10_000),
    mask=st.integers(0, 255),
)
def test_damage_to_compressed_bytes_is_an_error_or_harmless(
    content: bytes, algorithm: CompressionAlgorithm, at: int, mask: int
) -> None:
    damaged = bytearray(algorithm.compress(content))
    position = at % len(damaged)
    if mask:
        damaged[position] ^= mask
    else:
        del damaged[position:]
    try:
        found = algorithm.decompress(damaged)
    except CompressionError:
        return
    # A comment, a time, an unused bit. Brotli has no checksum.
    assert mask
    assert found == content or isinstance(algorithm, BrotliCompression)


JUNK = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.text(max_size=9)
    | st.lists(st.integers(-3, 2**70), max_size=3)
)


@pytest.mark.filterwarnings("ignore:.*the largest of half precision:RuntimeWarning")
@given(
    values=numbers(),
    quantizer=st.sampled_from(QUANTIZERS[:-2]),
    key=st.sampled_from(
        ["original_dtype", "original_shape", "scale", "zero_point", "codec", "chunk_bytes", "parameters", "block_size"]
    ),
    junk=JUNK | JUNK.map(lambda item: [item]) | st.binary(max_size=20).map(lambda raw: [raw.hex()]),
)
def test_damage_to_parameters_is_an_error_or_harmless(
    values: Array, quantizer: QuantizationAlgorithm, key: str, junk: object
) -> None:
    try:
        codes, params = quantizer.quantize(values)
    except QuantizationError:
        return
    damaged = {**params, key: junk}
    try:
        found = quantizer.dequantize(codes, damaged)
    except QuantizationError:
        return
    assert found.nbytes <= max(8 * values.nbytes, 64)
