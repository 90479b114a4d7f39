"""The disk alone: the upper limit of a durable insert's speed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from common.client_process import Action
from common.settings import MIB
from common.values import normal

__all__ = ["writes"]


def writes(folder: str, mebibytes: int) -> dict[str, Action]:
    """Return "write": a new file of so many MiB in blocks of 1 MiB, synced, and nothing else; and "remove" of it."""
    data = memoryview(normal(mebibytes)).cast("B")
    path = Path(folder) / "file"
    return {"write": partial(_write, path, data), "remove": path.unlink}


def _write(path: Path, data: memoryview) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        for start in range(0, data.nbytes, MIB):
            os.write(file, data[start : start + MIB])
        os.fdatasync(file)
    finally:
        os.close(file)
