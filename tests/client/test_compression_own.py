"""Algorithms of a user's own run in `TensorCompression`: alone, beside ours, and never to a wrong tensor."""

from __future__ import annotations

import bz2
import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.arrays import DTYPE_NAMES, assert_same_bits, normal, random_bits
from support.cases import each
from tensorus.compression import (
    CompressionAlgorithm,
    CompressionError,
    FP16Quantization,
    GZIPCompression,
    INT8Quantization,
    NoCompression,
    NoQuantization,
    PcodecCompression,
    QuantizationAlgorithm,
    TensorCompression,
    ZstdCompression,
)
from tensorus_codecs.checksum import crc32c


class Bz2Compression(CompressionAlgorithm):
    """As the document of Tensorus 0.1 has it: two methods."""

    def compress(self, data: bytes) -> bytes:
        return bz2.compress(data)

    def decompress(self, compressed_data: bytes) -> bytes:
        return bz2.decompress(compressed_data)


class NamedZlib(CompressionAlgorithm):
    """As the source of Tensorus 0.1 has it: with a name."""

    def __init__(self, level: int = 6) -> None:
        self.level = level

    def compress(self, data: bytes) -> bytes:
        return zlib.compress(data, self.level)

    def decompress(self, compressed_data: bytes) -> bytes:
        return zlib.decompress(compressed_data)

    @property
    def name(self) -> str:
        return f"zlib-{self.level}"


class SetsItsName(Bz2Compression):
    def __init__(self) -> None:
        self.name = "bz2"


class Eighths(QuantizationAlgorithm):
    """Two methods, torch."""

    def quantize(self, tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
        tensor = torch.as_tensor(tensor)
        largest = float(tensor.abs().max())
        return torch.round(tensor / largest * 8).to(torch.int8), {"largest": largest}

    def dequantize(self, quantized: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        assert isinstance(quantized, torch.Tensor)
        return quantized.float() * params["largest"] / 8


class SignOnly(QuantizationAlgorithm):
    """With a name; NumPy; codes of another shape."""

    name = "sign"

    def quantize(self, tensor: Any) -> tuple[Any, dict[str, Any]]:
        values = np.asarray(tensor)
        params = {"shape": values.shape, "mean": float(np.abs(values).mean())}
        return np.packbits(values.reshape(-1) < 0), params

    def dequantize(self, quantized: Any, params: dict[str, Any]) -> Any:
        assert isinstance(quantized, np.ndarray)
        shape = tuple(params["shape"])
        signs = np.unpackbits(quantized, count=int(np.prod(shape))).reshape(shape)
        return np.where(signs, -params["mean"], params["mean"]).astype(np.float32)


class Exactly(QuantizationAlgorithm):
    """Loses nothing."""

    def quantize(self, tensor: Any) -> tuple[Any, dict[str, Any]]:
        return tensor, {}

    def dequantize(self, quantized: Any, params: dict[str, Any]) -> Any:
        return quantized


OWN_COMPRESSORS = [Bz2Compression(), NamedZlib(), SetsItsName()]
OUR_COMPRESSORS = [NoCompression(), GZIPCompression(), PcodecCompression(1)]
OWN_QUANTIZERS = [Eighths(), SignOnly(), Exactly()]
OUR_QUANTIZERS = [NoQuantization(), INT8Quantization(), FP16Quantization()]

PAIRS = [
    pytest.param(compressor, quantizer, id=f"{compressor.name} over {quantizer.name}")
    for compressor in (*OWN_COMPRESSORS, *OUR_COMPRESSORS)
    for quantizer in (*OWN_QUANTIZERS, *OUR_QUANTIZERS)
    if compressor in OWN_COMPRESSORS or quantizer in OWN_QUANTIZERS
]

VALUES = normal((60, 40))
ERROR_MAX = {"Eighths": 0.15, "sign": 0.7, "Exactly": 0.0, "none": 0.0, "int8": 7e-3, "fp16": 2.2e-4}


@each("form", [torch.from_numpy, np.asarray], ids=["torch", "numpy"])
@pytest.mark.parametrize(("compressor", "quantizer"), PAIRS)
def test_every_pair_compresses_and_decompresses_and_measures(
    compressor: CompressionAlgorithm, quantizer: QuantizationAlgorithm, form: Any
) -> None:
    tensors = TensorCompression(compressor, quantizer)
    compressed, metadata = tensors.compress_tensor(form(VALUES))
    assert isinstance(compressed, bytes)
    found = TensorCompression(compressor, quantizer).decompress_tensor(compressed, metadata)
    as_numpy = tensors.decompress_tensor(compressed, json.loads(json.dumps(metadata)), as_="numpy")
    assert isinstance(as_numpy, np.ndarray)
    assert_same_bits(as_numpy, np.asarray(found))
    assert (metadata["compression"], metadata["quantization"]) == (compressor.name, quantizer.name)
    assert (metadata["original_size"], metadata["compressed_size"]) == (VALUES.nbytes, len(compressed))
    assert metadata["compression_ratio"] == VALUES.nbytes / len(compressed)
    assert (metadata["encodings"], metadata["fallback"]) == ([], None)
    error = float(np.linalg.norm(as_numpy.astype(float) - VALUES) / np.linalg.norm(VALUES))
    assert metadata["relative_error"] == pytest.approx(error, rel=1e-4)
    assert error <= ERROR_MAX[quantizer.name]
    assert metadata["lossy"] == (error > 0)
    assert metadata["max_absolute_error"] == pytest.approx(float(np.abs(as_numpy - VALUES).max()))


def test_a_quantizer_used_alone_and_the_names_of_classes_without_one() -> None:
    quantizer = Eighths()
    codes, params = quantizer.quantize(torch.tensor([1.0, -2.0]))
    assert quantizer.dequantize(codes, params).tolist() == [1.0, -2.0]
    assert (quantizer.name, Bz2Compression().name, NamedZlib(9).name) == ("Eighths", "Bz2Compression", "zlib-9")


@each("dtype", DTYPE_NAMES)
def test_every_bit_goes_through_a_compressor_of_one_s_own(dtype: str) -> None:
    for shape in [(), (0, 3), (300,), (3, 5, 7)]:
        values = random_bits(dtype, shape)
        for quantizer in (None, Exactly()):
            tensors = TensorCompression(Bz2Compression(), quantizer)
            compressed, metadata = tensors.compress_tensor(values)
            assert_same_bits(tensors.decompress_tensor(compressed, metadata, as_="numpy"), values)
            assert not metadata["lossy"]


def test_beside_a_compressor_of_one_s_own_our_quantizers_are_those_of_a_store() -> None:
    ids = torch.tensor([2049, 70000] * 50)
    compressed, metadata = TensorCompression(NamedZlib(), INT8Quantization()).compress_tensor(ids)
    assert torch.equal(TensorCompression(NamedZlib(), NoQuantization()).decompress_tensor(compressed), ids)
    assert metadata["fallback"] == "int8_block does not apply to int64, which stays lossless"
    large = torch.tensor([1e30, -1e30, 1.0]).repeat(50)
    tensors = TensorCompression(NamedZlib(), FP16Quantization())
    assert torch.isfinite(tensors.decompress_tensor(tensors.compress_tensor(large)[0])).all()


def test_beside_a_quantizer_of_one_s_own_our_compressors_compress_its_codes() -> None:
    compressed, _ = TensorCompression(ZstdCompression(), Eighths()).compress_tensor(torch.from_numpy(VALUES))
    plain, metadata = TensorCompression(NoCompression(), Eighths()).compress_tensor(torch.from_numpy(VALUES))
    assert len(compressed) < len(plain) < VALUES.nbytes / 3.5
    # Which of ours it was say the bytes.
    found = TensorCompression(GZIPCompression(9), Eighths()).decompress_tensor(compressed, metadata)
    assert torch.equal(found, TensorCompression(None, Eighths()).decompress_tensor(plain, metadata))


def test_a_subclass_of_ours_runs_as_it_is_written() -> None:
    class Reversed(GZIPCompression):
        def compress(self, data: Any) -> bytes:
            return super().compress(bytes(data)[::-1])

        def decompress(self, compressed_data: Any) -> bytes:
            return super().decompress(compressed_data)[::-1]

    tensors = TensorCompression(Reversed())
    compressed, metadata = tensors.compress_tensor(VALUES)
    assert metadata["compression"] == "gzip-6"
    assert_same_bits(tensors.decompress_tensor(compressed, as_="numpy"), VALUES)
    with pytest.raises(CompressionError, match="needs compressor 'gzip-6'; this object has none of a user's own"):
        TensorCompression(GZIPCompression()).decompress_tensor(compressed)


def test_a_dtype_that_does_not_come_back_is_lossy() -> None:
    class Narrow(Exactly):
        def quantize(self, tensor: Any) -> tuple[Any, dict[str, Any]]:
            return tensor.float(), {}

    tensors = TensorCompression(None, Narrow())
    _, metadata = tensors.compress_tensor(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert (metadata["lossy"], metadata["relative_error"]) == (True, 0.0)


def test_our_bytes_are_read_by_whoever_has_algorithms_of_their_own() -> None:
    compressed, metadata = TensorCompression(GZIPCompression(), INT8Quantization()).compress_tensor(VALUES)
    expected = TensorCompression().decompress_tensor(compressed)
    assert torch.equal(TensorCompression(Bz2Compression(), Eighths()).decompress_tensor(compressed, metadata), expected)


# ---- Other algorithms, and metadata that is not there -------------------------------------------------------------------


@each(
    ("reader", "message"),
    [
        (
            TensorCompression(),
            "needs compressor 'zlib-6' and quantizer 'Eighths'; this object has none of a user's own",
        ),
        (
            TensorCompression(NamedZlib(9), Eighths()),
            "needs compressor 'zlib-6' and quantizer 'Eighths'; this object has compressor 'zlib-9' and quantizer 'Eighths'",
        ),
        (TensorCompression(NamedZlib(), SignOnly()), "this object has compressor 'zlib-6' and quantizer 'sign'"),
        (TensorCompression(GZIPCompression(), Eighths()), "this object has quantizer 'Eighths'"),
        (TensorCompression(NamedZlib(), INT8Quantization()), "this object has compressor 'zlib-6'"),
    ],
)
def test_other_algorithms_than_needed_are_named_with_those_needed(reader: TensorCompression, message: str) -> None:
    tensor = torch.from_numpy(VALUES)
    compressed, metadata = TensorCompression(NamedZlib(), Eighths()).compress_tensor(tensor)
    with pytest.raises(CompressionError, match=message) as raised:
        reader.decompress_tensor(compressed, metadata)
    assert raised.value.reason == "INVALID_REQUEST"


@each("metadata", [None, {}, {"quantization_params": None}, {"quantization_params": [1]}, "metadata"])
def test_parameters_that_are_missing_are_an_error(metadata: Any) -> None:
    tensors = TensorCompression(NamedZlib(), Eighths())
    compressed, _ = tensors.compress_tensor(torch.from_numpy(VALUES))
    with pytest.raises(CompressionError, match=r"quantizer 'Eighths' needs metadata\['quantization_params'\]"):
        tensors.decompress_tensor(compressed, metadata)
    # A compressor alone needs none.
    compressed, _ = TensorCompression(NamedZlib()).compress_tensor(VALUES)
    assert_same_bits(TensorCompression(NamedZlib()).decompress_tensor(compressed, metadata, as_="numpy"), VALUES)


def test_metadata_has_the_parameters_that_the_quantizer_gave() -> None:
    _, metadata = TensorCompression(None, SignOnly()).compress_tensor(VALUES)
    assert metadata["quantization_params"] == {"shape": (60, 40), "mean": float(np.abs(VALUES).mean())}
    _, metadata = TensorCompression(Bz2Compression()).compress_tensor(VALUES)
    assert metadata["quantization_params"] == {"original_dtype": "torch.float32", "original_shape": [60, 40]}


# ---- Code that fails ----------------------------------------------------------------------------------------------------


def failing(base: type[Any], **methods: Any) -> Any:
    """Return an object of a subclass with other methods: functions, or what they return."""
    members = {
        name: method if callable(method) or isinstance(method, property) else lambda *_, found=method: found
        for name, method in methods.items()
    }
    return type("Mine", (base,), members)()


def raises(*_: Any) -> Any:
    raise KeyError("of mine")


class Flip(CompressionAlgorithm):
    def compress(self, data: bytes) -> bytes:
        return data

    decompress = compress


FAILING = {
    "compress raises": (
        failing(Flip, compress=raises),
        None,
        "compressor 'Mine' failed to compress: KeyError: 'of mine'",
    ),
    "compress gives text": (failing(Flip, compress="text"), None, "compressor 'Mine' gave a str, must give bytes"),
    "compress gives nothing": (
        failing(Flip, compress=None),
        None,
        "compressor 'Mine' gave a NoneType, must give bytes",
    ),
    "quantize raises": (None, failing(Exactly, quantize=raises), "quantizer 'Mine' failed to quantize: KeyError"),
    "quantize gives codes alone": (
        None,
        failing(Exactly, quantize=np.zeros(3)),
        "quantizer 'Mine' did not give codes and a dict of parameters",
    ),
    "quantize gives no dict": (None, failing(Exactly, quantize=(np.zeros(3), None)), "codes and a dict of parameters"),
    "quantize gives no tensor": (
        None,
        failing(Exactly, quantize=([1, 2], {})),
        "quantizer 'Mine' gave codes that are no tensor: a list is not a tensor",
    ),
    "quantize gives text": (
        None,
        failing(Exactly, quantize=(np.array(["a"]), {})),
        "gave codes that are no tensor: dtype",
    ),
    "dequantize raises": (None, failing(Exactly, dequantize=raises), "quantizer 'Mine' failed to dequantize: KeyError"),
    "dequantize gives no tensor": (
        None,
        failing(Exactly, dequantize="text"),
        "gave values that are no tensor: a str is",
    ),
    "dequantize gives another shape": (
        None,
        failing(Exactly, dequantize=np.zeros(3)),
        r"quantizer 'Mine' gave back shape \(3,\) of a tensor of shape \(60, 40\)",
    ),
    "a name that fails": (failing(Flip, name=property(raises)), None, "Mine does not tell its name: KeyError"),
    "a name that is a number": (failing(Flip, name=property(lambda _: 7)), None, "name of Mine is 7, must be a text"),
    "an empty name": (
        failing(Flip, name=property(lambda _: "")),
        None,
        "name of Mine is '', must be a text of 1 to 255",
    ),
    "a long name": (None, failing(Exactly, name=property(lambda _: "n" * 256)), "must be a text of 1 to 255 bytes"),
}


@each("name", FAILING)
def test_what_goes_wrong_in_compressing_is_an_error_of_ours(name: str) -> None:
    compressor, quantizer, message = FAILING[name]
    with pytest.raises(CompressionError, match=message) as raised:
        TensorCompression(compressor, quantizer).compress_tensor(VALUES)
    if "KeyError" in message:
        assert isinstance(raised.value.__cause__, KeyError)


@each(
    ("compressor", "quantizer", "message"),
    [
        (failing(Flip, decompress=raises), None, "compressor 'Mine' failed to decompress: KeyError: 'of mine'"),
        (failing(Flip, decompress=7), None, "compressor 'Mine' gave a int, must give bytes"),
        (
            failing(Flip, decompress=b"TNSR" + bytes(40)),
            None,
            "compressor 'Mine' gave back other bytes than it took: compressed tensor has version 0",
        ),
        (failing(Flip, decompress=b""), None, "compressor 'Mine' gave back other bytes than it took"),
        (None, failing(Exactly, dequantize=raises), "quantizer 'Mine' failed to dequantize: KeyError"),
        (None, failing(Exactly, dequantize="text"), "quantizer 'Mine' gave values that are no tensor"),
    ],
)
def test_what_goes_wrong_in_decompressing_is_an_error_of_ours(compressor: Any, quantizer: Any, message: str) -> None:
    writer = TensorCompression(compressor and failing(Flip), quantizer and failing(Exactly))
    compressed, metadata = writer.compress_tensor(VALUES)
    with pytest.raises(CompressionError, match=message):
        TensorCompression(compressor, quantizer).decompress_tensor(compressed, metadata, as_="numpy")


def test_a_tensor_that_is_none_is_still_a_type_error() -> None:
    with pytest.raises(TypeError, match="a list is not a tensor"):
        TensorCompression(Bz2Compression(), Eighths()).compress_tensor([1.0])
    with pytest.raises(CompressionError, match="sparse"):
        TensorCompression(Bz2Compression()).compress_tensor(torch.eye(3).to_sparse())


def test_neither_parameters_nor_codes_are_shared_with_the_quantizer() -> None:
    class InPlace(QuantizationAlgorithm):
        def quantize(self, tensor: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
            return tensor.clone(), {"factor": 2.0}

        def dequantize(self, quantized: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
            return quantized.mul_(params.pop("factor")).div_(2)

    tensors = TensorCompression(None, InPlace())
    tensor = torch.randn(9)
    compressed, metadata = tensors.compress_tensor(tensor)
    assert not metadata["lossy"]
    for _ in range(2):
        assert torch.equal(tensors.decompress_tensor(compressed, metadata), tensor)


# ---- A store ------------------------------------------------------------------------------------------------------------


def test_a_store_says_what_it_takes_instead() -> None:
    for tensors in (TensorCompression(Bz2Compression()), TensorCompression(None, Eighths())):
        with pytest.raises(TypeError, match=r"has no codec, so that no store can use it: .* see CONTRIBUTING.md"):
            tensors.policy  # noqa: B018 - asked for its error
    with pytest.raises(TypeError, match="Bz2Compression has no codec"):
        TensorCompression(Bz2Compression(), preset="balanced")


def test_what_is_no_algorithm_is_refused() -> None:
    with pytest.raises(TypeError, match="a str is not a CompressionAlgorithm"):
        TensorCompression("gzip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a GZIPCompression is not a QuantizationAlgorithm"):
        TensorCompression(None, GZIPCompression())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="preset 'best' is not one of none, "):
        TensorCompression(preset="best")
    for base in (CompressionAlgorithm, QuantizationAlgorithm):
        with pytest.raises(TypeError, match="abstract"):
            base()


# ---- Bytes --------------------------------------------------------------------------------------------------------------

PLAIN, _ = TensorCompression().compress_tensor(np.array([1, 2], np.float32))


def sealed(
    version: int = 1,
    codes: int = 0,
    compression: bytes = b"Mine",
    quantization: bytes = b"",
    payload: bytes = PLAIN,
) -> bytes:
    """Return bytes with a right checksum, whatever they say."""
    start = struct.pack("<4sBBBB", b"TNSA", version, codes, len(compression), len(quantization))
    start += compression + quantization
    return start + struct.pack("<I", crc32c(payload, crc32c(start))) + payload


READER = TensorCompression(failing(Flip), failing(Exactly))


def test_the_bytes_are_as_they_are_drawn() -> None:
    values = np.array([1, 2], np.float32)
    assert TensorCompression(failing(Flip)).compress_tensor(values)[0] == sealed()
    both = sealed(codes=1, quantization=b"Mine")
    assert READER.compress_tensor(values)[0] == both
    assert READER.compress_tensor(torch.from_numpy(values))[0] == sealed(codes=2, quantization=b"Mine")
    assert_same_bits(READER.decompress_tensor(both, {"quantization_params": {}}), values)


BROKEN = {
    "a start": (sealed()[:7], "is 7 bytes, its header has at least 12"),
    "half a header": (sealed()[:13], "is 13 bytes, its header has 16"),
    "a later version": (sealed(version=2), "has version 2, this version of Tensorus reads 1"),
    "a changed name": (sealed().replace(b"Mine", b"Mina"), "has CRC32C"),
    "a changed payload": (sealed()[:-1] + b"\x41", "has CRC32C [0-9a-f]{8}, must be [0-9a-f]{8}"),
    "a payload that is cut": (sealed()[:-1], "has CRC32C"),
    "bytes that follow": (sealed() + b"\0", "has CRC32C"),
    "an unknown kind of codes": (
        sealed(codes=3, quantization=b"Mine"),
        "has codes of kind 3 and 4 bytes of a quantizer's",
    ),
    "codes of no quantizer": (sealed(codes=1), "has codes of kind 1 and 0 bytes of a quantizer's name"),
    "a quantizer without codes": (
        sealed(quantization=b"Mine"),
        "has codes of kind 0 and 4 bytes of a quantizer's name",
    ),
    "a name that is no text": (sealed(compression=b"\xff"), "has names that are no UTF-8"),
    "another tensor below": (
        sealed(compression=b"", codes=1, quantization=b"Mine", payload=PLAIN[:-1]),
        "has 28 bytes of chunk 0, must be 29",
    ),
}


@each("name", BROKEN)
def test_what_breaks_a_rule_is_named(name: str) -> None:
    data, message = BROKEN[name]
    reader = TensorCompression(None, failing(Exactly)) if "below" in name else READER
    with pytest.raises(CompressionError, match=f"^compressed tensor {message}") as raised:
        reader.decompress_tensor(data, {"quantization_params": {}})
    assert raised.value.reason == "DATA_CORRUPT"


@given(
    pair=st.sampled_from(
        [(NamedZlib(), Eighths()), (NamedZlib(), None), (None, SignOnly()), (Bz2Compression(), SignOnly())]
    ),
    at=st.integers(0, 10_000),
    mask=st.integers(0, 255),
)
def test_any_damage_is_an_error(pair: tuple[Any, Any], at: int, mask: int) -> None:
    tensors = TensorCompression(*pair)
    compressed, metadata = tensors.compress_tensor(torch.from_numpy(VALUES[:9]))
    damaged = bytearray(compressed)
    position = at % len(damaged)
    if mask:
        damaged[position] ^= mask
    else:
        del damaged[position:]
    with pytest.raises(CompressionError):
        tensors.decompress_tensor(damaged, metadata)
