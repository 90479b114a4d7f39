"""A process that reads tensors in the workers of a `DataLoader`: a program, since workers are forked from, or spawned by, one.

    python loader.py ADDRESS DATASET fork|spawn

Prints the first value of every tensor as the workers read them, then of each as this process reads it afterwards.
"""

from __future__ import annotations

import json
import sys

import torch

import tensorus

WORKERS = 4
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
    """Read everything twice: in workers, and here."""
    address, dataset, how = sys.argv[1:]
    with tensorus.connect(address) as client:
        tensors = Tensors(client, dataset)
        # The client is open and in use: it has a connection, and threads that decode.
        used = tensors[0]
        unfinished = client.query(dataset)
        next(unfinished)
        loader = torch.utils.data.DataLoader(
            tensors, batch_size=None, num_workers=WORKERS, multiprocessing_context=how, timeout=30
        )
        read = [float(value) for value in loader]
        again = [tensors[position] for position in range(TENSORS)]
        left = sum(1 for _ in unfinished)
    json.dump({"used": used, "workers": read, "again": again, "left": left}, sys.stdout)


if __name__ == "__main__":
    main()
