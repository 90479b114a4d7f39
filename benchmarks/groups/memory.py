"""How much server and client grow while one large tensor passes through."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psutil

import tensorus
from groups.common import MIB, tensorus_server

TENSOR_MEBIBYTES = 1024
PRESETS = ("none", "lossless", "maximum")


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return MiB for a tensor of 1 GiB, whatever size the other groups use; the client's beyond the tensor itself."""
    del mebibytes, repeats
    values = np.random.default_rng(0).standard_normal(TENSOR_MEBIBYTES * 2**18, dtype=np.float32)
    rows = []
    for preset in PRESETS:
        with tensorus_server() as (address, pid), tensorus.connect(address) as client:
            client.create_dataset("d", preset=preset)
            watch = _Watch({"server": psutil.Process(pid), "client": psutil.Process()})
            client.insert("d", values, id="t")
            inserted = watch.take()
            found = client.get("d", "t", as_="numpy")
            got = watch.take()
            watch.stop()
            rows.append(
                {
                    "1 GiB, preset": preset,
                    "insert: server MiB": inserted["server"],
                    "insert: client MiB": inserted["client"],
                    "get: server MiB": got["server"],
                    "get: client MiB": got["client"] - found.nbytes / MIB,
                }
            )
            del found
    return rows


class _Watch:
    """Looks at resident memory a hundred times a second."""

    def __init__(self, processes: dict[str, psutil.Process]) -> None:
        self._processes = processes
        self._base = self._now()
        self._peak = dict(self._base)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> dict[str, float]:
        """Return the largest growth since the beginning."""
        return {name: (self._peak[name] - self._base[name]) / MIB for name in self._processes}

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _now(self) -> dict[str, int]:
        return {name: process.memory_info().rss for name, process in self._processes.items()}

    def _run(self) -> None:
        while not self._stopped.wait(0.01):
            self._peak = {name: max(size, self._peak[name]) for name, size in self._now().items()}
