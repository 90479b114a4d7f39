"""Writes the golden files. Run by `make golden`, and only when a format has changed on purpose.

Each group is a function that fills a folder of its own beside this file. What older versions wrote is never touched: it must
decode for ever. A new version of a format adds files, and its group's test decodes all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from write_wire import write_wire

from tensorus_codecs.chunk_record import VERSION
from tensorus_codecs.dtypes import DType, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.policy import StoragePolicy, plan

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Input:
    """Canonical bytes, and how to make them again."""

    dtype: DType
    data: bytes
    provenance: str


def weights(name: str, count: int, seed: int) -> Input:
    """Return values as weights have them: N(0, 0.02)."""
    dtype = dtype_by_name(name)
    values = np.random.default_rng(seed).standard_normal(count * (dtype.numpy.itemsize // dtype.component.itemsize))
    data = (values * 0.02).astype(dtype.component).tobytes()
    return Input(dtype, data, f"{count} values, default_rng({seed}).standard_normal() * 0.02, as {name}")


def integers(name: str, count: int, seed: int) -> Input:
    """Return small whole numbers."""
    dtype = dtype_by_name(name)
    data = np.random.default_rng(seed).integers(0, 20, count).astype(dtype.numpy).tobytes()
    return Input(dtype, data, f"{count} values, default_rng({seed}).integers(0, 20), as {name}")


def noise(dtype: DType, count: int, seed: int) -> Input:
    """Return random bits: NaNs with payloads, infinities and subnormal numbers among them."""
    data = np.random.default_rng(seed).bytes(count * dtype.element_bytes)
    return Input(dtype, data, f"{count} elements of {dtype.element_bytes} bytes, default_rng({seed}).bytes()")


def special(name: str, count: int, seed: int, *, largest: bool = True) -> Input:
    """Return weights with two NaNs, both infinities and -0.0 among them, and perhaps a value near the dtype's largest."""
    ordinary = weights(name, count, seed)
    values = np.frombuffer(ordinary.data, ordinary.dtype.component).copy()
    width = 8 * values.itemsize
    values[[10, 300, 310]] = [np.nan, np.inf, -np.inf]
    values.view(f"<u{width // 8}")[20] = (2**width - 1) ^ 0x5A
    values[30] = -0.0
    text = "10: NaN, 20: a negative NaN of bits ...a5, 30: -0.0, 300: inf, 310: -inf"
    if largest:
        values[500] = np.finfo(values.dtype).max / 1.25
        text += ", 500: 0.8 of the largest"
    return Input(ordinary.dtype, values.tobytes(), f"{ordinary.provenance}; then {text}")


def repeated(dtype: DType, count: int, seed: int) -> Input:
    """Return the same seven elements over and over."""
    pattern = np.random.default_rng(seed).bytes(7 * dtype.element_bytes)
    data = (pattern * count)[: count * dtype.element_bytes]
    return Input(dtype, data, f"{count} elements, default_rng({seed}).bytes() of 7 elements repeated")


HUFFMAN: dict[str, Any] = {"id": "zstd", "configuration": {"huffman_only": True}}


def int8_block(block_size: int) -> dict[str, Any]:
    """Return the quantizer with this block size."""
    return {"id": "int8_block", "configuration": {"block_size": block_size}}


CHUNKS: dict[str, tuple[Input, list[str | dict[str, Any]]]] = {
    "raw_bool": (integers("bool", 100, 1), []),
    "raw_float32_one_element": (weights("float32", 1, 2), []),
    "raw_float8_e4m3fn": (noise(dtype_by_name("float8_e4m3fn"), 256, 3), []),
    "raw_opaque_3_bytes": (noise(opaque_dtype(99, 24), 50, 4), []),
    "gzip_int32": (integers("int32", 500, 5), ["gzip"]),
    "gzip_9_uint8": (integers("uint8", 1000, 6), [{"id": "gzip", "configuration": {"level": 9}}]),
    "lz4_int64": (integers("int64", 300, 7), ["lz4"]),
    "lz4_12_float16": (repeated(dtype_by_name("float16"), 500, 8), [{"id": "lz4", "configuration": {"level": 12}}]),
    "zstd_uint16": (integers("uint16", 800, 9), ["zstd"]),
    "zstd_19_opaque_2_bytes": (
        repeated(opaque_dtype(98, 16), 500, 10),
        [{"id": "zstd", "configuration": {"level": 19}}],
    ),
    "zstd_huffman_int8": (integers("int8", 2000, 11), [HUFFMAN]),
    "planes_gzip_float64": (weights("float64", 400, 12), ["planes", "gzip"]),
    "planes_lz4_uint32": (integers("uint32", 400, 13), ["planes", "lz4"]),
    "planes_zstd_uint64": (integers("uint64", 300, 14), ["planes", {"id": "zstd", "configuration": {"level": 1}}]),
    "planes_zstd_opaque_8_bytes": (repeated(opaque_dtype(97, 64), 100, 15), ["planes", "zstd"]),
    "rotated_planes_huffman_bfloat16": (weights("bfloat16", 1500, 16), ["rotated_planes", HUFFMAN]),
    "rotated_planes_huffman_float32": (weights("float32", 1000, 17), ["rotated_planes", HUFFMAN]),
    "rotated_planes_gzip_complex128": (weights("complex128", 150, 18), ["rotated_planes", "gzip"]),
    "rotated_planes_zstd_float32_special": (special("float32", 1000, 19), ["rotated_planes", "zstd"]),
    "fp16_float32": (weights("float32", 600, 20), ["fp16"]),
    "fp16_float32_special": (special("float32", 600, 21, largest=False), ["fp16"]),
    "fp16_float64_special": (special("float64", 600, 22, largest=False), ["fp16"]),
    "blosc_lz4_int32": (integers("int32", 1500, 29), [{"id": "blosc_lz4", "configuration": {"word_bytes": 4}}]),
    "bf16_float32": (weights("float32", 600, 26), ["bf16"]),
    "bf16_float32_special": (special("float32", 600, 27, largest=True), ["bf16"]),
    "bf16_rotated_planes_huffman_float64": (weights("float64", 1500, 28), ["bf16", "rotated_planes", HUFFMAN]),
    "fp16_planes_lz4_complex64": (integers("complex64", 500, 23), ["fp16", "planes", "lz4"]),
    "fp16_rotated_planes_huffman_float32": (weights("float32", 1500, 24), ["fp16", "rotated_planes", HUFFMAN]),
    "int8_block_64_float32": (weights("float32", 640, 25), ["int8_block"]),
    "int8_block_64_float32_short_last_block": (weights("float32", 609, 26), ["int8_block"]),
    "int8_block_64_float32_exceptions": (special("float32", 900, 27), ["int8_block"]),
    "int8_block_32_float16_exceptions": (special("float16", 900, 28), [int8_block(32)]),
    "int8_block_128_huffman_bfloat16": (weights("bfloat16", 4000, 29), [int8_block(128), HUFFMAN]),
    "int8_block_128_float64_exceptions": (special("float64", 600, 30), [int8_block(128)]),
    "int8_block_256_gzip_complex64": (integers("complex64", 700, 31), [int8_block(256), "gzip"]),
}
"""Per file: what goes in, and the codecs that it passes."""


def write_chunk_records(folder: Path) -> None:
    """Write a record per entry of CHUNKS, and a manifest of what each decodes to."""
    prefix = f"v{VERSION}_"
    manifest_path = folder / "manifest.json"
    older = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
    # Everything is made, and checked, before anything is written.
    made = {f"{prefix}{name}.bin": _chunk_record(source, steps) for name, (source, steps) in CHUNKS.items()}
    for path in folder.glob(f"{prefix}*.bin"):
        path.unlink()
    for name, (record, _) in made.items():
        (folder / name).write_bytes(record)
    manifest = {name: entry for name, entry in older.items() if not name.startswith(prefix)}
    manifest |= {name: entry for name, (_, entry) in made.items()}
    manifest_path.write_text(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n")


def _chunk_record(source: Input, steps: list[str | dict[str, Any]]) -> tuple[bytes, dict[str, Any]]:
    encoding = Encoding.from_json([{"id": step} if isinstance(step, str) else step for step in steps])
    chunk = encode_chunk(source.data, source.dtype, plan(StoragePolicy(encoding=encoding), source.dtype))
    if chunk.encoding != encoding:
        raise ValueError(f"{source.provenance} was to be stored as {encoding}, and would be as {chunk.encoding}")
    record = b"".join(bytes(piece) for piece in chunk.record)
    decoded = bytes(decode_chunk(record))
    lossless = encoding.quantizer is None
    if lossless and decoded != source.data:
        raise ValueError(f"{source.provenance} does not come back from {encoding}")
    return record, {
        "dtype": source.dtype.name,
        "element_bytes": source.dtype.element_bytes,
        "encoding": encoding.to_json(),
        "input": source.provenance,
        "input_sha256": hashlib.sha256(source.data).hexdigest(),
        "decoded": "the input, bit for bit" if lossless else "the input as the quantizer rounds it",
        "decoded_bytes": len(decoded),
        "decoded_sha256": hashlib.sha256(decoded).hexdigest(),
    }


GROUPS: dict[str, Callable[[Path], None]] = {"chunk_records": write_chunk_records, "wire": write_wire}
"""Per folder: what fills it, in this order: messages contain records."""


def main() -> None:
    """Write every group."""
    for name, write in GROUPS.items():
        folder = _HERE / name
        folder.mkdir(exist_ok=True)
        write(folder)


if __name__ == "__main__":
    main()
