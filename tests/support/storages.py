"""Records for tests of `TensorStorage`."""

from __future__ import annotations

from typing import Any

import torch

from tensorus.tensor_storage import TensorStorage


def filled(storage: TensorStorage, count: int = 5) -> list[str]:
    """Make a dataset of vectors, the first of them full of 0, the second of 1, and so on."""
    storage.create_dataset("numbers")
    return [storage.insert("numbers", torch.full((4,), float(n)), {"n": n, "odd": n % 2 == 1}) for n in range(count)]


def first_values(records: list[dict[str, Any]]) -> list[float]:
    """Return the first value of each record's tensor."""
    return [record["tensor"][0].item() for record in records]
