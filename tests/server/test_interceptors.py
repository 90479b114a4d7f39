"""Admission: so many streams at once, a place that comes back however a call ends, and nobody once the server drains."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tensorus_server.errors import DrainingError, TooManyStreamsError
from tensorus_server.interceptors import Admission

BUDGET_BYTES = 100


def let_in(admission: Admission, *, stream: bool = True) -> None:
    """Let one call in, and out again."""
    with admission.admitted(stream=stream):
        pass


def test_as_many_streams_as_allowed_are_admitted_and_no_more() -> None:
    admission = Admission(2, BUDGET_BYTES)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admission.admitted(stream=True))
        for _ in range(3):
            # A refusal takes no place, and gives none back.
            with pytest.raises(TooManyStreamsError, match=r"2 streams are open, limit is 2 \(streams_max\)") as caught:
                let_in(admission)
            assert caught.value.facts == {"limit": "2", "retry_after_s": "1.0"}
    let_in(admission)


def test_short_calls_are_admitted_however_many_streams_there_are() -> None:
    admission = Admission(1, BUDGET_BYTES)
    with admission.admitted(stream=True), admission.admitted(stream=False), admission.admitted(stream=False):
        let_in(admission, stream=False)
        with pytest.raises(TooManyStreamsError):
            let_in(admission)


def test_short_calls_take_no_place_of_a_stream() -> None:
    admission = Admission(1, BUDGET_BYTES)
    with admission.admitted(stream=False):
        let_in(admission)


def fail_inside(admission: Admission) -> None:
    """Let a stream in that fails."""
    with admission.admitted(stream=True):
        raise KeyError


def test_a_place_comes_back_when_its_call_fails() -> None:
    admission = Admission(1, BUDGET_BYTES)
    for _ in range(5):
        with pytest.raises(KeyError):
            fail_inside(admission)
    let_in(admission)
    assert admission.drain(0.0)


def test_racing_streams_never_get_more_places_than_there_are() -> None:
    admission = Admission(3, BUDGET_BYTES)
    together, inside = (threading.Barrier(12, timeout=30) for _ in range(2))

    def take(_: int) -> bool:
        together.wait()
        try:
            with admission.admitted(stream=True):
                inside.wait()
        except TooManyStreamsError:
            inside.wait()
            return False
        return True

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(take, range(12))) == 3


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "short call"])
def test_nobody_is_admitted_once_it_drains(*, stream: bool) -> None:
    admission = Admission(5, BUDGET_BYTES)
    assert admission.drain(0.0)
    with pytest.raises(DrainingError, match="the server is about to stop"):
        let_in(admission, stream=stream)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "short call"])
def test_draining_says_who_is_still_inside(*, stream: bool) -> None:
    admission = Admission(5, BUDGET_BYTES)
    with admission.admitted(stream=stream):
        assert not admission.drain(0.0)
    assert admission.drain(0.0)


def test_draining_ends_when_the_last_one_leaves() -> None:
    admission = Admission(5, BUDGET_BYTES)
    may_leave = threading.Event()
    inside = threading.Event()

    def stay() -> None:
        with admission.admitted(stream=True):
            inside.set()
            assert may_leave.wait(30)

    guest = threading.Thread(target=stay)
    guest.start()
    assert inside.wait(30)
    left = []
    drain = threading.Thread(target=lambda: left.append(admission.drain(30.0)))
    drain.start()
    may_leave.set()
    drain.join()
    guest.join()
    assert left == [True]


def borrow(admission: Admission, memory_bytes: int, inside: threading.Event, may_leave: threading.Event) -> None:
    """Be a stream that stays for a while."""
    with admission.admitted(stream=True, memory_bytes=memory_bytes):
        inside.set()
        assert may_leave.wait(30)


class Stream:
    """A stream on a thread of its own."""

    def __init__(self, admission: Admission, memory_bytes: int) -> None:
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=borrow, args=(admission, memory_bytes, self.inside, self.may_leave), daemon=True
        )
        self._thread.start()

    def leave(self) -> None:
        self.may_leave.set()
        self._thread.join(30)


def wait_for_queue(admission: Admission, length: int) -> None:
    """Wait until so many streams wait for memory."""
    with admission._changed:
        assert admission._changed.wait_for(lambda: len(admission._waiting) == length, 30)


class TestMemory:
    """Streams wait for memory in the order in which they came."""

    def test_streams_wait_until_others_give_back(self) -> None:
        admission = Admission(5, 100)
        first, second = Stream(admission, 60), Stream(admission, 40)
        assert first.inside.wait(30)
        assert second.inside.wait(30)
        third = Stream(admission, 50)
        wait_for_queue(admission, 1)
        second.leave()
        assert not third.inside.is_set()
        first.leave()
        assert third.inside.wait(30)
        third.leave()
        assert admission._borrowed_bytes == 0

    def test_a_small_one_does_not_overtake_a_large_one(self) -> None:
        admission = Admission(5, 100)
        first = Stream(admission, 60)
        assert first.inside.wait(30)
        large = Stream(admission, 90)
        wait_for_queue(admission, 1)
        small = Stream(admission, 10)
        wait_for_queue(admission, 2)
        assert not small.inside.is_set()
        first.leave()
        assert large.inside.wait(30)
        assert small.inside.wait(30)
        for stream in (large, small):
            stream.leave()

    def test_one_that_needs_more_than_there_is_has_it_all(self) -> None:
        admission = Admission(5, 100)
        with admission.admitted(stream=True, memory_bytes=1000):
            assert admission._borrowed_bytes == 100

    def test_short_calls_do_not_wait(self) -> None:
        admission = Admission(5, 100)
        with admission.admitted(stream=True, memory_bytes=100):
            let_in(admission, stream=False)

    def test_waiting_streams_count_as_open(self) -> None:
        admission = Admission(2, 100)
        first = Stream(admission, 100)
        assert first.inside.wait(30)
        second = Stream(admission, 100)
        wait_for_queue(admission, 1)
        with pytest.raises(TooManyStreamsError):
            let_in(admission)
        first.leave()
        second.leave()

    def test_one_whose_caller_has_gone_gives_up_its_place(self) -> None:
        admission = Admission(5, 100)
        with admission.admitted(stream=True, memory_bytes=100):
            with (
                pytest.raises(TooManyStreamsError, match="the caller has gone"),
                admission.admitted(stream=True, memory_bytes=1, is_active=lambda: False),
            ):
                pass
            assert not admission._waiting
        let_in(admission)

    def test_those_who_wait_are_refused_once_it_drains(self) -> None:
        admission = Admission(5, 100)
        found: list[Exception] = []

        def wait() -> None:
            try:
                with admission.admitted(stream=True, memory_bytes=100):
                    pass
            except DrainingError as error:
                found.append(error)

        with admission.admitted(stream=True, memory_bytes=100):
            waiting = threading.Thread(target=wait)
            waiting.start()
            wait_for_queue(admission, 1)
            admission.drain(0.0)
            waiting.join(30)
        assert len(found) == 1

    def test_the_time_that_is_left_is_known_once_it_drains(self) -> None:
        admission = Admission(5, 100)
        assert admission.draining_s is None
        admission.drain(0.0)
        assert admission.draining_s == 0.0
