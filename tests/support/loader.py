"""A process that reads tensors in workers: a program, since workers are forked from, or spawned by, one.

    python loader.py ADDRESS DATASET

Prints, for each way to start workers, the first value of every tensor as they read them, then of each as this process reads it
afterwards. Forked ones are a `DataLoader`'s. Spawned ones are not: a `DataLoader` would pickle the same, and each would import
torch.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable
from typing import Any

import tensorus

WORKERS = 2
TENSORS = 20


class Tensors:
    """Tensors of a dataset, read with a client that was made, and used, elsewhere."""

    def __init__(self, client: tensorus.Client, dataset: str) -> None:
        self.client = client
        self.dataset = dataset

    def __len__(self) -> int:
        return TENSORS

    def __getitem__(self, position: int) -> float:
        return float(self.client.get(self.dataset, f"t{position}", as_="numpy").flatten()[0])


def main() -> None:
    """Read everything twice, in workers and here, for each way to start workers."""
    address, dataset = sys.argv[1:]
    ways = {"fork": in_forked_workers, "spawn": in_spawned_workers}
    json.dump({how: read(address, dataset, in_workers) for how, in_workers in ways.items()}, sys.stdout)


def in_forked_workers(tensors: Tensors) -> list[float]:
    """Read everything in the workers of a `DataLoader`."""
    import torch  # noqa: PLC0415 - spawned workers import this module

    loader: Any = torch.utils.data.DataLoader(
        tensors,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=WORKERS,
        multiprocessing_context="fork",
        timeout=30,
    )
    return [float(value) for value in loader]


def in_spawned_workers(tensors: Tensors) -> list[float]:
    """Read everything in processes to which the client is pickled."""
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        return pool.map_async(tensors.__getitem__, range(TENSORS)).get(30)


def read(address: str, dataset: str, in_workers: Callable[[Tensors], list[float]]) -> dict[str, object]:
    """Read everything in workers, and here."""
    with tensorus.connect(address) as client:
        tensors = Tensors(client, dataset)
        # The client is open and in use: it has a connection, and threads that decode.
        used = tensors[0]
        unfinished = client.query(dataset, as_="numpy")
        next(unfinished)
        by_workers = in_workers(tensors)
        again = [tensors[position] for position in range(TENSORS)]
        left = sum(1 for _ in unfinished)
    return {"used": used, "workers": by_workers, "again": again, "left": left}


if __name__ == "__main__":
    main()
