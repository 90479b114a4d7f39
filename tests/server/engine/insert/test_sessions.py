"""One stream has a request at a time: the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.sessions import WAIT_S, Stream
from tensorus_server.engine.insert import sessions
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError


@pytest.fixture
def found() -> InsertSessions:
    return InsertSessions()


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until another thread has come so far."""
    tick = threading.Event()
    for _ in range(int(WAIT_S * 1000)):
        if condition():
            return
        tick.wait(0.001)
    raise AssertionError("it never came so far")


def test_a_request_is_held_as_long_as_the_block_runs(found: InsertSessions) -> None:
    assert not found.is_held("request")
    with found.held("request", lambda: None):
        assert found.is_held("request")
        assert not found.is_held("other")
    assert not found.is_held("request")


def test_a_block_that_raises_lets_go(found: InsertSessions) -> None:
    with pytest.raises(KeyError), found.held("request", lambda: None):
        raise KeyError
    assert not found.is_held("request")


def test_requests_do_not_know_of_each_other(found: InsertSessions) -> None:
    asked = []
    with found.held("one", lambda: asked.append("one")), found.held("two", lambda: asked.append("two")):
        assert found.is_held("one")
        assert found.is_held("two")
    assert asked == []


def test_the_newer_stream_has_the_request_after_the_older_one_has_ended(found: InsertSessions) -> None:
    older = Stream(found, stubborn=True)
    assert older.has_it.wait(WAIT_S)
    newer = Stream(found)
    assert older.asked.wait(WAIT_S)
    assert not newer.has_it.is_set()
    older.end()
    assert newer.has_it.wait(WAIT_S)
    assert found.is_held("request")
    newer.end()
    assert not found.is_held("request")


def test_many_streams_hand_over_one_after_the_other(found: InsertSessions) -> None:
    streams = []
    for _ in range(10):
        streams.append(Stream(found))
        assert streams[-1].has_it.wait(WAIT_S)
    streams[-1].end()
    for stream in streams:
        stream.done.result(WAIT_S)
    assert (found._holders, found._latest) == ({}, {})


def test_of_two_that_wait_the_newest_wins(found: InsertSessions) -> None:
    oldest = Stream(found, stubborn=True)
    assert oldest.has_it.wait(WAIT_S)
    middle = Stream(found)
    wait_for(lambda: found._latest["request"].ticket == 1)
    newest = Stream(found)
    with pytest.raises(SessionTakenOverError, match="a newer stream goes on with insert request"):
        middle.done.result(WAIT_S)
    assert not middle.has_it.is_set()
    oldest.end()
    assert newest.has_it.wait(WAIT_S)
    newest.end()
    assert (found._holders, found._latest) == ({}, {})


class TestNobodyLetsGo:
    """An older stream that does not end."""

    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sessions, "_HAND_OVER_S", 0.02)

    @pytest.fixture
    def stubborn(self, found: InsertSessions) -> Stream:
        stream = Stream(found, stubborn=True)
        assert stream.has_it.wait(WAIT_S)
        return stream

    def test_the_newer_one_is_told_to_come_again(self, found: InsertSessions, stubborn: Stream) -> None:
        with pytest.raises(StoreUnavailableError, match="older stream of insert request has not ended yet"):
            Stream(found).done.result(WAIT_S)
        assert stubborn.asked.is_set()
        assert found.is_held("request")
        stubborn.end()
        assert (found._holders, found._latest) == ({}, {})
        with found.held("request", lambda: None):
            assert found.is_held("request")

    def test_whoever_ends_it_is_told_so(self, found: InsertSessions, stubborn: Stream) -> None:
        with pytest.raises(StoreUnavailableError, match="stream of insert request has not ended yet"):
            found.end("request")
        stubborn.end()
        found.end("request")


def test_ending_waits_until_the_stream_has_ended(found: InsertSessions) -> None:
    stream = Stream(found)
    assert stream.has_it.wait(WAIT_S)
    found.end("request")
    assert stream.asked.is_set()
    assert not found.is_held("request")
    stream.done.result(WAIT_S)


def test_ending_a_request_that_nobody_has_does_nothing(found: InsertSessions) -> None:
    stream = Stream(found, "other")
    assert stream.has_it.wait(WAIT_S)
    found.end("request")
    assert not stream.asked.is_set()
    stream.end()


def test_ending_is_not_held_up_by_a_newer_stream_that_was_waiting(found: InsertSessions) -> None:
    older = Stream(found, stubborn=True)
    assert older.has_it.wait(WAIT_S)
    newer = Stream(found)
    wait_for(lambda: found._latest["request"].ticket == 1)
    with ThreadPoolExecutor(1) as pool:
        older.asked.clear()
        ending = pool.submit(found.end, "request")
        assert older.asked.wait(WAIT_S)
        older.end()
        ending.result(WAIT_S)
    newer.end()
    assert (found._holders, found._latest) == ({}, {})
