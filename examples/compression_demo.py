"""Compression and quantization with the API of Tensorus 0.1: algorithms, accuracy, presets, and three uses.

    python examples/compression_demo.py

Everything is measured on this machine, in memory, on values generated from a fixed seed; nothing is left behind. NumPy
suffices; if torch is installed, the same calls take and return torch tensors.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tensorus.compression import (
    COMPRESSION_PRESETS,
    CompressionConfig,
    create_compression_algorithm,
    create_quantization_algorithm,
)
from tensorus.tensor_storage import TensorStorage

ALGORITHMS: tuple[tuple[str, dict[str, int]], ...] = (
    ("none", {}),
    ("lz4", {"compression_level": 1}),
    ("gzip", {"compression_level": 6}),
    ("zstd", {}),
)
QUANTIZATIONS = ("none", "fp16", "int8", "int8_block")
PRESETS = ("none", "fast", "balanced", "maximum", "fp16_only", "int8_only")

Array = Any
"""A NumPy array, or a torch tensor if torch is installed."""


def main() -> None:
    """Show all four parts."""
    console = Console()
    random = np.random.default_rng(7)
    weights = (random.standard_normal((512, 1024)) * 0.02).astype(np.float32)
    for table in (algorithms(weights), accuracy(weights), presets(weights), uses(random)):
        console.print(table)
        console.print()


def algorithms(weights: Array) -> Table:
    """Return ratio and speed of each compressor on the bytes of a tensor, without a quantizer."""
    table = _table("Compressors, on 2 MiB of weights", "compressor", "ratio", "MB/s", "same bytes")
    data = weights.tobytes()
    for name, arguments in ALGORITHMS:
        algorithm = create_compression_algorithm(name, **arguments)
        started = time.perf_counter()
        compressed = algorithm.compress(data)
        seconds = time.perf_counter() - started
        same = algorithm.decompress(compressed) == data
        speed = "" if name == "none" else f"{len(data) / seconds / 1e6:,.0f}"
        table.add_row(algorithm.name, f"{len(data) / len(compressed):.2f}", speed, "yes" if same else "NO")
    return table


def accuracy(weights: Array) -> Table:
    """Return size and error of each quantizer."""
    table = _table("Quantizers, on the same weights", "quantizer", "bytes", "rel. L2 error", "largest error")
    for name in QUANTIZATIONS:
        algorithm = create_quantization_algorithm(name)
        quantized, parameters = algorithm.quantize(weights)
        error = np.asarray(algorithm.dequantize(quantized, parameters), np.float64) - weights
        relative_error = np.linalg.norm(error) / np.linalg.norm(weights)
        size = f"{np.asarray(quantized).nbytes:,}"
        table.add_row(algorithm.name, size, f"{relative_error:.1e}", f"{np.abs(error).max():.1e}")
    return table


def presets(weights: Array) -> Table:
    """Return size, error and insert speed of each preset in a store."""
    table = _table(
        "Presets, in a store", "preset", "as asked", "bytes on disk", "ratio", "rel. L2 error", "insert MB/s"
    )
    with TensorStorage(None) as storage:
        for preset in PRESETS:
            storage.create_dataset(preset)
            storage.set_compression_preset(preset)
            started = time.perf_counter()
            record_id = storage.insert(preset, weights)
            seconds = time.perf_counter() - started
            found = np.asarray(storage.get_tensor_by_id(preset, record_id)["tensor"])
            error = np.linalg.norm(found - weights) / np.linalg.norm(weights)
            config, stats = COMPRESSION_PRESETS[preset], storage.get_compression_stats(preset)
            table.add_row(
                preset,
                f"{config.compression} / {config.quantization}",
                f"{stats['stored_bytes']:,}",
                f"{stats['ratio']:.2f}",
                f"{error:.1e}" if error else "exact",
                f"{weights.nbytes / seconds / 1e6:,.0f}",
            )
    return table


def uses(random: np.random.Generator) -> Table:
    """Return three uses: weights of a model, frames of a sensor, ids of tokens."""
    table = _table("Three uses", "use", "configuration", "tensors", "ratio", "space saved", "check")
    with TensorStorage(None) as storage:
        layers = [(random.standard_normal((256, 512)) * 0.02).astype(np.float32) for _ in range(4)]
        storage.set_compression_preset("maximum")
        found = _stored(storage, "weights of a model", layers)
        worst = max(
            float(np.linalg.norm(one - layer) / np.linalg.norm(layer)) for one, layer in zip(found, layers, strict=True)
        )
        _add_use(table, storage, "weights of a model", "maximum", f"rel. error {worst:.1e}")

        time_s = np.linspace(0, 60, 65536)
        frames = [np.sin(time_s * (1 + n / 10)).astype(np.float32) for n in range(4)]
        storage.set_compression_config(CompressionConfig("gzip", "fp16", {"compression_level": 9}))
        found = _stored(storage, "frames of a sensor", frames)
        largest = max(float(np.abs(one - frame).max()) for one, frame in zip(found, frames, strict=True))
        _add_use(table, storage, "frames of a sensor", "gzip-9 / fp16", f"off by {largest:.1e}")

        ids = [random.integers(0, 50_257, 4096) for _ in range(4)]
        found = _stored(storage, "ids of tokens", ids)
        exact = all(np.array_equal(one, token_ids) for one, token_ids in zip(found, ids, strict=True))
        _add_use(table, storage, "ids of tokens", "the same", "exact: ints stay lossless" if exact else "CHANGED")
    return table


def _stored(storage: TensorStorage, name: str, tensors: list[Array]) -> list[Array]:
    storage.create_dataset(name)
    storage.batch_insert(name, [(tensor, {"number": number}) for number, tensor in enumerate(tensors)])
    return [np.asarray(tensor) for tensor in storage.iter_dataset(name)]


def _add_use(table: Table, storage: TensorStorage, name: str, configuration: str, check: str) -> None:
    stats = storage.get_compression_stats(name)
    ratio = stats["average_compression_ratio"]
    table.add_row(
        name, configuration, str(stats["total_tensors"]), f"{ratio:.2f}", f"{(1 - 1 / ratio) * 100:.1f} %", check
    )


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


if __name__ == "__main__":
    main()
