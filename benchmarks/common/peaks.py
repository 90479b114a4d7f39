"""Measures how far processes grow while something runs.

Linux records the peak resident size of each process. If the system allows resetting it, the result is exact. Otherwise a thread
samples the size two hundred times per second.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

__all__ = ["Growth"]

_LOOK_EVERY_S = 0.005


class Growth:
    """A context; afterwards `peak_bytes` is the peak of resident memory over what it was at the beginning.

    Of several processes it is the sum of their peaks, which they need not have reached at once.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        """Watch these processes."""
        self._pids = pids
        self._processes = [psutil.Process(pid) for pid in pids]
        self._stopped = threading.Event()
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        """Begin."""
        self._exact = all(_set_back(pid) for pid in self._pids)
        self._base_bytes = self._now()
        if not self._exact:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        if self._exact:
            self.peak_bytes = max(0, sum(map(_largest, self._pids)) - self._base_bytes)
        else:
            self._stopped.set()
            self._thread.join()

    def _now(self) -> int:
        return sum(process.memory_info().rss for process in self._processes)

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, self._now() - self._base_bytes)


def _set_back(pid: int) -> bool:
    """Set the largest size to the present one; return whether the system allows it. Source: proc_pid_clear_refs(5)."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _largest(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
