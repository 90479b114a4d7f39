"""The settings of a benchmark run, and the folders that it may write to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GIB", "KIB", "MEMORY_FOLDER", "MIB", "Settings"]

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MEMORY_FOLDER = Path("/dev/shm")
"""Where Linux keeps files in memory."""


@dataclass(frozen=True)
class Settings:
    """Of one run of the benchmark."""

    mebibytes: int
    """Size of a large tensor."""
    repeats: int
    """Measured runs of each contestant."""
    full: bool
    """Whether to take the sizes that need minutes and much disk."""
    scratch: Path
    """A folder for stores and files; removed at the end."""
    report: Callable[[str], None]
    """Says what goes on, on the progress line."""

    @property
    def tensors_max(self) -> int:
        """How many tensors the largest store has: 100,000 at the default of 256 MiB, a million in full."""
        return 1_000_000 if self.full else max(1_000, min(100_000, self.mebibytes * 400))

    @contextmanager
    def folder(self, *, within: Path | None = None) -> Iterator[Path]:
        """Make an empty folder on the file system of the stores, or below `within`; removed afterwards."""
        with tempfile.TemporaryDirectory(prefix="tensorus-bench-", dir=within or self.scratch) as folder:
            yield Path(folder)

    def missing_space(self, need_bytes: int, *, within: Path | None = None) -> str | None:
        """Return a sentence if less than `need_bytes` are free where folders are made; None if there is enough."""
        found = shutil.disk_usage(within or self.scratch).free
        if found >= need_bytes:
            return None
        return f"it needs {need_bytes / GIB:.1f} GiB, {found / GIB:.1f} GiB are free"
