"""Quantizing and compressing tensors without a store: the compression API of Tensorus 0.1, over the codecs of the store.

For example:

    import torch
    from tensorus.compression import CompressionConfig, get_compression_preset

    config = CompressionConfig("gzip", "int8", {"compression_level": 9})  # literally gzip over int8
    compression = config.create_tensor_compression()
    tensor = torch.randn(256, 256)
    compressed, metadata = compression.compress_tensor(tensor)
    same = compression.decompress_tensor(compressed, metadata)
    print(metadata["compression_ratio"], metadata["relative_error"], metadata["encodings"])

    smallest = get_compression_preset("auto", max_relative_error=1e-3)  # in every chunk, what keeps it
    compressed, metadata = smallest.create_tensor_compression().compress_tensor(tensor)

A store takes the same through `CompressionConfig.to_policy`. What is compressed says how: any `TensorCompression` reads it,
whatever algorithms that was made with. It also reads what Tensorus 0.1 compressed, with the metadata that came with it, and
runs compressors and quantizers of your own, subclasses of `CompressionAlgorithm` and `QuantizationAlgorithm`.

Tensors are torch's, or anything that becomes a NumPy array; without torch, NumPy arrays come back. Importing this loads neither
torch nor the libraries of the codecs.
"""

from __future__ import annotations

from tensorus.compression._compressors import (
    BloscLZ4Compression,
    BrotliCompression,
    CompressionAlgorithm,
    GZIPCompression,
    LZ4Compression,
    NoCompression,
    PcodecCompression,
    ZstdCompression,
)
from tensorus.compression._config import (
    COMPRESSION_PRESETS,
    CompressionConfig,
    get_compression_preset,
)
from tensorus.compression._errors import CompressionError, QuantizationError
from tensorus.compression._factories import create_compression_algorithm, create_quantization_algorithm
from tensorus.compression._quantizers import (
    AutoQuantization,
    BF16Quantization,
    BitRoundQuantization,
    FP8E4M3FNQuantization,
    FP8E5M2Quantization,
    INT4BlockQuantization,
    INT8BlockQuantization,
    NF4Quantization,
    NoQuantization,
    QuantizationAlgorithm,
)
from tensorus.compression._simple_quantizers import FP16Quantization, INT8Quantization
from tensorus.compression._tensors import TensorCompression

__all__ = [
    "COMPRESSION_PRESETS",
    "AutoQuantization",
    "BF16Quantization",
    "BitRoundQuantization",
    "BloscLZ4Compression",
    "BrotliCompression",
    "CompressionAlgorithm",
    "CompressionConfig",
    "CompressionError",
    "FP8E4M3FNQuantization",
    "FP8E5M2Quantization",
    "FP16Quantization",
    "GZIPCompression",
    "INT4BlockQuantization",
    "INT8BlockQuantization",
    "INT8Quantization",
    "LZ4Compression",
    "NF4Quantization",
    "NoCompression",
    "NoQuantization",
    "PcodecCompression",
    "QuantizationAlgorithm",
    "QuantizationError",
    "TensorCompression",
    "ZstdCompression",
    "create_compression_algorithm",
    "create_quantization_algorithm",
    "get_compression_preset",
]
