"""Whether an insert costs more as its dataset grows."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

import tensorus
from groups.common import tensorus_server

MARKS = (100, 1_000, 10_000)
PROBES = 100


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return the median time of one durable insert of 4 KiB, at several sizes of the dataset."""
    del mebibytes, repeats
    values = np.random.default_rng(0).standard_normal((32, 32), dtype=np.float32)
    rows = []
    with tensorus_server() as (address, _), tensorus.connect(address) as client:
        client.create_dataset("d")
        count = 0
        for mark in MARKS:
            client.insert_many("d", (values for _ in range(mark - count)))
            seconds = []
            for number in range(PROBES):
                started = time.perf_counter()
                client.insert("d", values, metadata={"number": number})
                seconds.append(time.perf_counter() - started)
            count = mark + PROBES
            rows.append({"tensors in the dataset": f"{mark:,}", "ms per insert": 1000 * statistics.median(seconds)})
    return rows
