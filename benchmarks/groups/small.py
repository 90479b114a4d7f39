"""Small tensors: many in one stream, and one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import tensorus
from groups.common import alternate, rates, tensorus_server

COUNT = 2000


def measure(*, mebibytes: int, repeats: int) -> list[dict[str, Any]]:
    """Return tensors of 4 KiB per second; inserts are durable."""
    del mebibytes
    values = np.random.default_rng(0).standard_normal((32, 32), dtype=np.float32)
    with tensorus_server() as (address, _), tensorus.connect(address) as client:
        client.create_dataset("d", preset="none")
        names = [f"kept-{number}" for number in range(COUNT)]
        client.insert_many("d", ((name, values) for name in names))
        numbers = itertools.count()

        def insert_one_by_one() -> None:
            for _ in range(COUNT // 10):
                client.insert("d", values, id=str(next(numbers)))

        contestants: dict[str, Callable[[], object]] = {
            "insert_many": lambda: client.insert_many("d", ((str(next(numbers)), values) for _ in range(COUNT))),
            "get_many": lambda: sum(1 for _ in client.get_many("d", names, as_="numpy")),
            "query, headers only": lambda: sum(1 for _ in client.query("d", limit=COUNT, with_data=False)),
            "insert, one by one": insert_one_by_one,
            "get, one by one": lambda: [client.get("d", name, as_="numpy") for name in names[: COUNT // 10]],
        }
        seconds = alternate(contestants, repeats)
    rows = []
    for name, runs in seconds.items():
        median, smallest, largest = rates(runs, COUNT // 10 if "one by one" in name else COUNT)
        rows.append({"4 KiB tensors": name, "per second": median, "from": smallest, "to": largest})
    return rows
