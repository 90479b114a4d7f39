"""A server under mixed load for a while: descriptors, memory and the catalogue's log do not grow.

Clients insert, read, query, replace, append and delete, and break off inserts and reads. What they store stays about the same;
deleted payloads are swept while they work.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import wait_until
from support.power_mutants import SWEEPS_OFTEN
from support.servers import ServerProcess

_log = logging.getLogger(__name__)
"""For figures: `--log-cli-level=INFO` shows them."""

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

CLIENTS = 4
TENSORS = 30
"""Of each client."""
SIZES = (100, 5_000, 60_000, 700_000)
"""Elements of float32."""

LOG_BYTES_MAX = 64 * 1024 * 1024
"""What the catalogue's log is cut to at the latest (`journal_size_limit`)."""
MEMORY_PER_MINUTE_MAX = 1024 * 1024
MEMORY_MAX = 512 * 1024 * 1024
"""In a short run: the server's memory budget is larger, so this only notices that something is never let go."""

WINDOW_S = 30.0
"""The memory of a window is its minimum: what was not given back between calls."""


class BrokenOffError(Exception):
    """Ends an insert in the middle."""


class Client(threading.Thread):
    """Does one thing after another to tensors of its own until it is told to stop."""

    def __init__(self, number: int, address: str, stopping: threading.Event) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._source = random.Random(number)
        self._number = number
        self._address = address
        self._stopping = stopping
        self._seeds: dict[str, int] = {}
        self.operations = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        kinds = [self._insert, self._replace, self._read, self._query, self._break_off_insert, self._break_off_read]
        try:
            with tensorus.connect(self._address, tune_allocator=False) as client:
                while not self._stopping.is_set():
                    self._source.choices(kinds, [4, 3, 8, 3, 2, 2])[0](client)
                    self.operations += 1
        except Exception as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error

    def _insert(self, client: tensorus.Client) -> None:
        if len(self._seeds) >= TENSORS:
            gone = self._source.sample(sorted(self._seeds), TENSORS // 2)
            client.delete("d", gone)
            for tensor_id in gone:
                del self._seeds[tensor_id]
        seed = self._source.randrange(2**32)
        tensor_id = f"{self._number}-{seed}"
        client.insert("d", content(seed), id=tensor_id, metadata={"client": self._number})
        self._seeds[tensor_id] = seed

    def _replace(self, client: tensorus.Client) -> None:
        if not self._seeds:
            return
        tensor_id, seed = self._source.choice(sorted(self._seeds)), self._source.randrange(2**32)
        generation = client.info("d", tensor_id).generation
        client.insert(
            "d", content(seed), id=tensor_id, metadata={"client": self._number}, if_generation_match=generation
        )
        self._seeds[tensor_id] = seed
        if self._source.random() < 0.5:
            client.append("d", tensor_id, np.zeros(10, np.float32))
            client.delete("d", tensor_id)
            del self._seeds[tensor_id]

    def _read(self, client: tensorus.Client) -> None:
        ids = self._source.sample(sorted(self._seeds), min(3, len(self._seeds)))
        for record in client.get_many("d", ids, as_="numpy"):
            assert_same_bits(record.tensor, content(self._seeds[record.info.id]))

    def _query(self, client: tensorus.Client) -> None:
        found = {info.id for info in client.list("d", f"client = {self._number}")}
        assert found <= set(self._seeds)

    def _break_off_insert(self, client: tensorus.Client) -> None:
        def tensors() -> Iterator[tensorus.NewTensor]:
            array = content(self._source.randrange(2**32))
            yield tensorus.NewTensor(array, f"never-{self._number}", {"client": self._number})
            raise BrokenOffError

        with pytest.raises(BrokenOffError):
            client.insert_many("d", tensors(), all_or_nothing=True)

    def _break_off_read(self, client: tensorus.Client) -> None:
        records = client.get_many("d", sorted(self._seeds), as_="numpy")
        next(records, None)
        records.close()


def content(seed: int) -> np.ndarray[Any, Any]:
    return random_bits("float32", (SIZES[seed % len(SIZES)],), seed=seed)


class Soak:
    """A server, and what it takes while it is under load."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.server = ServerProcess(folder, program=["-c", SWEEPS_OFTEN])
        self._process = psutil.Process(self.server.process.pid)
        # Whoever logs into a pipe that nobody reads waits for ever.
        self._log = threading.Thread(target=self._read_log, name="log", daemon=True)
        self._log.start()
        with tensorus.connect(self.server.address) as client:
            client.create_dataset("d", schema=tensorus.Schema(metadata={"client": int}))
        self.memory: list[tuple[float, int]] = []
        """Resident bytes, by the time in seconds."""
        self.log_bytes = 0
        """The most that there was."""
        self.operations = 0
        self._clients = 0

    def load(self, seconds: float) -> None:
        """Let clients work for a while, and wait until their connections are gone."""
        stopping = threading.Event()
        clients = [Client(self._clients + number, self.server.address, stopping) for number in range(CLIENTS)]
        self._clients += CLIENTS
        for client in clients:
            client.start()
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s and all(map(threading.Thread.is_alive, clients)):
            self._sample()
            stopping.wait(min(1.0, seconds / 10))
        stopping.set()
        for client in clients:
            client.join(60)
            assert (client.is_alive(), client.failure) == (False, None)
            self.operations += client.operations
        wait_until(lambda: not self._process.net_connections(kind="tcp")[1:])

    def end(self) -> int:
        """Tell the server to end, and return its exit code."""
        self.server.process.terminate()
        return self.server.process.wait(60)

    def close(self) -> None:
        """End the server, however it is."""
        self.server.process.kill()
        self.server.process.wait()
        self._log.join()
        for pipe in (self.server.process.stdout, self.server.process.stderr):
            assert pipe is not None
            pipe.close()

    def _read_log(self) -> None:
        assert self.server.process.stderr is not None
        for line in self.server.process.stderr:
            _log.debug("%s", line)

    def descriptors(self) -> int:
        return self._process.num_fds()

    def _sample(self) -> None:
        self.memory.append((time.monotonic(), self._process.memory_info().rss))
        log = self._folder / "catalogue.db-wal"
        self.log_bytes = max(self.log_bytes, log.stat().st_size if log.exists() else 0)


def slope_of_minima(samples: list[tuple[float, int]]) -> float:
    """Return by how many bytes a minute the minima of windows grow: the line that fits them best."""
    begin_s = samples[0][0]
    windows: dict[int, int] = {}
    for at_s, found in samples:
        window = int((at_s - begin_s) / WINDOW_S)
        windows[window] = min(found, windows.get(window, found))
    minutes = np.array(sorted(windows)) * WINDOW_S / 60
    return float(np.polyfit(minutes, [windows[window] for window in sorted(windows)], 1)[0])


@pytest.mark.parametrize(
    ("warm_up_s", "seconds"),
    [(1.0, 3.0), pytest.param(120.0, 600.0, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
    ids=["short", "long"],
)
def test_a_server_under_load_does_not_grow(tmp_path: Path, warm_up_s: float, seconds: float) -> None:
    soak = Soak(tmp_path / "store")
    try:
        soak.load(warm_up_s)
        descriptors = soak.descriptors()
        soak.memory.clear()
        soak.load(seconds)
        # SQLite's connections for reads are opened when they are needed; each has three files.
        wait_until(lambda: soak.descriptors() <= descriptors + 12)
        found = soak.descriptors()
        growth = slope_of_minima(soak.memory) if seconds > 4 * WINDOW_S else 0.0
        peak = max(size for _, size in soak.memory)
        _log.info(
            "%d operations: descriptors %d and %d, log %d bytes, memory from %d to %d bytes, %.0f bytes a minute",
            soak.operations,
            descriptors,
            found,
            soak.log_bytes,
            soak.memory[0][1],
            peak,
            growth,
        )
        assert 0 < soak.log_bytes <= LOG_BYTES_MAX
        assert growth < MEMORY_PER_MINUTE_MAX
        assert peak < soak.memory[0][1] + MEMORY_MAX
        assert soak.end() == 0
    finally:
        soak.close()
