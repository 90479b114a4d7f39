"""SIGKILL in the middle of inserts of equal tensors: what was acknowledged can be read, and no bytes are kept twice or lost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.engine import set_aside_now
from support.servers import engine_config
from tensorus_server.app import open_engine
from tensorus_server.catalogue.abc import Order
from tensorus_server.model import Tensor

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

VALUES = [random_bits("uint8", (200_000,), seed=seed) for seed in range(3)]

STEP_ON_AND_ON = f"""
import sys, tensorus
sys.path[:0] = {sys.path!r}
from crash.test_content_kills import step
with tensorus.open(sys.argv[1]) as client:
    for number in range(int(sys.argv[2]), 1_000_000):
        step(client, number)
        print(number, flush=True)
"""


def value_of(number: int) -> np.ndarray:
    """Return the values that the tensor of this number has; those of each 40 follow another order."""
    return VALUES[random.Random(number).randrange(len(VALUES))]


def step(client: tensorus.Client, number: int) -> None:
    """Insert the tensor of this number, by its bytes or by asking; now and then, delete or replace earlier ones."""
    client.insert("d", value_of(number), id=f"{number}", ask_first=number % 2 == 0, on_conflict="replace")
    if number % 7 == 6:
        client.delete("d", [f"{earlier}" for earlier in range(number - 6, number - 3)])
    if number % 5 == 4:
        client.insert("d", value_of(number), id="same", metadata={"number": number}, on_conflict="replace")


def check(client: tensorus.Client, acknowledged: int) -> None:
    """Check that every tensor that is there has its values, and that the last ones are."""
    there = {info.id for info in client.list("d")}
    assert {f"{number}" for number in range(max(acknowledged - 2, 0), acknowledged + 1) if number % 7 > 2} <= there
    for tensor_id in there - {"same"}:
        assert np.array_equal(client.get("d", tensor_id, as_="numpy"), value_of(int(tensor_id))), tensor_id
    assert client.verify().is_intact


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_kills_lose_no_bytes_that_a_tensor_shares(tmp_path: Path, rounds: int) -> None:
    folder = tmp_path / "store"
    with tensorus.open(folder) as client:
        client.create_dataset("d", preset="none")
    source = random.Random(rounds)
    done = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", STEP_ON_AND_ON, str(folder), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(source.randint(1, 40)):
                line = process.stdout.readline()
            process.kill()
            rest = process.stdout.read().split()
        acknowledged = int(([line, *rest])[-1])
        engine = open_engine(engine_config(folder, delete_grace_s=0.0))
        try:
            engine.sweep(in_grace=True)
            set_aside_now(engine)
            engine.empty_quarantine()
        finally:
            engine.close()
        with tensorus.open(folder) as client:
            check(client, acknowledged)
        done = acknowledged + 1
    engine = open_engine(engine_config(folder))
    try:
        tensors = engine.list_tensors("d", None, Order(), page_size=1000)[0]
        keys = {tensor.locator.key for tensor in tensors if isinstance(tensor, Tensor)}
    finally:
        engine.close()
    assert len(tensors) > len(keys)
    assert {f"{path.parent.name}/{path.name}" for path in (folder / "chunks").glob("*/*")} == keys
    assert [*(folder / "tmp").glob("*/*"), *(folder / "uploads").iterdir()] == []
