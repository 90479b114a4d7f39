"""Processes of a server that has several are ended: what was acknowledged stays, transfers go on, and nobody is left over."""

from __future__ import annotations

import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import MIB, RETRY_S, SENT_TWICE_MAX, WAIT_S, wait_until
from support.servers import ServerProcess
from support.workers import clients, of_each_worker, wait_for_workers, worker_pids
from tensorus.types import Progress
from tensorus_server.processes.port import ReservedPort

pytestmark = [pytest.mark.crash, pytest.mark.timeout(120)]

WRITERS = 2
LARGE = 64 * MIB
KILLED_AT = 40 * MIB

SIZES = (1, 1_000, 20_000, 300_000)
"""Elements: inline and in files."""


def content(tensor_id: str) -> np.ndarray:
    source = random.Random(tensor_id)
    return random_bits("float32", (source.choice(SIZES),), seed=source.randrange(2**32))


class Writer(threading.Thread):
    """Inserts until it is told to stop, whatever happens to the workers, and notes what was acknowledged."""

    def __init__(self, address: str, prefix: str, stopping: threading.Event) -> None:
        super().__init__(name=prefix, daemon=True)
        self.address = address
        self.prefix = prefix
        self.stopping = stopping
        self.acknowledged: list[str] = []
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with tensorus.connect(self.address, tune_allocator=False, retry_timeout_s=RETRY_S) as client:
                client.datasets()
                while not self.stopping.is_set():
                    tensor_id = f"{self.prefix}-{len(self.acknowledged)}"
                    client.insert("d", content(tensor_id), id=tensor_id)
                    self.acknowledged.append(tensor_id)
        except Exception as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error


class Killer:
    """Kills a process when a transfer has come so far, and notes how far it was from then on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._is_killed = False
        self.interruptions = 0
        self.after: list[int] = []

    def on_progress(self, progress: Progress) -> None:
        if self.interruptions:
            self.after.append(progress.done_bytes)
        elif progress.interruptions:
            self.interruptions = progress.interruptions
        elif progress.done_bytes >= KILLED_AT and not self._is_killed:
            # Once: progress may be reported again before the connection is seen to break.
            self._is_killed = True
            os.kill(self._pid, signal.SIGKILL)


def test_whoever_ends_nothing_is_lost_and_nobody_is_left(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", workers=2)
    large = random_bits("uint8", (LARGE,), seed=LARGE)
    stopping = threading.Event()
    writers = [Writer(server.address, f"writer-{number}", stopping) for number in range(WRITERS)]
    with of_each_worker(server, clients(server, retry_timeout_s=RETRY_S)) as found:
        first, second = found
        found[first].create_dataset("d", preset="none")
        for writer in writers:
            writer.start()
        wait_until(lambda: all(writer.acknowledged for writer in writers))
        # Its client comes to the other worker: this one is not back so soon.
        killer = Killer(first)
        found[first].insert("d", large, id="large", on_progress=killer.on_progress)
        assert killer.interruptions
        assert min(killer.after) >= KILLED_AT - SENT_TWICE_MAX
        wait_for_workers(server, 2, without=first)
        # Told to stop, it lets calls end; whoever comes meanwhile is told to come again.
        os.kill(second, signal.SIGTERM)
        wait_for_workers(server, 2, without=second)
        counts = [len(writer.acknowledged) for writer in writers]
        wait_until(lambda: all(len(w.acknowledged) > count for w, count in zip(writers, counts, strict=True)))
        stopping.set()
        for writer in writers:
            writer.join(WAIT_S)
            assert (writer.is_alive(), writer.failure) == (False, None)
    workers = [psutil.Process(pid) for pid in worker_pids(server)]
    server.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=WAIT_S)
    assert (len(workers), alive) == (2, [])
    # Whoever starts the server again finds the port free.
    ReservedPort(server.address).close()
    _, said = server.process.communicate(timeout=WAIT_S)
    for pid, how in ((first, "was ended by SIGKILL"), (second, "ended with exit code 0")):
        assert said.count(f"(process {pid}) {how}; it starts again in 0 s") == 1
    acknowledged = {tensor_id for writer in writers for tensor_id in writer.acknowledged}
    with tensorus.open(tmp_path / "store") as client:
        assert {info.id for info in client.list("d")} == {*acknowledged, "large"}
        assert_same_bits(client.get("d", "large", as_="numpy"), large)
        for record in client.get_many("d", sorted(acknowledged), as_="numpy"):
            assert_same_bits(record.tensor, content(record.info.id))
