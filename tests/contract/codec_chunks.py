"""Chunks for tests of the pipeline: encoding an array under a policy, and the record in one piece."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorus_codecs.dtypes import dtype_by_name
from tensorus_codecs.encoding import Encoding
from tensorus_codecs.pipeline import EncodedChunk, decode_chunk, encode_chunk
from tensorus_codecs.plan import plan
from tensorus_codecs.policy import StoragePolicy


def encoding_of(*steps: str | dict[str, Any]) -> Encoding:
    """Return the encoding of these codecs; a bare id stands for the defaults."""
    return Encoding.from_json([{"id": step} if isinstance(step, str) else step for step in steps])


def encode(values: np.ndarray[Any, Any], policy: StoragePolicy | Encoding | str, **contract: float) -> EncodedChunk:
    """Encode `values` as one chunk under a policy, an explicit encoding, or a preset."""
    if isinstance(policy, str):
        policy = StoragePolicy(preset=policy, **contract)
    elif isinstance(policy, Encoding):
        policy = StoragePolicy(encoding=policy, **contract)
    dtype = dtype_by_name(values.dtype.name)
    return encode_chunk(values.tobytes(), dtype, plan(policy, dtype))


def record_bytes(chunk: EncodedChunk) -> bytes:
    """Return the record as it is stored."""
    return b"".join(bytes(piece) for piece in chunk.record)


def stored_values(chunk: EncodedChunk, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return what a reader of the record gets, in the dtype of `values`."""
    return np.frombuffer(decode_chunk(record_bytes(chunk)), values.dtype)
