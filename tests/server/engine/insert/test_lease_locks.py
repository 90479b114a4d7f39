"""Edits of one tensor at several replicas wait for each other."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.interrupted import wait_until
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.engine.insert import tensor_locks
from tensorus_server.engine.insert.lease_locks import LeaseLocks
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.engine.membership import Membership
from tensorus_server.errors import StoreBusyError, StoreUnavailableError
from tensorus_server.model import Dataset, Schema

ONE, TWO = (Dataset(number, "d", StoragePolicy(), Schema(), 0) for number in (1, 2))


class Replica:
    """One replica's locks."""

    def __init__(self, folder: Path, name: str) -> None:
        self.catalogue = SqliteCatalogue(folder)
        self.membership = Membership(self.catalogue.members, name)
        self.locks = TensorLocks(LeaseLocks(self.membership))

    def close(self) -> None:
        self.locks.close()
        self.membership.close(1.0)
        self.catalogue.close()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[list[Replica]]:
    found = [Replica(tmp_path, name) for name in ("one", "two")]
    yield found
    for replica in found:
        replica.close()


@pytest.mark.parametrize("other", [0, 1], ids=["of the same replica", "of another replica"])
def test_an_edit_that_waits_too_long_is_told_so_and_can_be_repeated(
    replicas: list[Replica], other: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_locks, "EDIT_TIMEOUT_S", 0.05)
    held = replicas[0].locks.acquire(ONE, "t")
    with pytest.raises(StoreBusyError, match="repeat the edit"):
        replicas[other].locks.acquire(ONE, "t")
    for another in (replicas[1].locks.acquire(TWO, "t"), replicas[1].locks.acquire(ONE, "other"), held):
        another.release()
    replicas[other].locks.acquire(ONE, "t").release()
    assert replicas[0].catalogue.members.newest([]) == {}


def test_one_edit_at_a_time_has_the_tensor(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseLocks, "poll_s", (0.001, 0.005))
    inside: list[int] = []
    alone: list[bool] = []

    def run(number: int) -> None:
        for _ in range(10):
            lock = replicas[number % 2].locks.acquire(ONE, "t")
            inside.append(number)
            alone.append(inside == [number])
            inside.remove(number)
            lock.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert alone == [True] * 40


def test_an_edit_of_another_replica_that_waits_comes_before_the_next_one_of_the_same(replicas: list[Replica]) -> None:
    order: list[int] = []

    def run(number: int) -> None:
        lock = replicas[number].locks.acquire(ONE, "t")
        order.append(number)
        lock.release()

    held = replicas[0].locks.acquire(ONE, "t")
    gate = f"edit/{tensor_locks._shared_key((ONE.number, 't'), 'gate')}"
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(run, 1)
        wait_until(lambda: replicas[0].catalogue.members.holder(gate) is not None)
        held.release()
        run(0)
        waiting.result()
    assert order == [1, 0]


def test_a_replica_that_leaves_has_nothing_locked(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_locks, "EDIT_TIMEOUT_S", 0.05)
    replicas[0].locks.acquire(ONE, "t")
    replicas[0].membership.close(1.0)
    replicas[1].locks.acquire(ONE, "t").release()


def test_a_lock_that_cannot_be_released_is_released_with_the_next_look(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise StoreUnavailableError("away")

    lock = replicas[0].locks.acquire(ONE, "t")
    with monkeypatch.context() as away:
        away.setattr(replicas[0].catalogue.members, "release", fail)
        lock.release()
        replicas[0].membership.step()
    monkeypatch.setattr(tensor_locks, "EDIT_TIMEOUT_S", 0.05)
    with pytest.raises(StoreBusyError):
        replicas[1].locks.acquire(ONE, "t")
    replicas[0].membership.step()
    replicas[1].locks.acquire(ONE, "t").release()


@pytest.mark.parametrize("takes_effect", [True, False], ids=["taken", "not taken"])
def test_a_lock_of_which_it_is_unknown_whether_it_was_taken_is_free_after_the_next_look(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch, *, takes_effect: bool
) -> None:
    monkeypatch.setattr(tensor_locks, "EDIT_TIMEOUT_S", 0.05)
    members = replicas[0].catalogue.members
    try_acquire = members.try_acquire

    def lose_the_answer(name: str, *, unless: str | None = None) -> int | None:
        if takes_effect:
            try_acquire(name, unless=unless)
        raise StoreUnavailableError("the outcome is unknown")

    with monkeypatch.context() as away:
        away.setattr(members, "try_acquire", lose_the_answer)
        with pytest.raises(StoreUnavailableError, match="the outcome is unknown"):
            replicas[0].locks.acquire(ONE, "t")
    replicas[0].membership.step()
    held = replicas[1].locks.acquire(ONE, "t")
    held.release()
    held = replicas[0].locks.acquire(ONE, "t")
    # It has the lock anew, which no look takes from it.
    replicas[0].membership.step()
    with pytest.raises(StoreBusyError, match="repeat the edit"):
        replicas[1].locks.acquire(ONE, "t")
    held.release()
