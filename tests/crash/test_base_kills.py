"""SIGKILL in the middle of inserts with bases, deletions and sweeps: what was acknowledged is there, with all that it needs."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits
from support.deltas import FIRST, needed_payloads, next_step
from support.engine import find, set_aside_now
from support.servers import engine_config
from tensorus_server.app import open_engine
from tensorus_server.catalogue.abc import Order

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

KEPT = 3
"""Tensors of earlier steps that are kept."""

TRAIN_ON_AND_ON = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from crash.test_base_kills import train
train(Path(sys.argv[1]), int(sys.argv[2]))
"""


def values_of(number: int) -> np.ndarray[Any, Any]:
    """Return the values after a step; a tenth of the steps are far from the one before."""
    values = FIRST
    for step in range(number - number % 10, number):
        values = next_step(values, step)
    return values + np.uint16(number // 10)


def train(folder: Path, first: int) -> None:
    """Store step after step against the one before, in its own place and beside it, delete old ones, and sweep."""
    # Runs in a process that is killed, which a test reads the numbers of.
    from tensorus.embedded import EmbeddedBackend  # noqa: PLC0415

    backend = EmbeddedBackend(folder, lambda path: engine_config(path, delete_grace_s=0.0))
    with tensorus.Client(backend) as client:
        for number in range(first, 1_000_000):
            values = values_of(number)
            client.insert("d", values, id="newest", base="newest", on_conflict="replace")
            client.insert("d", values, id=str(number), base=str(number - 1), on_conflict="replace")
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            client.delete("d", str(number - KEPT))
            backend._engine.sweep(in_grace=True)


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_kills_lose_nothing_that_was_acknowledged_and_nothing_that_it_needs(tmp_path: Path, rounds: int) -> None:
    folder = tmp_path / "store"
    with tensorus.open(folder) as client:
        client.create_dataset("d", policy=tensorus.Policy(chunk_bytes=4096))
        for name in ("newest", "0"):
            client.insert("d", values_of(0), id=name)
    source = random.Random(rounds)
    number = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", TRAIN_ON_AND_ON, str(folder), str(number + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(source.randint(1, 12)):
                line = process.stdout.readline()
            process.kill()
            rest = process.stdout.read().split()
        number = int([line, *rest][-1])
        with tensorus.open(folder) as client:
            report = client.verify()
            assert report.is_intact, list(report.damages)
            newest = client.get("d", "newest", as_="numpy")
            assert_same_bits(newest, values_of(number if np.array_equal(newest, values_of(number)) else number + 1))
            for kept in range(max(number - KEPT + 1, 0), number + 1):
                assert_same_bits(client.get("d", str(kept), as_="numpy"), values_of(kept))
    check_files(folder)


def check_files(folder: Path) -> None:
    """Sweep: every file is needed, and when all tensors are deleted, none is left."""
    engine = open_engine(engine_config(folder, delete_grace_s=0.0))
    try:
        engine.sweep(in_grace=True)
        set_aside_now(engine)
        tensors = [find(engine, "d", tensor.id) for tensor in engine.list_tensors("d", None, Order())[0]]
        needed = set[str]().union(*(needed_payloads(engine, tensor) for tensor in tensors))
        assert {stored.key for stored in engine._chunk_store.published()} == needed
        engine.delete_tensors("d", [tensor.id for tensor in tensors])
        engine.sweep(in_grace=True)
        assert list(engine._chunk_store.published()) == []
    finally:
        engine.close()
