"""The items of an insert: each has one outcome, whatever is raised where, and every wait for them ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from support.engine import Reports, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server import background
from tensorus_server.engine.health import Health
from tensorus_server.engine.insert import items as items_module
from tensorus_server.engine.insert.items import Batch, Items
from tensorus_server.engine.insert.tensor_locks import TensorLocks
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import Dataset, Schema

DATASET = Dataset(1, "d", StoragePolicy(), Schema(), 0)
TENSOR = stored_tensor(DATASET, "t").committed(1, 1, 0)


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def items(reports: Reports, health: Health) -> Items:
    return Items(reports, health)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LOOK_S", 0.001)


def test_items_are_under_way_from_their_seal_until_their_results_are_told(health: Health) -> None:
    told: list[bool] = []
    items = Items(lambda _: told.append(items.are_under_way), health)
    batch = items.begin([0])
    assert not items.are_under_way
    items.seal(batch)
    assert items.are_under_way
    items.sealed(batch)
    assert not items.are_under_way
    items.commit(batch)
    assert items.are_under_way
    batch.settle([TENSOR])
    assert told == [True]
    assert not items.are_under_way


class TestCarried:
    """A batch that is worked on is settled or handed over."""

    def test_what_the_work_raises_is_the_outcome_of_all_its_items(self, items: Items, reports: Reports) -> None:
        batch, error = items.begin([3, 4, 5]), ValueError("a fault")
        with batch.carried():
            raise error
        assert reports.outcomes == dict.fromkeys([3, 4, 5], error)
        assert (items.failed, items.first_failed) == (3, 3)
        items.wait()

    def test_one_that_is_left_is_failed(self, items: Items, reports: Reports) -> None:
        with items.begin([0]).carried():
            pass
        assert isinstance(reports.error(0), StoreUnavailableError)

    def test_what_ends_the_thread_passes_and_fails_it_too(self, items: Items, reports: Reports) -> None:
        with pytest.raises(KeyboardInterrupt), items.begin([0]).carried():
            raise KeyboardInterrupt
        assert isinstance(reports.error(0), StoreUnavailableError)

    def test_one_that_is_handed_over_is_left_alone(self, items: Items, reports: Reports) -> None:
        batch = items.begin([0])
        with batch.carried():
            batch.hand_over()
        assert reports.outcomes == {}
        batch.settle([TENSOR])
        assert reports.tensor(0) is TENSOR

    def test_one_that_cannot_be_handed_over_is_failed(self, items: Items, reports: Reports) -> None:
        batch = items.begin([0])
        with batch.carried():
            batch.hand_over()
            raise RuntimeError("the queue is gone")
        assert isinstance(reports.error(0), RuntimeError)

    def test_the_next_thread_carries_it_on_its_own(self, items: Items, reports: Reports) -> None:
        batch = items.begin([0])
        with batch.carried():
            batch.hand_over()
            with batch.carried():
                raise ValueError("of the next thread")
        assert str(reports.error(0)) == "of the next thread"


class TestSettled:
    """The first outcome is reported and counted."""

    @pytest.mark.parametrize("late", [lambda batch: batch.fail(ValueError()), lambda batch: batch.settle([TENSOR])])
    def test_later_outcomes_are_ignored(self, items: Items, reports: Reports, late: Callable[[Batch], None]) -> None:
        batch = items.begin([0])
        batch.settle([TENSOR])
        late(batch)
        items.leave(batch)
        assert reports.outcomes == {0: TENSOR}
        assert (items.begun, items.succeeded, items.failed) == (1, 1, 0)

    def test_of_many_threads_one_settles_it(self, items: Items, reports: Reports) -> None:
        for number in range(50):
            batch, start = items.begin([number]), threading.Barrier(3)

            def settle(batch: Batch = batch, start: threading.Barrier = start) -> None:
                start.wait(30)
                batch.settle([TENSOR])

            threads = [threading.Thread(target=settle) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert (len(reports.outcomes), items.succeeded) == (50, 50)

    def test_it_never_goes_back(self, items: Items) -> None:
        batch = items.begin([0])
        batch.fail(ValueError())
        items.seal(batch)
        assert not items.sealed(batch)
        assert not items.commit(batch)
        assert batch.state == "settled"
        items.wait()

    def test_some_of_many_fail_and_the_others_go_on(self, items: Items, reports: Reports) -> None:
        batch, error = items.begin([1, 2, 3]), ValueError()
        items.settle_some(batch, {2: error})
        batch.settle([TENSOR, TENSOR])
        assert reports.outcomes == {1: TENSOR, 2: error, 3: TENSOR}
        assert (items.begun, items.succeeded, items.failed) == (3, 2, 1)
        items.wait()

    def test_a_report_that_fails_is_kept_for_the_stream_and_hurts_nobody_else(self, health: Health) -> None:
        error = MemoryError()

        def report(_: Any) -> None:
            raise error

        items = Items(report, health)
        items.begin([0]).settle([TENSOR])
        items.wait()
        assert items.unreported is error

    def test_one_that_is_left_to_be_resumed_has_no_outcome(self, items: Items, reports: Reports) -> None:
        items.leave(items.begin([0]))
        items.wait()
        assert (reports.outcomes, items.succeeded, items.failed) == ({}, 0, 0)


@pytest.mark.usefixtures("short_waits")
class TestWaits:
    """They end with what they wait for, with the store, or when nothing moves."""

    def test_the_store_fails(self, items: Items, health: Health, reports: Reports) -> None:
        items.begin([0])
        threading.Timer(0.01, health.fail, ["a test", ValueError()]).start()
        with pytest.raises(StoreUnavailableError, match="the store failed"):
            items.wait()
        items.fail_all(StoreUnavailableError("gone"))
        items.wait()
        assert isinstance(reports.error(0), StoreUnavailableError)

    def test_nothing_moves(self, items: Items, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(background, "STUCK_S", 0.05)
        items.begin([0])
        with pytest.raises(StoreUnavailableError, match="nothing of the insert has moved for 0 s"):
            items.wait()

    def test_few_are_sealed_at_once(self, items: Items) -> None:
        batches = [items.begin([number]) for number in range(items_module._SEALING_MAX + 1)]
        for batch in batches[:-1]:
            items.seal(batch)
        threading.Timer(0.01, batches[0].fail, [ValueError()]).start()
        items.seal(batches[-1])
        assert batches[0].state == "settled"

    def test_those_that_wait_for_others_may_be_left_out(self, items: Items) -> None:
        batch = items.begin([0])
        assert items.sealed(batch)
        items.wait(sealed=True)
        assert items.in_state("sealed") == [batch]


class TestLocks:
    """An edit has its tensor's lock until it is settled."""

    def test_it_is_released_with_the_outcome(self, items: Items) -> None:
        locks, batch = TensorLocks(), items.begin([0])
        items.take_lock(batch, locks.acquire(DATASET, "t"))
        assert locks._held
        batch.settle([TENSOR])
        assert not locks._held

    def test_an_edit_that_was_given_up_while_it_waited_does_not_keep_it(self, items: Items) -> None:
        locks, batch = TensorLocks(), items.begin([0])
        items.fail_all(StoreUnavailableError("given up"))
        with pytest.raises(StoreUnavailableError, match="given up before the edit could be done"):
            items.take_lock(batch, locks.acquire(DATASET, "t"))
        assert not locks._held
