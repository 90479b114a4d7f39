"""Of the streams of one request in several workers, one has it at a time: the newest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.sessions import WAIT_S, Stream
from tensorus_server.engine.insert import sessions
from tensorus_server.engine.insert.session_locks import SessionLocks
from tensorus_server.engine.insert.sessions import InsertSessions
from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError


class Workers:
    """The sessions of some workers, in one process: each has the file open for itself, as a process of its own would."""

    def __init__(self, folder: Path, count: int) -> None:
        self.sessions = [
            InsertSessions(SessionLocks(folder / "sessions.lock", self._asking(number))) for number in range(count)
        ]
        self.said: list[tuple[int, str, int]] = []
        """Who asked, for what, with which ticket."""
        self._pool = ThreadPoolExecutor(1)

    def close(self) -> None:
        self._pool.shutdown()
        for found in self.sessions:
            found.close()

    def _asking(self, speaker: int) -> Callable[[str, int], None]:
        def ask(request_id: str, ticket: int) -> None:
            self.said.append((speaker, request_id, ticket))
            # On another thread, as it comes from another process.
            for number, found in enumerate(self.sessions):
                if number != speaker:
                    self._pool.submit(found.newer, request_id, ticket)

        return ask


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    found = Workers(tmp_path, 3)
    yield found
    found.close()
    assert [(each._holders, each._latest) for each in found.sessions] == [({}, {})] * 3


def test_a_request_that_nobody_has_is_taken_without_a_word(workers: Workers) -> None:
    one, two, _ = workers.sessions
    for _ in range(3):
        with one.held("request", lambda: None):
            assert [found.is_held("request") for found in workers.sessions] == [True] * 3
            assert [found.is_held("other") for found in workers.sessions] == [False] * 3
            with two.held("other", lambda: None):
                assert [found.is_held("other") for found in workers.sessions] == [True] * 3
        assert [found.is_held("request") for found in workers.sessions] == [False] * 3
    assert workers.said == []


def test_the_newer_stream_has_it_after_the_older_one_of_the_other_worker_has_ended(workers: Workers) -> None:
    older = Stream(workers.sessions[0], stubborn=True)
    assert older.has_it.wait(WAIT_S)
    newer = Stream(workers.sessions[1])
    assert older.asked.wait(WAIT_S)
    assert not newer.has_it.is_set()
    older.end()
    assert newer.has_it.wait(WAIT_S)
    newer.end()
    assert not any(found.is_held("request") for found in workers.sessions)


def test_many_streams_hand_over_one_after_the_other(workers: Workers) -> None:
    streams = []
    for turn in range(12):
        streams.append(Stream(workers.sessions[turn % 3]))
        assert streams[-1].has_it.wait(WAIT_S)
    streams[-1].end()
    for stream in streams:
        stream.done.result(WAIT_S)


def test_of_two_that_wait_the_newest_wins(workers: Workers) -> None:
    one, two, three = workers.sessions
    oldest = Stream(one, stubborn=True)
    assert oldest.has_it.wait(WAIT_S)
    middle = Stream(two)
    assert oldest.asked.wait(WAIT_S)
    newest = Stream(three)
    with pytest.raises(SessionTakenOverError, match="a newer stream goes on with insert request"):
        middle.done.result(WAIT_S)
    assert not middle.has_it.is_set()
    oldest.end()
    assert newest.has_it.wait(WAIT_S)
    newest.end()


def test_an_older_one_that_still_waits_does_not_end_the_newer_one(workers: Workers) -> None:
    newer = Stream(workers.sessions[0])
    assert newer.has_it.wait(WAIT_S)
    workers.sessions[0].newer("request", 0)
    assert not newer.asked.is_set()
    newer.end()


class TestNobodyLetsGo:
    """A stream of another worker that does not end."""

    @pytest.fixture
    def stubborn(self, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
        monkeypatch.setattr(sessions, "_HAND_OVER_S", 0.1)
        stream = Stream(workers.sessions[0], stubborn=True)
        assert stream.has_it.wait(WAIT_S)
        yield stream
        stream.end()

    def test_the_newer_one_is_told_to_come_again(self, workers: Workers, stubborn: Stream) -> None:
        with pytest.raises(StoreUnavailableError, match="older stream of insert request has not ended yet"):
            Stream(workers.sessions[1]).done.result(WAIT_S)
        assert stubborn.asked.is_set()

    def test_whoever_ends_it_is_told_so(self, workers: Workers, stubborn: Stream) -> None:
        with pytest.raises(StoreUnavailableError, match="stream of insert request has not ended yet"):
            workers.sessions[1].end("request")
        assert stubborn.asked.is_set()


def test_ending_waits_until_the_stream_of_the_other_worker_has_ended(workers: Workers) -> None:
    stream = Stream(workers.sessions[0])
    assert stream.has_it.wait(WAIT_S)
    workers.sessions[1].end("request")
    assert stream.asked.is_set()
    assert not workers.sessions[1].is_held("request")
    stream.done.result(WAIT_S)


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "sessions.lock"
    source = f"""
import sys
from pathlib import Path
from tensorus_server.engine.insert.session_locks import SessionLocks

print(SessionLocks(Path({str(path)!r}), print).try_lock("request", 0), flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    locks = SessionLocks(path, lambda *_: None)
    assert locks.is_locked("request")
    assert not locks.try_lock("request", 0)
    process.kill()
    process.communicate(timeout=WAIT_S)
    assert not locks.is_locked("request")
    assert locks.try_lock("request", 0)
    locks.close()


def test_the_file_is_the_users_alone_and_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "sessions.lock"
    locks = SessionLocks(path, lambda *_: None)
    assert locks.try_lock("request", 0)
    locks.close()
    locks.close()
    locks.unlock("request", 0, at_once=True)
    assert (path.stat().st_size, oct(path.stat().st_mode & 0o777)) == (0, oct(0o600))


def test_tickets_ascend_among_all_workers(tmp_path: Path) -> None:
    one, two = (SessionLocks(tmp_path / "sessions.lock", lambda *_: None) for _ in range(2))
    tickets = [locks.ticket() for _ in range(100) for locks in (one, two)]
    assert sorted(set(tickets)) == tickets
    one.close()
    two.close()
