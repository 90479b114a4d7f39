"""Quantizes and compresses tensors without a store: the compression API of Tensorus 0.1, on top of the store's codecs.

For example:

    import torch
    from tensorus.compression import CompressionConfig, get_compression_preset

    config = CompressionConfig("gzip", "int8", {"compression_level": 9})  # literally gzip over int8
    compression = config.create_tensor_compression()
    tensor = torch.randn(256, 256)
    compressed, metadata = compression.compress_tensor(tensor)
    same = compression.decompress_tensor(compressed, metadata)
    print(metadata["compression_ratio"], metadata["relative_error"], metadata["encodings"])

    smallest = get_compression_preset("auto", max_relative_error=1e-3)  # the smallest within the bound, for every chunk
    compressed, metadata = smallest.create_tensor_compression().compress_tensor(tensor)

`CompressionConfig.to_policy` gives the equivalent policy for a store. Compressed bytes describe themselves, so any
`TensorCompression` can read them, regardless of its own algorithms. It also reads data that Tensorus 0.1 compressed, given the
metadata that came with them, and runs your own compressors and quantizers: subclasses of `CompressionAlgorithm` and
`QuantizationAlgorithm`.

Tensors are torch tensors, or anything that converts to a NumPy array. Without torch, results are NumPy arrays. Importing this
package loads neither torch nor the libraries of the codecs.
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
