"""SIGKILL in the middle of edits: what was acknowledged is there once and in order, and nothing is there by halves."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits
from support.engine import set_aside_now
from support.interrupted import RETRY_S, WAIT_S
from support.servers import ServerProcess, engine_config
from tensorus_server.app import open_engine

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

ROW = 64
CELLS = 700
"""Rows of the tensor that is written into: 175 KiB, in 44 chunks."""

ROWS = (1, 3, 100, 1000, 5000)
"""Rows of one append: held in memory up to 4096; inline in the catalogue up to 256."""

EDIT_ON_AND_ON = f"""
import sys, tensorus
sys.path[:0] = {sys.path!r}
from crash.test_edit_kills import edit
with tensorus.open(sys.argv[1]) as client:
    for number in range(int(sys.argv[2]), 1_000_000):
        edit(client, number)
        print(number, flush=True)
"""


def rows_of(number: int) -> int:
    """Return how many rows an append has."""
    return random.Random(number).choice(ROWS)


def place_of(number: int) -> tuple[slice, slice]:
    """Return where a write goes."""
    source = random.Random(-number)
    first = source.randrange(CELLS)
    stop = min(first + source.choice((1, 5, 400)), CELLS)
    return slice(first, stop, source.choice((1, 3))), slice(source.randrange(ROW), None)


def edit(client: tensorus.Client, number: int) -> None:
    """Do the edit of this number: even ones append, odd ones write."""
    if number % 2 == 0:
        client.append("d", "log", np.full((rows_of(number), ROW), number, np.float32))
        return
    client.write("d", "cells", place_of(number), number)


def expected(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what both tensors are after so many edits."""
    appended = [np.full((rows_of(number), ROW), number, np.float32) for number in range(0, count, 2)]
    cells = np.zeros((CELLS, ROW), np.float32)
    for number in range(1, count, 2):
        cells[place_of(number)] = number
    return np.concatenate([np.zeros((1, ROW), np.float32), *appended]), cells


def create(client: tensorus.Client, preset: str) -> None:
    """Create both tensors as they are before the first edit."""
    client.create_dataset("d", policy=tensorus.Policy(preset, chunk_bytes=4096))
    for name, array in zip(("log", "cells"), expected(0), strict=True):
        client.insert("d", array, id=name)


def done_edits(client: tensorus.Client, acknowledged: int) -> int:
    """Check both tensors, and return how many edits were done: those that were acknowledged, and perhaps one more."""
    log = client.get("d", "log", as_="numpy")
    cells = client.get("d", "cells", as_="numpy")
    for count in (acknowledged, acknowledged + 1):
        if all(map(np.array_equal, (log, cells), expected(count))):
            return count
    pytest.fail(f"{acknowledged} edits were acknowledged; the log has {len(log)} rows, the last {log[-1, 0]}")


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize("preset", ["none", "lossless"])
def test_kills_of_a_process_lose_no_edit_and_repeat_none(tmp_path: Path, preset: str, rounds: int) -> None:
    folder = tmp_path / "store"
    with tensorus.open(folder) as client:
        create(client, preset)
    source = random.Random(rounds)
    done = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", EDIT_ON_AND_ON, str(folder), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(source.randint(1, 30)):
                line = process.stdout.readline()
            process.kill()
            # It may have acknowledged more before it was killed.
            rest = process.stdout.read().split()
        acknowledged = int(([line, *rest])[-1]) + 1
        with tensorus.open(folder) as client:
            done = done_edits(client, acknowledged)
            assert client.verify().is_intact
    check_files(folder, done)


def check_files(folder: Path, done: int) -> None:
    """Sweep, and read everything again; nothing is left that no tensor needs."""
    engine = open_engine(engine_config(folder, delete_grace_s=0.0))
    try:
        engine.sweep(in_grace=True)
        set_aside_now(engine)
    finally:
        engine.close()
    with tensorus.open(folder) as client:
        assert done_edits(client, done) == done
        client.delete("d", ["log", "cells"])
    engine = open_engine(engine_config(folder, delete_grace_s=0.0))
    try:
        engine.sweep(in_grace=True)
    finally:
        engine.close()
    assert list((folder / "chunks").glob("*/*")) == []
    assert [*(folder / "tmp").glob("*/*"), *(folder / "uploads").iterdir()] == []


class Appender(threading.Thread):
    """Appends through kills of the server until it is told to stop."""

    def __init__(self, address: str, number: int, stopping: threading.Event) -> None:
        super().__init__(name=f"appender-{number}", daemon=True)
        self.address = address
        self.number = number
        self.stopping = stopping
        self.done = 0
        self.failure: Exception | None = None
        self.more = threading.Event()

    def run(self) -> None:
        try:
            with tensorus.connect(self.address, tune_allocator=False, retry_timeout_s=RETRY_S) as client:
                client.datasets()
                while not self.stopping.is_set():
                    client.append("d", "log", np.full((10, ROW), 10 * self.done + self.number, np.float32))
                    self.done += 1
                    self.more.set()
        except Exception as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error
            self.more.set()


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.long)])
def test_a_client_whose_server_is_killed_appends_once(tmp_path: Path, kills: int) -> None:
    folder = tmp_path / "store"
    server = ServerProcess(folder)
    port = int(server.address.rpartition(":")[2])
    with tensorus.connect(server.address) as client:
        create(client, "none")
    stopping = threading.Event()
    appenders = [Appender(server.address, number, stopping) for number in range(4)]
    for appender in appenders:
        appender.start()
    source = random.Random(kills)
    for _ in range(kills):
        for _ in range(source.randint(1, 5)):
            for appender in appenders:
                appender.more.clear()
                assert appender.more.wait(WAIT_S)
                assert appender.failure is None
        server.kill()
        server = ServerProcess(folder, port=port)
    stopping.set()
    for appender in appenders:
        appender.join(WAIT_S)
        assert (appender.is_alive(), appender.failure) == (False, None)
    assert server.terminate() == 0
    with tensorus.open(folder) as client:
        found = client.get("d", "log", as_="numpy")[1:].reshape(-1, 10 * ROW)
        assert_same_bits(found, np.repeat(found[:, :1], 10 * ROW, axis=1))
        order = found[:, 0].astype(int).tolist()
        for appender in appenders:
            mine = [value // 10 for value in order if value % 10 == appender.number]
            assert mine == list(range(appender.done))
