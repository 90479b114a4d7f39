"""Whole files of Tensorus 0.1, read at once, for tests of what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorus.old_files import OldDataset, OldRecord


def read(path: Path, **options: Any) -> tuple[OldDataset, list[OldRecord]]:
    """Return a file's dataset, which is closed, and all of its records."""
    with OldDataset(path, **options) as old:
        return old, list(old.records())


def read_bytes(folder: Path, data: bytes) -> tuple[OldDataset, list[OldRecord]]:
    """Do so with a file of these bytes."""
    (folder / "old.pt").write_bytes(data)
    return read(folder / "old.pt")
