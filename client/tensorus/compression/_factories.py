"""Creates algorithms by name."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from tensorus.compression import _compressors as compressors
from tensorus.compression import _quantizers as quantizers
from tensorus.compression._simple_quantizers import FP16Quantization, INT8Quantization

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tensorus.compression._compressors import CompressionAlgorithm
    from tensorus.compression._quantizers import QuantizationAlgorithm

__all__ = [
    "compression_named",
    "create_compression_algorithm",
    "create_quantization_algorithm",
    "is_ours",
    "quantization_named",
]

T = TypeVar("T")

_COMPRESSION: Mapping[str, type[CompressionAlgorithm]] = {
    "none": compressors.NoCompression,
    "gzip": compressors.GZIPCompression,
    "lz4": compressors.LZ4Compression,
    "zstd": compressors.ZstdCompression,
    "brotli": compressors.BrotliCompression,
    "blosc_lz4": compressors.BloscLZ4Compression,
    "pcodec": compressors.PcodecCompression,
}

_QUANTIZATION: Mapping[str, type[QuantizationAlgorithm]] = {
    "none": quantizers.NoQuantization,
    "int8": INT8Quantization,
    "int8_block": quantizers.INT8BlockQuantization,
    "fp16": FP16Quantization,
    "bf16": quantizers.BF16Quantization,
    "int4_block": quantizers.INT4BlockQuantization,
    "nf4": quantizers.NF4Quantization,
    "fp8_e4m3fn": quantizers.FP8E4M3FNQuantization,
    "fp8_e5m2": quantizers.FP8E5M2Quantization,
    "bitround": quantizers.BitRoundQuantization,
    "auto": quantizers.AutoQuantization,
}


def create_compression_algorithm(
    name: str, **arguments: Any
) -> CompressionAlgorithm:  # `Any`: checked by what it makes
    """Return the compressor of this name with these arguments: "gzip", "lz4", "zstd", "brotli", "blosc_lz4", "pcodec", "none".

    Raises:
        ValueError: the name is unknown, or the algorithm lacks an argument or refuses a value; the message says what is valid.
    """
    return compression_named(name, arguments)


def create_quantization_algorithm(name: str, **arguments: Any) -> QuantizationAlgorithm:  # `Any`: likewise
    """Return the quantizer of this name with these arguments.

    Names are "int8", "int8_block", "fp16", "bf16", "int4_block", "nf4", "fp8_e4m3fn", "fp8_e5m2", "bitround", "auto", "none".

    Raises:
        ValueError: the name is unknown, or the algorithm lacks an argument or refuses a value; the message says what is valid.
    """
    return quantization_named(name, arguments)


def compression_named(name: object, arguments: Mapping[str, Any]) -> CompressionAlgorithm:
    """See `create_compression_algorithm`; name and arguments are not validated yet."""
    return _created(_COMPRESSION, "compression", name, arguments)


def quantization_named(name: object, arguments: Mapping[str, Any]) -> QuantizationAlgorithm:
    """See `create_quantization_algorithm`; name and arguments are not validated yet."""
    return _created(_QUANTIZATION, "quantization", name, arguments)


def is_ours(algorithm: CompressionAlgorithm | QuantizationAlgorithm) -> bool:
    """Whether the algorithm's class is one of this package. A user's subclass is not, since it may do anything."""
    return type(algorithm) in {*_COMPRESSION.values(), *_QUANTIZATION.values()}


def _created(
    table: Mapping[str, type[T]],
    kind: str,
    name: object,
    arguments: Mapping[str, Any],  # `Any`: checked by what it makes
) -> T:
    algorithm = table.get(name) if isinstance(name, str) else None
    if algorithm is None:
        raise ValueError(f"{kind} {name!r} is not one of {', '.join(table)}")
    known = [field.name for field in dataclasses.fields(algorithm)]  # type: ignore[arg-type]  # all in the tables are dataclasses
    for argument in arguments:
        if argument not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"{kind} {name!r} has no argument {argument!r}; its arguments: {allowed}")
    return algorithm(**arguments)
