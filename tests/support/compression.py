"""What tests of the compression API share: one of each algorithm, by its name."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorus.compression import (
    BF16Quantization,
    BitRoundQuantization,
    BloscLZ4Compression,
    BrotliCompression,
    CompressionAlgorithm,
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
    PcodecCompression,
    QuantizationAlgorithm,
    ZstdCompression,
)

COMPRESSORS: dict[str, CompressionAlgorithm] = {
    "gzip-6": GZIPCompression(),
    "lz4-1": LZ4Compression(),
    "zstd-3": ZstdCompression(),
    "brotli-11": BrotliCompression(),
    "blosc_lz4": BloscLZ4Compression(),
    "pcodec-8": PcodecCompression(),
    "none": NoCompression(),
}

QUANTIZERS: dict[str, QuantizationAlgorithm] = {
    "int8": INT8Quantization(),
    "int8_block": INT8BlockQuantization(),
    "fp16": FP16Quantization(),
    "bf16": BF16Quantization(),
    "fp8_e4m3fn": FP8E4M3FNQuantization(),
    "fp8_e5m2": FP8E5M2Quantization(),
    "int4_block": INT4BlockQuantization(),
    "nf4": NF4Quantization(),
    "bitround": BitRoundQuantization(),
}


def relative_error(found: Any, expected: Any) -> float:
    """Return the L2 norm of the error over the L2 norm."""
    wide = np.asarray(expected, np.complex128)
    return float(np.linalg.norm(np.asarray(found, np.complex128) - wide) / np.linalg.norm(wide))
