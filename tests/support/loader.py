"""A process that reads tensors in the workers of a `DataLoader`: a program, since workers are forked from, or spawned by, one.

    python loader.py ADDRESS DATASET

Prints, for each way to start workers, the first value of every tensor as they read them, then of each as this process reads it
afterwards.
"""

from __future__ import annotations

import json
import sys

import torch

import tensorus

WORKERS = 2
TENSORS = 20


class Tensors(torch.utils.data.Dataset):
    """Tensors of a dataset, read with a client that was made, and used, elsewhere."""

    def __init__(self, client: tensorus.Client, dataset: str) -> None:
        self.client = client
        self.dataset = dataset

    def __len__(self) -> int:
        return TENSORS

    def __getitem__(self, position: int) -> float:
        return float(self.client.get(self.dataset, f"t{position}").flatten()[0])


def main() -> None:
    """Read everything twice, in workers and here, for each way to start workers."""
    address, dataset = sys.argv[1:]
    json.dump({how: read(address, dataset, how) for how in ("fork", "spawn")}, sys.stdout)


def read(address: str, dataset: str, how: str) -> dict[str, object]:
    """Read everything in workers that are started in this way, and here."""
    with tensorus.connect(address) as client:
        tensors = Tensors(client, dataset)
        # The client is open and in use: it has a connection, and threads that decode.
        used = tensors[0]
        unfinished = client.query(dataset)
        next(unfinished)
        loader = torch.utils.data.DataLoader(
            tensors, batch_size=None, num_workers=WORKERS, multiprocessing_context=how, timeout=30
        )
        in_workers = [float(value) for value in loader]
        again = [tensors[position] for position in range(TENSORS)]
        left = sum(1 for _ in unfinished)
    return {"used": used, "workers": in_workers, "again": again, "left": left}


if __name__ == "__main__":
    main()
