"""SIGKILL in the middle of copies and moves: each was done as a whole or not at all, and no payload is lost or left over."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.engine import set_aside_now
from support.servers import engine_config
from tensorus_server.app import open_engine

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

SLOTS = 12
"""Tensors; every second one has a file."""

State = dict[str, list[int]]
"""Of each dataset, the value of each slot."""

COPY_ON_AND_ON = f"""
import sys, tensorus
sys.path[:0] = {sys.path!r}
from crash.test_copy_kills import change
with tensorus.open(sys.argv[1]) as client:
    for number in range(int(sys.argv[2]), 1_000_000):
        change(client, number)
        print(number, flush=True)
"""


def values_of(value: int) -> np.ndarray:
    """Return the tensor of a value: in the catalogue, or in a file."""
    return np.full(30_000 if value % 2 else 100, value, np.float32)


def places(number: int) -> dict[str, str]:
    """Return which slots change places: a cycle of some of them."""
    chosen = random.Random(number).sample(range(SLOTS), 2 + number % 5)
    return {f"{one}": f"{other}" for one, other in zip(chosen, [*chosen[1:], chosen[0]], strict=True)}


def change(client: tensorus.Client, number: int) -> None:
    """Do the change of this number."""
    kind = number % 4
    if kind == 0:
        client.move_many("d", places(number))
    elif kind == 1:
        client.copy_many("d", places(number), replace=True)
    elif kind == 2:
        client.copy_dataset("d", f"copy {number}")
    else:
        client.rename_dataset(f"copy {number - 1}", f"renamed {number}")
        if number > 8:
            client.delete_dataset(f"renamed {number - 8}")


def expected(count: int) -> State:
    """Return the state after so many changes, but for deletions."""
    state: State = {"d": list(range(SLOTS))}
    for number in range(count):
        kind, slots = number % 4, list(state["d"])
        if kind < 2:
            for one, other in places(number).items():
                state["d"][int(other)] = slots[int(one)]
        elif kind == 2:
            state[f"copy {number}"] = slots
        else:
            state[f"renamed {number}"] = state.pop(f"copy {number - 1}")
    return state


def found_state(client: tensorus.Client) -> State:
    """Return what is stored, and check every element of it."""
    state: State = {}
    for dataset in client.datasets():
        slots = {int(one.info.id): one.tensor for one in client.query(dataset.name, as_="numpy")}
        assert sorted(slots) == list(range(SLOTS))
        state[dataset.name] = [int(slots[number][0]) for number in range(SLOTS)]
        for number in range(SLOTS):
            assert np.array_equal(slots[number], values_of(state[dataset.name][number]))
    return state


def done_changes(client: tensorus.Client, acknowledged: int) -> int:
    """Check the state, and return how many changes were done: those that were acknowledged, and perhaps one more."""
    found = found_state(client)
    for count in (acknowledged, acknowledged + 1):
        state = expected(count)
        # The last change may have deleted a dataset, or not yet.
        if found["d"] == state["d"] and found.items() <= state.items():
            missing = [int(name.split()[1]) for name in state.keys() - found.keys()]
            if all(number <= count - 8 for number in missing):
                return count
    pytest.fail(f"{acknowledged} changes were acknowledged; found {found}, expected {expected(acknowledged)}")


@pytest.mark.parametrize("rounds", [4, pytest.param(60, marks=pytest.mark.long)])
def test_kills_leave_every_copy_and_move_whole(tmp_path: Path, rounds: int) -> None:
    folder = tmp_path / "store"
    with tensorus.open(folder) as client:
        client.create_dataset("d", preset="none")
        client.insert_many("d", {f"{number}": values_of(number) for number in range(SLOTS)}.items())
    files = {path.name for path in (folder / "chunks").glob("*/*")}
    assert len(files) == SLOTS // 2
    source = random.Random(rounds)
    done = 0
    for _ in range(rounds):
        command = [sys.executable, "-c", COPY_ON_AND_ON, str(folder), str(done)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(source.randint(1, 40)):
                line = process.stdout.readline()
            process.kill()
            # It may have acknowledged more before it was killed.
            rest = process.stdout.read().split()
        with tensorus.open(folder) as client:
            done = done_changes(client, int([line, *rest][-1]) + 1)
            assert client.verify().is_intact
    engine = open_engine(engine_config(folder, delete_grace_s=0.0))
    try:
        engine.sweep(in_grace=True)
        assert set_aside_now(engine) == 0
    finally:
        engine.close()
    with tensorus.open(folder) as client:
        assert done_changes(client, done) == done
    # Copies made no files, and only payloads that nothing needs are gone.
    assert {path.name for path in (folder / "chunks").glob("*/*")} <= files
