"""Stores with many tensors, created once for all groups."""

from __future__ import annotations

from pathlib import Path

from contestants import ours

from common.processes import Client
from common.settings import Settings

__all__ = ["DATASET", "filled_store"]

DATASET = "d"
"""Of the tensors in such a store."""


def filled_store(settings: Settings, count: int) -> Path:
    """Return the folder of a store with `count` tensors of 64 bytes; kept until the end of the run."""
    folder = settings.scratch / f"store-of-{count}"
    if not folder.exists():
        settings.report(f"filling a store with {count:,} tensors")
        with Client(ours.fill, str(folder), DATASET, count) as client:
            client.run("fill")
    return folder
