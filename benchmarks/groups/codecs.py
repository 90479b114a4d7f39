"""Codecs on one core, chunk by chunk of 1 MiB: ours beside those that people use today, on the same arrays.

This group runs in the benchmark's own process: codecs are functions, and there is nothing to serve.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from common.result import GIGABYTES, Bar, Bars, Figure, Picture, Row, Spread, Table
from common.runs import Contestant, Here, Measured, alternate
from common.settings import MIB, Settings
from common.values import Array, normal, real_weights
from contestants import codec_peers
from contestants.codec_peers import Codec

from tensorus._allocator import tune_allocator
from tensorus_codecs.dtypes import DType, dtype_by_name
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import ChunkPlan, plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed

__all__ = ["measure"]

CHUNKS = 8
"""Of each array: enough that a choice serves several."""

LOGARITHMIC_ABOVE = 100
"""Ratio from which on a picture's axis is logarithmic."""

LOSSY_PRESETS = ("balanced", "bf16", "maximum", "extreme", "fp16_only", "int8_only")
LOSSLESS_PRESETS = ("lossless", "fast")

NOTES = (
    "Ratio: bytes before over bytes after. Error: relative, L2. One thread: processor time is time.",
    "The original: measured once, on another machine.",
)


def measure(settings: Settings) -> Table:
    """Return ratio, error and GB/s of canonical bytes, one thread, for each kind of values and each contestant."""
    # As a server does: otherwise every fresh megabyte is mapped, touched and unmapped.
    tune_allocator()
    rows: list[Row] = []
    panels: list[Bars] = []
    for name, values in _arrays().items():
        for_table, for_picture = _measure_one(name, values, settings)
        rows += for_table
        panels += for_picture
    rows += [_original(*figures) for figures in codec_peers.ORIGINAL]
    title = f"codecs, one thread, chunks of 1 MiB, {CHUNKS} MiB of each"
    return Table(title, "values", rows, Picture(title, panels, columns=3), NOTES)


def _arrays() -> dict[str, Array]:
    """Return what is measured: real weights where the demo's model is installed, and generated data."""
    random = np.random.default_rng(0)
    count = CHUNKS * MIB // 4
    real = real_weights()
    weights = normal(CHUNKS) if real is None else real[:count]
    sparse = np.where(random.random(count) < 0.1, random.standard_normal(count), 0)
    picture = np.cumsum(random.integers(-3, 4, (2048, 1366, 3)), axis=1).clip(-120, 120) + 128
    return {
        "float32 weights": weights,
        "bfloat16 weights": np.concatenate([weights, weights]).astype(ml_dtypes.bfloat16),
        "float32, 90 % zeros": sparse.astype(np.float32),
        "int64 ids, sequential": np.arange(count // 2) + 10**9,
        "bool, 5 % ones": random.random(4 * count) < 0.05,
        "uint8 picture": picture.astype(np.uint8).ravel()[: 4 * count],
        "random bytes": np.frombuffer(random.bytes(4 * count), np.uint8),
    }


def _measure_one(name: str, values: Array, settings: Settings) -> tuple[list[Row], list[Bars]]:
    data = memoryview(values.view(np.uint8)).cast("B")
    chunks = [data[start : start + MIB] for start in range(0, data.nbytes, MIB)]
    codecs = [*_ours(values), *codec_peers.codecs(values.dtype)]
    encoded = {one.name: [one.encode(chunk) for chunk in chunks] for one in codecs}
    contestants: dict[str, Contestant] = {}
    for one in codecs:
        contestants[f"{one.name} encode"] = Here(partial(_each, one.encode, chunks))
        contestants[f"{one.name} decode"] = Here(partial(_each, one.decode, encoded[one.name]))
    found = alternate(contestants, settings.repeats, lambda text: settings.report(f"{name}: {text}"))
    rows: list[Row] = []
    bars: tuple[list[Bar], ...] = ([], [], [])
    for one in codecs:
        ratio = data.nbytes / sum(map(len, encoded[one.name]))
        error = _error(values, [one.decode(piece) for piece in encoded[one.name]])
        encode, decode = (_speed(found[f"{one.name} {verb}"], data.nbytes) for verb in ("encode", "decode"))
        rows.append(Row(name, _figures(one.name, ratio, error, encode, decode)))
        label = one.name if error == "exact" else f"{one.name} ({error})"
        for into, spread in zip(bars, (Spread(ratio, ratio, ratio), encode, decode), strict=True):
            into.append(Bar(label if into is bars[0] else "", spread, one.name.startswith("Tensorus")))
    widely = max(bar.spread.median for bar in bars[0]) > LOGARITHMIC_ABOVE
    ratios = Bars(name, "ratio, logarithmic" if widely else "ratio", bars[0], logarithmic=widely)
    return rows, [ratios, Bars("", "encode, GB/s", bars[1]), Bars("", "decode, GB/s", bars[2])]


def _speed(measured: Measured, size: int) -> Spread:
    return GIGABYTES.spread(measured, size / 1e9)


def _figures(codec: str, ratio: float, error: str, encode: Spread, decode: Spread) -> dict[str, Figure]:
    return {
        "codec": codec,
        "ratio": ratio,
        "error": error,
        "encode GB/s": encode.median,
        "encode from": encode.smallest,
        "encode to": encode.largest,
        "decode GB/s": decode.median,
        "decode from": decode.smallest,
        "decode to": decode.largest,
    }


def _original(preset: str, insert_mb_s: float, get_mb_s: float, ratio: float, error: float) -> Row:
    return Row(
        "float32 N(0, 0.02)",
        {
            "codec": f"the original's {preset}, whole inserts and reads",
            "ratio": ratio,
            "error": f"{error:.1e}" if error else "exact",
            "encode GB/s": insert_mb_s / 1000,
            "decode GB/s": get_mb_s / 1000,
        },
    )


def _ours(values: Array) -> list[Codec]:
    """Return the presets that do something of their own with these values."""
    dtype = dtype_by_name(values.dtype.name)
    found = []
    for preset in (*LOSSLESS_PRESETS, *LOSSY_PRESETS):
        planned = plan(StoragePolicy(preset=preset), dtype)
        if preset in LOSSLESS_PRESETS or planned.lossy is not None:
            found.append(Codec(f"Tensorus {preset}", _Encoder(planned, dtype), decode_chunk))
    return found


class _Encoder:
    """Encodes chunks as a writer does: a choice for every so many."""

    def __init__(self, planned: ChunkPlan, dtype: DType) -> None:
        self._planned = self._narrowed = planned
        self._dtype = dtype
        self._count = 0

    def __call__(self, chunk: memoryview) -> bytes:
        if self._count % CHOOSE_EVERY_CHUNKS == 0:
            self._narrowed = narrowed(self._planned, chunk, self._dtype)
        self._count += 1
        return b"".join(bytes(piece) for piece in encode_chunk(chunk, self._dtype, self._narrowed).record)


# `Any`: chunks, or their records.
def _each(work: Callable[[Any], object], pieces: list[Any]) -> None:
    for piece in pieces:
        work(piece)


def _error(values: Array, decoded: list[Any]) -> str:
    """Return the relative L2 error, "exact" where every bit is the same."""
    found = b"".join(bytes(memoryview(piece)) for piece in decoded)
    if found == values.tobytes():
        return "exact"
    sent = values.astype(np.float64)
    difference = np.frombuffer(found, values.dtype).astype(np.float64) - sent
    return f"{float(np.linalg.norm(difference) / np.linalg.norm(sent)):.1e}"
