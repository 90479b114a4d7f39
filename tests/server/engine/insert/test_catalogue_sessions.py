"""Of the streams of one request at several replicas, one has it at a time: the newest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.clocks import moved_clock
from support.engine import Reports, insert, read, send
from support.interrupted import wait_until
from support.postgres import empty_schema
from support.replicas import replica_on
from support.sessions import WAIT_S, Stream
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.sql.members import SqlMemberTable
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.engine import membership as membership_module
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import catalogue_sessions, sessions
from tensorus_server.engine.insert.catalogue_sessions import CatalogueSessions
from tensorus_server.engine.insert.sessions import Alone, InsertSessions
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.engine.membership import Membership
from tensorus_server.errors import SessionTakenOverError, StoreUnavailableError
from tensorus_server.limits import MEMBER_LEASE_S
from tensorus_server.model import Append

NOTHING = (set(), {}, {}, {}, {}, set(), set())


class Replica:
    """One replica's sessions, and the thread that looks for it."""

    def __init__(self, catalogue: Any, name: str) -> None:  # `Any`: tests look into its database, whichever that is
        self.catalogue = catalogue
        self.membership = Membership(self.catalogue.members, name)
        self.peers = CatalogueSessions(self.membership)
        self.sessions = InsertSessions(self.peers)
        self.membership.start(pytest.fail)

    def close(self) -> None:
        self.sessions.close()
        assert self.membership.close(WAIT_S)
        self.catalogue.close()

    @property
    def left(self) -> tuple[object, ...]:
        """What is remembered of streams."""
        found, peers = self.sessions, self.peers
        return (
            *(found._arriving, found._holders, found._latest),
            *(peers._tickets, peers._users, peers._given_back, peers._releasing),
        )


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def replicas(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Replica]]:
    open_catalogue: Callable[[], Catalogue] = partial(SqliteCatalogue, tmp_path)
    if request.param == "PostgreSQL":
        dsn = empty_schema()
        from tensorus_server.catalogue.postgres import PostgresCatalogue  # noqa: PLC0415 - SQLite works without psycopg

        open_catalogue = partial(PostgresCatalogue, dsn)
    monkeypatch.setattr(membership_module, "LOOK_S", 0.02)
    monkeypatch.setattr(CatalogueSessions, "look_s", 0.01)
    found = [Replica(open_catalogue(), name) for name in ("one", "two", "three")]
    yield found
    for replica in found:
        wait_until(lambda replica=replica: replica.left == NOTHING)  # type: ignore[misc] - bound at once
    with found[0].catalogue._database.read() as connection:
        assert connection.execute("SELECT name FROM lease").fetchall() == []
    for replica in found:
        replica.close()


def test_a_request_that_nobody_has_costs_one_statement_and_is_given_back_with_others(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, _ = replicas
    calls: list[str] = []
    for name in ("try_acquire", "ask", "take", "release", "withdraw", "holder"):
        method = getattr(SqlMemberTable, name)

        def counted(
            *arguments: object, method: Callable[..., object] = method, name: str = name, **named: object
        ) -> object:
            calls.append(name)
            return method(*arguments, **named)

        monkeypatch.setattr(SqlMemberTable, name, counted)
    monkeypatch.setattr(membership_module, "LOOK_S", 60.0)
    one.membership.wake()
    for number in range(20):
        with one.sessions.held(f"{number}", lambda: None):
            pass
    assert calls.count("try_acquire") == len(calls) - calls.count("release") == 20
    one.membership.step()
    assert calls.count("release") <= 2
    monkeypatch.setattr(membership_module, "LOOK_S", 0.02)
    for replica in replicas:
        replica.membership.wake()
    with one.sessions.held("request", lambda: None):
        assert [replica.sessions.is_held("request") for replica in replicas] == [True] * 3
        assert [replica.sessions.is_held("other") for replica in replicas] == [False] * 3
        with two.sessions.held("other", lambda: None):
            assert [replica.sessions.is_held("other") for replica in replicas] == [True] * 3


def test_a_request_can_be_held_again_at_once(replicas: list[Replica]) -> None:
    for turn in range(12):
        with replicas[turn % 2].sessions.held("request", lambda: None):
            assert replicas[2].sessions.is_held("request")
    for _ in range(3):
        with replicas[0].sessions.held("request", lambda: None):
            pass


def test_the_newer_stream_has_it_after_the_older_one_of_another_replica_has_ended(replicas: list[Replica]) -> None:
    older = Stream(replicas[0].sessions, stubborn=True)
    assert older.has_it.wait(WAIT_S)
    newer = Stream(replicas[1].sessions)
    assert older.asked.wait(WAIT_S)
    assert not newer.has_it.is_set()
    older.end()
    assert newer.has_it.wait(WAIT_S)
    newer.end()


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 0, 1), (0, 1, 1), (1, 0, 1)])
def test_many_streams_hand_over_one_after_the_other(replicas: list[Replica], order: tuple[int, ...]) -> None:
    streams = []
    for turn in range(9):
        streams.append(Stream(replicas[order[turn % 3]].sessions))
        assert streams[-1].has_it.wait(WAIT_S)
    streams[-1].end()
    for stream in streams:
        stream.done.result(WAIT_S)


@pytest.mark.parametrize("places", [(0, 1, 2), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 0)])
def test_of_two_that_wait_the_newest_wins(replicas: list[Replica], places: tuple[int, ...]) -> None:
    oldest, middle, newest = (replicas[place].sessions for place in places)
    first = Stream(oldest, stubborn=True)
    assert first.has_it.wait(WAIT_S)
    second = Stream(middle)
    wait_until(lambda: "request" in middle._latest and middle._latest["request"].ticket is not None)
    assert first.asked.wait(WAIT_S)
    third = Stream(newest)
    with pytest.raises(SessionTakenOverError, match="a newer stream goes on with insert request"):
        second.done.result(WAIT_S)
    assert not second.has_it.is_set()
    first.end()
    assert third.has_it.wait(WAIT_S)
    third.end()


def test_of_many_that_arrive_at_once_one_is_left(replicas: list[Replica]) -> None:
    streams = [Stream(replicas[number % 3].sessions) for number in range(18)]
    taken_over = 0

    def settled() -> bool:
        return all(stream.done.done() or stream.has_it.is_set() for stream in streams) and (
            sum(not stream.done.done() for stream in streams) == 1
        )

    wait_until(settled)
    for stream in streams:
        if not stream.done.done():
            stream.end()
        elif isinstance(stream.done.exception(), SessionTakenOverError):
            taken_over += 1
        else:
            stream.done.result()
    assert taken_over < len(streams)


class TestNobodyLetsGo:
    """A stream of another replica that does not end."""

    @pytest.fixture
    def stubborn(self, replicas: list[Replica]) -> Iterator[Stream]:
        stream = Stream(replicas[0].sessions, stubborn=True)
        assert stream.has_it.wait(WAIT_S)
        yield stream
        stream.end()

    def test_after_some_time_it_is_taken_by_force(
        self, replicas: list[Replica], stubborn: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalogue_sessions, "_FORCE_AFTER_S", 0.1)
        newer = Stream(replicas[1].sessions)
        assert newer.has_it.wait(WAIT_S)
        assert stubborn.asked.is_set()
        assert replicas[2].catalogue.members.holder("insert/request") == replicas[1].catalogue.members.number
        newer.end()

    def test_before_that_the_newer_one_may_give_up(
        self, replicas: list[Replica], stubborn: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "_HAND_OVER_S", 0.1)
        for place in (1, 0):
            with pytest.raises(StoreUnavailableError, match="older stream of insert request has not ended yet"):
                Stream(replicas[place].sessions).done.result(WAIT_S)
        assert replicas[1].sessions.is_held("request")

    def test_it_is_ended_by_force(
        self, replicas: list[Replica], stubborn: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(catalogue_sessions, "_FORCE_AFTER_S", 0.1)
        monkeypatch.setattr(catalogue_sessions, "LOOK_S", 0.2)
        replicas[1].sessions.end("request")
        assert stubborn.asked.is_set()
        assert not replicas[1].sessions.is_held("request")

    def test_whoever_ends_it_and_gives_up_is_told_so(
        self, replicas: list[Replica], stubborn: Stream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sessions, "_HAND_OVER_S", 0.1)
        with pytest.raises(StoreUnavailableError, match="stream of insert request has not ended yet"):
            replicas[1].sessions.end("request")
        assert stubborn.asked.is_set()


def test_ending_waits_until_the_stream_of_another_replica_has_ended(replicas: list[Replica]) -> None:
    stream = Stream(replicas[0].sessions)
    assert stream.has_it.wait(WAIT_S)
    replicas[1].sessions.end("request")
    assert stream.asked.is_set()
    assert not replicas[1].sessions.is_held("request")
    stream.done.result(WAIT_S)
    replicas[1].sessions.end("request")


def test_the_lease_of_a_replica_that_expired_is_free(replicas: list[Replica], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(replicas[0].sessions, stubborn=True)
    assert stream.has_it.wait(WAIT_S)
    monkeypatch.setattr(replicas[0].membership, "step", lambda: None)
    moved_clock(monkeypatch)(MEMBER_LEASE_S)
    if not isinstance(replicas[0].catalogue, SqliteCatalogue):
        from tensorus_server.catalogue.postgres.connection import PostgresConnection  # noqa: PLC0415 - as above

        now_us = PostgresConnection.now_us
        monkeypatch.setattr(PostgresConnection, "now_us", lambda self: now_us(self) + int(MEMBER_LEASE_S * 1e6))
    replicas[1].catalogue.members.renew()
    newer = Stream(replicas[1].sessions)
    assert newer.has_it.wait(WAIT_S)
    assert not stream.asked.is_set()
    newer.end()
    stream.end()
    monkeypatch.undo()


def test_a_database_that_is_away_fails_the_stream_and_leaves_nothing(
    replicas: list[Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnavailableError("PostgreSQL is away")

    for name in ("try_acquire", "ask"):
        with monkeypatch.context() as away:
            away.setattr(SqlMemberTable, "try_acquire", fail if name == "try_acquire" else lambda *_, **__: None)
            away.setattr(SqlMemberTable, "ask", fail)
            with pytest.raises(StoreUnavailableError, match="PostgreSQL is away"):
                Stream(replicas[0].sessions).done.result(WAIT_S)
    with replicas[0].sessions.held("request", lambda: None), monkeypatch.context() as away:
        away.setattr(SqlMemberTable, "take", fail)
        with pytest.raises(StoreUnavailableError, match="PostgreSQL is away"):
            Stream(replicas[1].sessions).done.result(WAIT_S)


def test_a_replica_whose_database_hangs_holds_up_no_other_insert() -> None:
    hanging, go_on = threading.Event(), threading.Event()

    class Slow(Alone):
        def arrive(self, request_id: str, *, contended: bool) -> int:
            if request_id == "slow":
                hanging.set()
                assert go_on.wait(WAIT_S)
            return super().arrive(request_id, contended=contended)

    found = InsertSessions(Slow())
    slow = Stream(found, "slow")
    assert hanging.wait(WAIT_S)
    with found.held("other", lambda: None):
        assert found.is_held("other")
    assert not found.is_held("slow")
    found.newer("slow", 10**20)
    found.end("other")
    go_on.set()
    assert slow.has_it.wait(WAIT_S)
    slow.end()


ARRAY = np.arange(64, dtype=np.float32)


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Engine]]:
    monkeypatch.setattr(membership_module, "LOOK_S", 0.02)
    monkeypatch.setattr(CatalogueSessions, "look_s", 0.01)
    monkeypatch.setattr(catalogue_sessions, "_FORCE_AFTER_S", 0.05)
    with replica_on(tmp_path / "store", "one") as one, replica_on(tmp_path / "store", "two") as two:
        one.create_dataset("d")
        yield [one, two]


@pytest.mark.parametrize("together", [False, True])
def test_a_stream_that_lost_its_insert_commits_nothing_and_the_newer_one_everything_once(
    engines: list[Engine], *, together: bool
) -> None:
    options = InsertOptions("request", all_or_nothing=together)
    with engines[0].sessions.held("request", lambda: None):
        older = Reports()
        stream = engines[0].open_insert("d", older, options)
        send(stream, 0, "a", ARRAY)
        with engines[1].sessions.held("request", lambda: None):
            send(stream, 1, "b", ARRAY)
            stream.finish()
            assert isinstance(older.error(1), SessionTakenOverError)
            newer = Reports()
            again = engines[1].open_insert("d", newer, options)
            for item, name in enumerate("ab"):
                send(again, item, name, ARRAY)
            again.finish()
    for name in "ab":
        assert (read(engines[0], "d", name) == ARRAY).all()
    assert engines[0].dataset_stats("d").tensors == 2
    assert [newer.tensor(item).id for item in range(2)] == ["a", "b"]


def test_an_append_whose_insert_was_taken_over_is_done_once(engines: list[Engine]) -> None:
    insert(engines[0], "d", "t", ARRAY)
    options = InsertOptions("request")
    with engines[0].sessions.held("request", lambda: None):
        older, newer = Reports(), Reports()
        stream = engines[0].open_insert("d", older, options)
        with engines[1].sessions.held("request", lambda: None):
            again = engines[1].open_insert("d", newer, options)
            # Each has seen that nothing was done yet.
            for each in (stream, again):
                send(each, 0, "t", ARRAY, edit=Append(0))
                each.finish()
    assert isinstance(older.error(0), SessionTakenOverError)
    assert newer.tensor(0).spec.shape == (128,)
    assert (read(engines[0], "d", "t") == np.concatenate([ARRAY, ARRAY])).all()


def test_appends_at_two_replicas_are_all_done(engines: list[Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    insert(engines[0], "d", "t", ARRAY)

    def append(number: int) -> None:
        insert(engines[number % 2], "d", "t", np.full(4, number, np.float32), edit=Append(0))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(append, range(12)))
    found = read(engines[1], "d", "t")
    assert sorted(found[64:].tolist()) == sorted(float(number) for number in range(12) for _ in range(4))


def test_the_status_and_the_cancellation_of_an_insert_reach_the_other_replica(engines: list[Engine]) -> None:
    ending = threading.Event()

    def serve() -> None:
        with engines[0].sessions.held("request", ending.set):
            assert ending.wait(WAIT_S)

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(serve)
        wait_until(lambda: engines[1].sessions.is_held("request"))
        assert engines[1].insert_status("request") == ([], False, "")
        engines[1].cancel_insert("request")
        serving.result(WAIT_S)
    assert not engines[1].sessions.is_held("request")
