"""Edits of one tensor wait for each other, in one process and in several; those of other tensors do not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.interrupted import wait_until
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.insert import tensor_locks
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.errors import StoreBusyError
from tensorus_server.key_locks import KeyLocks
from tensorus_server.model import Dataset, Schema

ONE, TWO = (Dataset(number, "d", StoragePolicy(), Schema(), 0) for number in (1, 2))

TURNS = 50


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[list[TensorLocks]]:
    """The locks of two processes: each opens the file for itself, as two processes do."""
    found = [TensorLocks(KeyLocks(tmp_path / "edits.lock")) for _ in range(2)]
    yield found
    for locks in found:
        locks.close()


@pytest.fixture
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_locks, "EDIT_TIMEOUT_S", 0.01)


@pytest.mark.usefixtures("short_timeout")
@pytest.mark.parametrize("other", [0, 1], ids=["of the same process", "of another process"])
def test_an_edit_that_waits_too_long_is_told_so_and_can_be_repeated(processes: list[TensorLocks], other: int) -> None:
    held = processes[0].acquire(ONE, "t")
    with pytest.raises(StoreBusyError, match=r"\(edit_timeout_s\); repeat the edit \[dataset=d, tensor=t\]"):
        processes[other].acquire(ONE, "t")
    held.release()
    processes[other].acquire(ONE, "t").release()
    assert not any(locks._held for locks in processes)


@pytest.mark.usefixtures("short_timeout")
def test_other_tensors_do_not_wait(processes: list[TensorLocks]) -> None:
    held = [processes[0].acquire(ONE, "t"), processes[0].acquire(TWO, "t"), processes[1].acquire(ONE, "other")]
    for lock in held:
        lock.release()
    assert not any(locks._held for locks in processes)


def test_one_edit_at_a_time_has_the_tensor(processes: list[TensorLocks]) -> None:
    inside: list[int] = []
    alone: list[bool] = []

    def run(number: int) -> None:
        for _ in range(TURNS):
            lock = processes[number % 2].acquire(ONE, "t")
            inside.append(number)
            alone.append(inside == [number])
            inside.remove(number)
            lock.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert alone == [True] * 4 * TURNS


def test_an_edit_of_another_process_that_waits_comes_before_the_next_one_of_the_same(
    processes: list[TensorLocks],
) -> None:
    order: list[int] = []

    def run(process: int) -> None:
        lock = processes[process].acquire(ONE, "t")
        order.append(process)
        lock.release()

    held = processes[0].acquire(ONE, "t")
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(run, 1)
        gate = tensor_locks._shared_key((ONE.number, "t"), "gate")
        wait_until(lambda: gate in processes[1]._shared._held)  # type: ignore[union-attr]
        held.release()
        # From now on, either could take it.
        run(0)
        waiting.result()
    assert order == [1, 0]


@pytest.mark.usefixtures("short_timeout")
def test_a_process_that_ends_leaves_nothing_locked(processes: list[TensorLocks]) -> None:
    processes[0].acquire(ONE, "t")
    processes[0].close()
    processes[1].acquire(ONE, "t").release()
