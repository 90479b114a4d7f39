"""What a store says of a tensor, with every field filled: a test names the fields that it is about."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tensorus.types import TensorInfo


def tensor_info(**fields: Any) -> TensorInfo:
    """Return the record of a float32 tensor of shape (2, 3), stored as it is, with these fields changed."""
    filled: dict[str, Any] = {
        "dataset": "d",
        "id": "t",
        "dtype": "float32",
        "shape": (2, 3),
        "metadata": {},
        "chunk_bytes": 1_048_576,
        "generation": 1,
        "ordinal": 1,
        "canonical_bytes": 24,
        "quantized_bytes": 24,
        "stored_bytes": 48,
        "lossy": False,
        "relative_error": 0.0,
        "max_absolute_error": 0.0,
        "encodings": (),
        "fallback_reason": "",
        "values": None,
        "source_checksum": "",
        "value_checksum": "",
        "created": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    }
    return TensorInfo(**{**filled, **fields})
