"""Measures the duration of each call of `TensorStorage`, in memory and in a folder.

    python benchmarks/storage_calls.py [--calls 1000] [--folder FOLDER]

Both stores are in this process, and take turns. Records are float32 tensors of 1 KiB with two fields of metadata. Prints, for
each call, the median in microseconds and the processor time; of a batch, for each of its records. On a disk, what a folder's
writes take is mostly the disk's sync.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tensorus.tensor_storage import TensorStorage

_TURNS = 10
"""In which the calls are made: a machine that is busy for a moment is so for both."""

_SMALL = 20
"""Records of the dataset that is counted and searched."""

_BATCH = 100


@dataclass
class Times:
    """Of one call on one store."""

    seconds: list[float] = field(default_factory=list)
    cpu_s: float = 0.0

    def measure(self, call: Callable[[int], object], numbers: range, per: int) -> None:
        """Make the calls; each counts as `per`."""
        cpu_s = time.process_time()
        for number in numbers:
            begun_s = time.perf_counter()
            call(number)
            self.seconds.append((time.perf_counter() - begun_s) / per)
        self.cpu_s += (time.process_time() - cpu_s) / per

    def __str__(self) -> str:
        """Return median and processor time of a call."""
        return f"{1e6 * statistics.median(self.seconds):8.0f} µs, {1e6 * self.cpu_s / len(self.seconds):6.0f} µs of a processor"


class Calls:
    """What is called on one store."""

    def __init__(self, storage: TensorStorage, values: list[np.ndarray]) -> None:
        """Make the datasets."""
        self._storage = storage
        self._values = values
        self._ids: list[str] = []
        for name in ("records", "named", "small", "batches"):
            storage.create_dataset(name)
        for number in range(_SMALL):
            storage.insert("small", values[0], {"number": number, "kind": "weight"})
        # The first read imports torch, where it is installed.
        storage.get_dataset("small")
        self.times: dict[str, Times] = {}

    def turn(self, numbers: range) -> None:
        """Make every call once for each number."""
        storage, metadata = self._storage, {"kind": "weight"}
        values, ids = self._values, self._ids

        def insert(number: int) -> None:
            ids.append(storage.insert("records", values[number], {"number": number, **metadata}))

        def insert_named(number: int) -> None:
            storage.insert("named", values[number], {"record_id": f"r{number}", "number": number, **metadata})

        def batch_insert(_: int) -> None:
            storage.batch_insert("batches", [(values[0], metadata)] * _BATCH)

        every_tenth = range(0, len(numbers), 10)
        self._measure("insert", insert, numbers)
        self._measure("insert, with an id", insert_named, numbers)
        self._measure("get_tensor_by_id", lambda number: storage.get_tensor_by_id("records", ids[number]), numbers)
        self._measure(
            "update_tensor_metadata", lambda n: storage.update_tensor_metadata("records", ids[n], metadata), numbers
        )
        self._measure("delete_tensor", lambda number: storage.delete_tensor("records", ids[number]), numbers)
        self._measure("count, of 20", lambda _: storage.count("small"), numbers)
        self._measure(
            "query_by_metadata, 1 of 20", lambda n: storage.query_by_metadata("small", "number", n % _SMALL), numbers
        )
        self._measure("batch_insert, a record", batch_insert, every_tenth, _BATCH)

    def _measure(self, name: str, call: Callable[[int], object], numbers: range, per: int = 1) -> None:
        self.times.setdefault(name, Times()).measure(call, numbers, per)


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, help="of each method")
    parser.add_argument("--folder", type=Path, help="for the store that is not in memory; a temporary one otherwise")
    arguments = parser.parse_args()
    calls = max(arguments.calls, _TURNS)
    source = np.random.default_rng(0)
    values = [source.standard_normal(256, np.float32) for _ in range(calls)]
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as name,
        TensorStorage(None) as memory,
        TensorStorage(name) as folder,
    ):
        stores = {"memory": Calls(memory, values), "folder": Calls(folder, values)}
        step = calls // _TURNS
        for start in range(0, step * _TURNS, step):
            for store in stores.values():
                store.turn(range(start, start + step))
        for call in stores["memory"].times:
            print(call)
            for kind, store in stores.items():
                print(f"    {kind}  {store.times[call]}")


if __name__ == "__main__":
    main()
