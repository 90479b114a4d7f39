"""Admission: so many streams at once, a place that comes back however a call ends, and nobody once the server drains."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tensorus_server.errors import DrainingError, TooManyStreamsError
from tensorus_server.interceptors import Admission


def let_in(admission: Admission, *, stream: bool = True) -> None:
    """Let one call in, and out again."""
    with admission.admitted(stream=stream):
        pass


def test_as_many_streams_as_allowed_are_admitted_and_no_more() -> None:
    admission = Admission(2)
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(admission.admitted(stream=True))
        for _ in range(3):
            # A refusal takes no place, and gives none back.
            with pytest.raises(TooManyStreamsError, match=r"2 streams are open, limit is 2 \(streams_max\)") as caught:
                let_in(admission)
            assert caught.value.facts == {"limit": "2"}
    let_in(admission)


def test_short_calls_are_admitted_however_many_streams_there_are() -> None:
    admission = Admission(1)
    with admission.admitted(stream=True), admission.admitted(stream=False), admission.admitted(stream=False):
        let_in(admission, stream=False)
        with pytest.raises(TooManyStreamsError):
            let_in(admission)


def test_short_calls_take_no_place_of_a_stream() -> None:
    admission = Admission(1)
    with admission.admitted(stream=False):
        let_in(admission)


def fail_inside(admission: Admission) -> None:
    """Let a stream in that fails."""
    with admission.admitted(stream=True):
        raise KeyError


def test_a_place_comes_back_when_its_call_fails() -> None:
    admission = Admission(1)
    for _ in range(5):
        with pytest.raises(KeyError):
            fail_inside(admission)
    let_in(admission)
    assert admission.drain(0.0)


def test_racing_streams_never_get_more_places_than_there_are() -> None:
    admission = Admission(3)
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
    admission = Admission(5)
    assert admission.drain(0.0)
    with pytest.raises(DrainingError, match="the server is about to stop"):
        let_in(admission, stream=stream)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "short call"])
def test_draining_says_who_is_still_inside(*, stream: bool) -> None:
    admission = Admission(5)
    with admission.admitted(stream=stream):
        assert not admission.drain(0.0)
    assert admission.drain(0.0)


def test_draining_ends_when_the_last_one_leaves() -> None:
    admission = Admission(5)
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
