"""Writes the golden files. Run by `make golden`, and only when a format has changed on purpose.

Each group is a function that fills a folder of its own beside this file. What older versions wrote is never touched: it must
decode for ever. A new version of a format adds files, and its group's test decodes all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from write_wire import write_wire

from tensorus_codecs.base import Base
from tensorus_codecs.chunk_record import VERSION
from tensorus_codecs.dtypes import DType, dtype_by_name, opaque_dtype
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy

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


def with_usual_kinds(count: int, seed: int) -> Input:
    """Return weights with kinds of values that rounding to bfloat16 keeps."""
    ordinary = weights("float32", count, seed)
    values = np.frombuffer(ordinary.data, "<f4").copy()
    values[10:17] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, np.finfo(np.float32).tiny]
    return Input(
        ordinary.dtype, values.tobytes(), f"{ordinary.provenance}; then 10 to 16: NaN, inf, -inf, 0, -0, 1e-40, tiny"
    )


def repeated(dtype: DType, count: int, seed: int) -> Input:
    """Return the same seven elements over and over."""
    pattern = np.random.default_rng(seed).bytes(7 * dtype.element_bytes)
    data = (pattern * count)[: count * dtype.element_bytes]
    return Input(dtype, data, f"{count} elements, default_rng({seed}).bytes() of 7 elements repeated")


def sparse(name: str, count: int, seed: int) -> Input:
    """Return weights of which nine in ten are zero, with NaNs of two payloads, an infinity and -0.0 among them."""
    ordinary = weights(name, count, seed)
    values = np.frombuffer(ordinary.data, ordinary.dtype.component).copy()
    values[np.random.default_rng(seed + 1).random(values.size) < 0.9] = 0
    width = 8 * values.itemsize
    values[[10, 11]] = [np.nan, np.inf]
    values.view(f"<u{width // 8}")[20] = (2**width - 1) ^ 0x5A
    values[30] = -0.0
    text = f"then 0 where default_rng({seed + 1}).random() < 0.9; 10: NaN, 11: inf, 20: a negative NaN of bits ...a5, 30: -0.0"
    return Input(ordinary.dtype, values.tobytes(), f"{ordinary.provenance}; {text}")


def counting(name: str, count: int, seed: int, low: int = 0, high: int = 100) -> Input:
    """Return sums of small steps, which may wrap around."""
    dtype = dtype_by_name(name)
    data = np.cumsum(np.random.default_rng(seed).integers(low, high, count)).astype(dtype.numpy).tobytes()
    return Input(dtype, data, f"{count} values, cumsum of default_rng({seed}).integers({low}, {high}), as {name}")


def bits(name: str, count: int, seed: int) -> Input:
    """Return zeros and ones."""
    dtype = dtype_by_name(name)
    data = np.random.default_rng(seed).integers(0, 2, count).astype(dtype.numpy).tobytes()
    return Input(dtype, data, f"{count} values, default_rng({seed}).integers(0, 2), as {name}")


def constant(dtype: DType, count: int, seed: int) -> Input:
    """Return one element over and over."""
    data = np.random.default_rng(seed).bytes(dtype.element_bytes) * count
    return Input(dtype, data, f"{count} times the element default_rng({seed}).bytes({dtype.element_bytes})")


def offset(name: str, count: int, seed: int, *, exceptions: bool = False) -> Input:
    """Return values that keep away from zero, perhaps with three exceptions."""
    dtype = dtype_by_name(name)
    numbers = np.random.default_rng(seed).uniform(99, 101, count * (dtype.numpy.itemsize // dtype.component.itemsize))
    values = numbers.astype(dtype.component)
    text = f"{count} values, default_rng({seed}).uniform(99, 101), as {name}"
    if exceptions:
        values[[10, 300, 310]] = [np.nan, np.inf, -np.inf]
        text += "; then 10: NaN, 300: inf, 310: -inf"
    return Input(dtype, values.tobytes(), text)


def later(base: Input, share: float, step_max: int, seed: int) -> Input:
    """Return `base` after a few steps of a training: some of its words are others."""
    random = np.random.default_rng(seed)
    words = np.frombuffer(base.data, base.dtype.word).copy()
    changed = random.random(words.size) < share
    words[changed] += random.integers(-step_max, step_max + 1, int(changed.sum())).astype(words.dtype)
    text = (
        f"then default_rng({seed}): integers(-{step_max}, {step_max + 1}) added to the words where random() < {share}"
    )
    return Input(base.dtype, words.tobytes(), f"{base.provenance}; {text}")


HUFFMAN: dict[str, Any] = {"id": "zstd", "configuration": {"huffman_only": True}}


def step(codec_id: str, **configuration: int | str) -> dict[str, Any]:
    """Return this codec with these settings."""
    return {"id": codec_id, "configuration": configuration}


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
    "bf16_planes_huffman_float32": (weights("float32", 1000, 160), ["bf16_planes", HUFFMAN]),
    "bf16_planes_gzip_complex64": (weights("complex64", 500, 161), ["bf16_planes", "gzip"]),
    "bf16_planes_zstd_float32_coarse_special": (with_usual_kinds(1000, 162), ["bf16_planes", "zstd"]),
    "bf16_planes_zstd_float32_special": (special("float32", 1000, 163), ["bf16_planes", "zstd"]),
    "bf16_planes_zstd_int32": (integers("int32", 500, 164), ["bf16_planes", "zstd"]),
    "fp16_float32": (weights("float32", 600, 20), ["fp16"]),
    "fp16_float32_special": (special("float32", 600, 21, largest=False), ["fp16"]),
    "fp16_float64_special": (special("float64", 600, 22, largest=False), ["fp16"]),
    "blosc_lz4_int32": (integers("int32", 1500, 29), [{"id": "blosc_lz4", "configuration": {"word_bytes": 4}}]),
    "delta_gzip_int64": (counting("int64", 500, 100), ["delta", "gzip"]),
    "delta_3_zstd_uint8": (counting("uint8", 1500, 101, 0, 3), [step("delta", distance=3), "zstd"]),
    "delta_0_gzip_int16": (counting("int16", 900, 102, -20, 21), [step("delta", distance=0), "gzip"]),
    "delta_255_gzip_uint32": (counting("uint32", 900, 103), [step("delta", distance=255), "gzip"]),
    "delta_zstd_float32": (counting("float32", 900, 104), ["delta", "zstd"]),
    "delta_gzip_opaque_3_bytes": (repeated(opaque_dtype(95, 24), 500, 105), [step("delta", distance=21), "gzip"]),
    "bitmap_float32": (sparse("float32", 601, 106), ["bitmap"]),
    "bitmap_float16": (sparse("float16", 607, 108), ["bitmap"]),
    "bitmap_huffman_float64": (sparse("float64", 3000, 110), ["bitmap", HUFFMAN]),
    "bitmap_gzip_complex64": (sparse("complex64", 900, 112), ["bitmap", "gzip"]),
    "bitmap_uint8": (bits("uint8", 900, 114), ["bitmap"]),
    "bitmap_gzip_complex128": (sparse("complex128", 300, 115), ["bitmap", "gzip"]),
    "bitmap_of_zeros_int32": (Input(dtype_by_name("int32"), bytes(1004), "251 zeros, as int32"), ["bitmap"]),
    "packbits_bool": (bits("bool", 1001, 117), ["packbits"]),
    "packbits_gzip_bool": (integers("bool", 4000, 118), ["packbits", "gzip"]),
    "packbits_uint8": (bits("uint8", 800, 119), ["packbits"]),
    "constant_bool": (Input(dtype_by_name("bool"), b"\1" * 100, "100 times true"), [step("constant", element_words=1)]),
    "constant_float32": (constant(dtype_by_name("float32"), 100, 120), [step("constant", element_words=1)]),
    "constant_int64": (constant(dtype_by_name("int64"), 100, 121), [step("constant", element_words=1)]),
    "constant_complex64": (constant(dtype_by_name("complex64"), 50, 122), [step("constant", element_words=2)]),
    "constant_complex128": (constant(dtype_by_name("complex128"), 50, 123), [step("constant", element_words=2)]),
    "constant_opaque_3_bytes": (constant(opaque_dtype(94, 24), 50, 124), [step("constant", element_words=3)]),
    "constant_opaque_16_bytes": (constant(opaque_dtype(93, 128), 50, 125), [step("constant", element_words=16)]),
    "brotli_int16": (integers("int16", 600, 80), ["brotli"]),
    "brotli_0_opaque_4_bytes": (repeated(opaque_dtype(96, 32), 500, 81), [step("brotli", quality=0)]),
    "planes_brotli_5_float32": (weights("float32", 600, 82), ["planes", step("brotli", quality=5)]),
    "pcodec_float32_special": (special("float32", 1500, 83), [step("pcodec", number_type="float32")]),
    "pcodec_float64_special": (special("float64", 900, 84), [step("pcodec", number_type="float64")]),
    "pcodec_float16_special": (special("float16", 1500, 85), [step("pcodec", number_type="float16")]),
    "pcodec_bfloat16": (weights("bfloat16", 1500, 86), [step("pcodec", number_type="uint16")]),
    "pcodec_complex128": (integers("complex128", 300, 87), [step("pcodec", number_type="float64")]),
    "pcodec_12_int64": (integers("int64", 700, 88), [step("pcodec", level=12, number_type="int64")]),
    "pcodec_0_uint32": (integers("uint32", 700, 89), [step("pcodec", level=0, number_type="uint32")]),
    "pcodec_bool": (integers("bool", 1000, 90), [step("pcodec", number_type="uint8")]),
    "int8_block_64_pcodec_float32": (weights("float32", 1920, 91), ["int8_block", step("pcodec", number_type="int8")]),
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
    "int8_block_64_affine_float32": (offset("float32", 640, 130), ["int8_block"]),
    "int8_block_64_affine_float32_short_last_block": (offset("float32", 609, 131, exceptions=True), ["int8_block"]),
    "int8_block_32_affine_float16_exceptions": (offset("float16", 900, 132, exceptions=True), [int8_block(32)]),
    "int8_block_128_affine_float64_exceptions": (offset("float64", 601, 133, exceptions=True), [int8_block(128)]),
    "int8_block_64_affine_bfloat16_around_zero": (
        weights("bfloat16", 640, 134),
        [step("int8_block", variant="affine")],
    ),
    "int8_block_256_7_codes_affine_gzip_complex64": (
        offset("complex64", 700, 135),
        [step("int8_block", block_size=256, code_max=7), "gzip"],
    ),
    "int8_block_64_symmetric_float32_offset": (offset("float32", 640, 136), [step("int8_block", variant="symmetric")]),
    "int8_block_64_15_codes_huffman_float32": (
        weights("float32", 1500, 137),
        [step("int8_block", code_max=15), HUFFMAN],
    ),
    "int8_block_64_1_code_affine_gzip_float64": (offset("float64", 900, 138), [step("int8_block", code_max=1), "gzip"]),
    "int8_block_bitmap_float32": (sparse("float32", 901, 139), ["int8_block", "bitmap"]),
    "int8_block_constant_float32": (
        Input(dtype_by_name("float32"), np.full(300, 2.5, "<f4").tobytes(), "300 times 2.5, as float32"),
        ["int8_block", step("constant", element_words=1)],
    ),
    "int16_block_64_float32": (weights("float32", 640, 150), ["int16_block"]),
    "int16_block_64_affine_float32_exceptions": (offset("float32", 609, 151, exceptions=True), ["int16_block"]),
    "int16_block_64_float64_exceptions": (special("float64", 601, 152), ["int16_block"]),
    "int16_block_64_262_codes_planes_huffman_float32": (
        weights("float32", 3000, 153),
        [step("int16_block", code_max=262), "planes", HUFFMAN],
    ),
    "int16_block_32_100_codes_affine_planes_zstd_complex128": (
        offset("complex128", 900, 154),
        [step("int16_block", block_size=32, code_max=100), "planes", "zstd"],
    ),
    "int16_block_64_1000_codes_planes_gzip_float16": (
        weights("float16", 4000, 155),
        [step("int16_block", code_max=1000), "planes", "gzip"],
    ),
    "int4_block_32_float32": (weights("float32", 640, 40), ["int4_block"]),
    "int4_block_32_float32_odd_count": (weights("float32", 609, 41), ["int4_block"]),
    "int4_block_64_float32_exceptions": (special("float32", 901, 42), [step("int4_block", block_size=64)]),
    "int4_block_32_float16_exceptions": (special("float16", 900, 43), ["int4_block"]),
    "int4_block_32_bfloat16": (weights("bfloat16", 501, 44), ["int4_block"]),
    "int4_block_128_float64_exceptions": (special("float64", 601, 45), [step("int4_block", block_size=128)]),
    "int4_block_64_gzip_complex64": (integers("complex64", 700, 46), [step("int4_block", block_size=64), "gzip"]),
    "nf4_64_float32": (weights("float32", 640, 47), ["nf4"]),
    "nf4_64_float32_exceptions": (special("float32", 901, 48), ["nf4"]),
    "nf4_32_float16_exceptions": (special("float16", 900, 49), [step("nf4", block_size=32)]),
    "nf4_128_bfloat16": (weights("bfloat16", 501, 50), [step("nf4", block_size=128)]),
    "nf4_64_float64_exceptions": (special("float64", 601, 51), ["nf4"]),
    "nf4_64_gzip_complex128": (integers("complex128", 300, 52), ["nf4", "gzip"]),
    "fp8_e4m3fn_float32": (weights("float32", 600, 53), ["fp8_e4m3fn"]),
    "fp8_e4m3fn_float32_exceptions": (special("float32", 600, 54, largest=False), ["fp8_e4m3fn"]),
    "fp8_e4m3fn_float16_exceptions": (special("float16", 600, 55), ["fp8_e4m3fn"]),
    "fp8_e4m3fn_bfloat16": (weights("bfloat16", 600, 56), ["fp8_e4m3fn"]),
    "fp8_e4m3fn_float64_exceptions": (special("float64", 600, 57, largest=False), ["fp8_e4m3fn"]),
    "fp8_e4m3fn_huffman_complex64": (weights("complex64", 2000, 58), ["fp8_e4m3fn", HUFFMAN]),
    "fp8_e5m2_float32": (weights("float32", 600, 59), ["fp8_e5m2"]),
    "fp8_e5m2_float32_special": (special("float32", 600, 60), ["fp8_e5m2"]),
    "fp8_e5m2_float16_special": (special("float16", 600, 61, largest=False), ["fp8_e5m2"]),
    "fp8_e5m2_bfloat16": (weights("bfloat16", 600, 62), ["fp8_e5m2"]),
    "fp8_e5m2_float64_special": (special("float64", 600, 63, largest=False), ["fp8_e5m2"]),
    "fp8_e5m2_huffman_complex128": (weights("complex128", 2000, 64), ["fp8_e5m2", HUFFMAN]),
    "bitround_7_rotated_planes_huffman_float32_special": (
        special("float32", 1500, 65),
        ["bitround", "rotated_planes", HUFFMAN],
    ),
    "bitround_20_planes_zstd_float64_special": (
        special("float64", 600, 66),
        [step("bitround", keep_bits=20), "planes", "zstd"],
    ),
    "bitround_4_gzip_float16_special": (special("float16", 900, 67), [step("bitround", keep_bits=4), "gzip"]),
    "bitround_2_gzip_bfloat16": (weights("bfloat16", 900, 68), [step("bitround", keep_bits=2), "gzip"]),
    "bitround_0_gzip_complex64": (weights("complex64", 500, 69), [step("bitround", keep_bits=0), "gzip"]),
}
"""Per file: what goes in, and the codecs that it passes."""

DELTAS: dict[str, tuple[str, Input, list[str | dict[str, Any]]]] = {
    f"int_delta_{name}": (base, later(CHUNKS[base][0], share, step_max, seed), ["int_delta", *compressor])
    for name, base, share, step_max, seed, compressor in (
        ("1_bit_huffman_bfloat16", "rotated_planes_huffman_bfloat16", 0.05, 3, 200, [HUFFMAN]),
        ("2_bits_huffman_bfloat16", "rotated_planes_huffman_bfloat16", 0.5, 2, 201, [HUFFMAN]),
        ("0_bits_zstd_float32", "rotated_planes_huffman_float32", 0.95, 40_000, 202, ["zstd"]),
        ("1_bit_float64", "planes_gzip_float64", 0.1, 2**40, 203, []),
        ("2_bits_gzip_complex128", "rotated_planes_gzip_complex128", 0.5, 2, 204, ["gzip"]),
        ("2_bits_uint8", "packbits_uint8", 0.9, 1, 205, []),
        ("1_bit_uint8", "gzip_9_uint8", 0.1, 9, 206, []),
        ("2_bits_opaque_3_bytes", "raw_opaque_3_bytes", 0.3, 2, 207, []),
        ("1_bit_float32_special", "rotated_planes_zstd_float32_special", 0.01, 1, 208, []),
        ("of_equal_words_int64", "lz4_int64", 0.0, 1, 209, []),
    )
}
"""Per file: the file in CHUNKS that is its base, what goes in, and the codecs that it passes."""


def write_chunk_records(folder: Path) -> None:
    """Write a record per entry of CHUNKS, and a manifest of what each decodes to."""
    prefix = f"v{VERSION}_"
    manifest_path = folder / "manifest.json"
    older = json.loads(manifest_path.read_text()) if manifest_path.exists() else {}
    # Everything is made, and checked, before anything is written.
    made = {f"{prefix}{name}.bin": _chunk_record(source, steps) for name, (source, steps) in CHUNKS.items()}
    for name, (base_name, source, steps) in DELTAS.items():
        base_file = f"{prefix}{base_name}.bin"
        record, entry = _chunk_record(source, steps, Base(decode_chunk(made[base_file][0]), source.dtype))
        made[f"{prefix}{name}.bin"] = record, {**entry, "base": base_file}
    for path in folder.glob(f"{prefix}*.bin"):
        path.unlink()
    for name, (record, _) in made.items():
        (folder / name).write_bytes(record)
    manifest = {name: entry for name, entry in older.items() if not name.startswith(prefix)}
    manifest |= {name: entry for name, (_, entry) in made.items()}
    manifest_path.write_text(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n")


def _chunk_record(
    source: Input, steps: list[str | dict[str, Any]], base: Base | None = None
) -> tuple[bytes, dict[str, Any]]:
    encoding = Encoding.from_json([{"id": step} if isinstance(step, str) else step for step in steps])
    if base is None:
        planned = plan(StoragePolicy(encoding=encoding), source.dtype)
    else:
        planned = replace(plan(StoragePolicy(preset="none"), source.dtype), delta=encoding)
    chunk = encode_chunk(source.data, source.dtype, planned, base=base)
    if chunk.encoding != encoding:
        raise ValueError(f"{source.provenance} was to be stored as {encoding}, and would be as {chunk.encoding}")
    record = b"".join(bytes(piece) for piece in chunk.record)
    decoded = bytes(decode_chunk(record, base=base))
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
