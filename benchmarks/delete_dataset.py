"""Measures how long inserts wait while a large dataset is deleted, and how large the catalogue's log grows.

    python benchmarks/delete_dataset.py [--tensors 1000000] [--folder FOLDER]

It uses one store in this process. It fills a dataset with small tensors and deletes it; until the last tensor is removed,
another thread inserts small tensors one by one. It prints what a user would notice: the duration of the deletion, the longest
waits of inserts, and the largest size of the log. For comparison, the same inserts run alone first.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import numpy as np

import tensorus

_BATCH = 2000
_ALONE_S = 5.0


@dataclass
class Waits:
    """How long each insert took, and how large the log was at most."""

    seconds: list[float] = field(default_factory=list)
    log_bytes_max: int = 0

    def __str__(self) -> str:
        """Return the figures in one line."""
        ordered = sorted(self.seconds)
        worst = ", ".join(f"{1000 * seconds:.0f}" for seconds in ordered[:-4:-1])
        middle = 1000 * ordered[len(ordered) // 2]
        return f"{len(ordered)} inserts, median {middle:.1f} ms, longest {worst} ms; log at most {self.log_bytes_max >> 20} MiB"


def insert_until(client: tensorus.Client, folder: Path, over: threading.Event, waits: Waits) -> None:
    """Insert small tensors, one after the other, until `over` is set."""
    values = np.arange(64, dtype=np.float32)
    log = folder / "catalogue.db-wal"
    while not over.is_set():
        begun_s = time.perf_counter()
        client.insert("busy", values)
        waits.seconds.append(time.perf_counter() - begun_s)
        if log.exists():
            waits.log_bytes_max = max(waits.log_bytes_max, log.stat().st_size)


def measured(client: tensorus.Client, folder: Path, over: threading.Event) -> tuple[threading.Thread, Waits]:
    """Begin to insert on a thread."""
    waits = Waits()
    thread = threading.Thread(target=insert_until, args=(client, folder, over, waits))
    thread.start()
    return thread, waits


def fill(client: tensorus.Client, count: int) -> None:
    """Make the dataset that is to be deleted."""
    client.create_dataset("large")
    for start in range(0, count, _BATCH):
        client.insert_many(
            "large",
            [
                tensorus.NewTensor(
                    np.full(16, number, np.float32), id=f"layer.{number}", metadata={"step": number, "kind": "weight"}
                )
                for number in range(start, min(start + _BATCH, count))
            ],
        )


def wait_for_the_end(folder: Path) -> None:
    """Return when no tensor of a deleted dataset is left."""
    catalogue = apsw.Connection(str(folder / "catalogue.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        while catalogue.execute("SELECT 1 FROM dataset WHERE deleted_us IS NOT NULL").fetchall():
            time.sleep(0.1)
    finally:
        catalogue.close()


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensors", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the store; a temporary one otherwise")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with tensorus.open(folder) as client:
            client.create_dataset("busy")
            begun_s = time.perf_counter()
            fill(client, arguments.tensors)
            print(f"filled with {arguments.tensors} tensors in {time.perf_counter() - begun_s:.0f} s")
            over = threading.Event()
            thread, waits = measured(client, folder, over)
            time.sleep(_ALONE_S)
            over.set()
            thread.join()
            print(f"alone: {waits}")
            over = threading.Event()
            thread, waits = measured(client, folder, over)
            begun_s = time.perf_counter()
            deleted = client.delete_dataset("large")
            print(f"delete_dataset answered {deleted} after {1000 * (time.perf_counter() - begun_s):.0f} ms")
            wait_for_the_end(folder)
            over.set()
            thread.join()
            print(f"all rows were gone after {time.perf_counter() - begun_s:.0f} s; meanwhile: {waits}")


if __name__ == "__main__":
    main()
