"""Waiting before a transfer is tried again: for what passes, longer every time, and not for ever."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from support.cases import each
from tensorus._grpc import patience as module
from tensorus._grpc.patience import Interruption, Patience
from tensorus.errors import ConnectionLostWarning, TensorusError


class Clock:
    """Time that passes by waiting alone."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.waits_s.append(wait_s)
        self.now_s += wait_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    # The longest of the random waits, unless a test says otherwise.
    monkeypatch.setattr(module.random, "uniform", lambda _, high: high)
    return made


def error(reason: str = "UNAVAILABLE", **facts: Any) -> TensorusError:
    return TensorusError("it broke", reason=reason, facts={name: str(value) for name, value in facts.items()})


@pytest.mark.parametrize(
    "passing",
    [
        *map(error, ["UNAVAILABLE", "CANCELLED", "DRAINING", "STORE_UNAVAILABLE", "TOO_MANY_STREAMS"]),
        error("INTERNAL"),
        error("UNKNOWN"),
    ],
    ids=lambda found: found.reason,
)
def test_errors_that_pass_are_waited_for(clock: Clock, passing: TensorusError) -> None:
    patience = Patience(60.0)
    patience.wait(passing, (0,))
    assert (patience.interruptions, len(clock.waits_s)) == (1, 1)


@pytest.mark.parametrize(
    "lasting",
    [
        *map(error, ["DATA_CORRUPT", "SESSION_TAKEN_OVER", "STORAGE_FULL", "TENSOR_NOT_FOUND", "RESOURCE_EXHAUSTED"]),
        error("INTERNAL", number="0123"),
    ],
    ids=lambda found: found.reason,
)
def test_errors_that_do_not_pass_are_raised_at_once(clock: Clock, lasting: TensorusError) -> None:
    patience = Patience(60.0)
    with pytest.raises(TensorusError) as caught:
        patience.wait(lasting, (0,))
    assert caught.value is lasting
    assert (patience.interruptions, clock.waits_s) == (0, [])


def test_waits_grow_up_to_the_longest(clock: Clock) -> None:
    patience = Patience(60.0)
    for _ in range(8):
        patience.wait(error(), (0,))
    assert clock.waits_s == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert patience.interruptions == 8


def test_many_clients_do_not_come_back_at_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def uniform(low: float, high: float) -> float:
        shares.append((low, high))
        return low

    monkeypatch.setattr(module.random, "uniform", uniform)
    patience = Patience(60.0)
    patience.wait(error(), (0,))
    patience.wait(error(), (0,))
    assert shares == [(0.5, 1.0)] * 2
    assert clock.waits_s == pytest.approx([0.025, 0.05])


def test_without_progress_patience_ends_with_its_time_and_the_last_error(clock: Clock) -> None:
    patience = Patience(1.0)
    begun_s = clock.now_s
    for _ in range(5):
        patience.wait(error(), (3, 7))
    last = error()
    with pytest.raises(TensorusError) as caught:
        patience.wait(last, (3, 7))
    assert caught.value is last
    # The last wait is cut to what is left, so that the time is used, and not exceeded.
    assert clock.now_s - begun_s == pytest.approx(1.0)


def test_with_no_time_there_is_no_second_attempt(clock: Clock) -> None:
    with pytest.raises(TensorusError):
        Patience(0.0).wait(error(), (0,))
    assert clock.waits_s == []


def test_time_and_waits_begin_anew_with_every_step_forward(clock: Clock) -> None:
    patience = Patience(1.0)
    for place in range(50):
        # However long the transfer itself takes in between.
        clock.now_s += 1000.0
        patience.wait(error(), (0, place))
        patience.wait(error(), (0, place))
    assert clock.waits_s == pytest.approx([0.05, 0.1] * 50)
    assert patience.interruptions == 100


@pytest.mark.parametrize("place", [(2, 5), (2, 4), (1, 9), (0, 0)])
def test_a_step_back_or_to_the_same_place_is_none(clock: Clock, place: tuple[int, int]) -> None:
    patience = Patience(1.0)
    patience.wait(error(), (2, 5))
    clock.now_s += 1.0
    with pytest.raises(TensorusError):
        patience.wait(error(), place)


def test_what_the_server_asks_for_is_waited_for(clock: Clock) -> None:
    patience = Patience(60.0)
    patience.wait(error("DRAINING", retry_after_s=7.5), (0,))
    # Where it asks for less than the next wait would be, that one counts.
    patience.wait(error("DRAINING", retry_after_s=0.01), (0,))
    assert clock.waits_s == pytest.approx([7.5, 0.1])


def test_not_even_the_server_can_ask_for_more_than_the_time_that_is_left(clock: Clock) -> None:
    Patience(2.0).wait(error("DRAINING", retry_after_s=3600), (0,))
    assert clock.waits_s == pytest.approx([2.0])


def test_an_observer_hears_of_each_interruption_and_how_often_it_came_without_progress(clock: Clock) -> None:
    heard: list[Interruption] = []
    patience = Patience(60.0, heard.append)
    broken = error()
    for place in [(1,), (1,), (1,), (2,), (1,)]:
        patience.wait(broken, place)
    assert [interruption.at_same_place for interruption in heard] == [1, 2, 3, 1, 2]
    assert {interruption.error for interruption in heard} == {broken}


def test_the_error_that_ends_patience_is_no_interruption(clock: Clock) -> None:
    heard: list[Interruption] = []
    with pytest.raises(TensorusError):
        Patience(60.0, heard.append).wait(error("DATA_CORRUPT"), (0,))
    assert heard == []


def test_without_an_observer_each_place_warns_once(clock: Clock) -> None:
    patience = Patience(60.0)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for place in [(1,), (1,), (1,), (1,), (2,), (3,), (3,), (3,)]:
            patience.wait(error(), place)
    assert len(warned) == 2
    assert {(record.category, record.filename) for record in warned} == {(ConnectionLostWarning, __file__)}


@each("reason", ["DRAINING", "TOO_MANY_STREAMS", "STORE_UNAVAILABLE"])
def test_what_the_server_itself_says_is_not_put_down_to_a_proxy(reason: str) -> None:
    assert "proxy" not in Interruption(error(reason), 2).explanation
    assert "proxy" in Interruption(error("INTERNAL"), 2).explanation


def test_other_reasons_can_be_waited_for(clock: Clock) -> None:
    patience = Patience(60.0, lambda _: None, reasons=frozenset({"STORAGE_FULL"}))
    patience.wait(error("STORAGE_FULL"), (0,))
    with pytest.raises(TensorusError):
        patience.wait(error("UNAVAILABLE"), (0,))
