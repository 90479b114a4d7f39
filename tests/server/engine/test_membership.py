"""A process stays a member, notices that it was declared dead, and takes what others leave behind."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.clocks import moved_clock
from support.replicas import replica_on
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError, new_payload_key
from tensorus_server.engine import membership as module
from tensorus_server.engine.membership import Membership
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.limits import MEMBER_LEASE_S, MEMBER_RENEW_S


class Time:
    """The time of one process, and of the database."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = 1000.0
        self._move = moved_clock(monkeypatch)
        monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self._now_s

    def pass_(self, seconds: float) -> None:
        self._now_s += seconds
        self._move(seconds)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Callable[[str], Membership]]:
    opened: list[SqliteCatalogue] = []

    def join(name: str) -> Membership:
        opened.append(SqliteCatalogue(tmp_path))
        return Membership(opened[-1].members, name)

    yield join
    for catalogue in opened:
        catalogue.close()


@pytest.fixture
def one(time: Time, open_one: Callable[[str], Membership]) -> Membership:
    return open_one("one")


@pytest.fixture
def two(time: Time, one: Membership, open_one: Callable[[str], Membership]) -> Membership:
    return open_one("two")


def test_who_steps_every_second_lives_on_and_nobody_else_is_declared_dead(
    time: Time, one: Membership, two: Membership, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = one.members.number, two.members.number
    for _ in range(60):
        time.pass_(1.0)
        one.step()
        two.step()
        one.require()
    assert (one.members.number, two.members.number) == numbers
    assert caplog.records == []


def test_who_died_is_declared_dead_soon_and_its_leases_are_free(
    time: Time, one: Membership, two: Membership, caplog: pytest.LogCaptureFixture
) -> None:
    assert two.leads("sweep")
    assert not one.leads("sweep")
    steps = 0
    while "two" not in caplog.text:
        time.pass_(1.0)
        one.step()
        steps += 1
        assert steps <= MEMBER_LEASE_S + MEMBER_RENEW_S
    assert steps >= MEMBER_LEASE_S
    assert caplog.messages == ["declared dead, since they did not renew their rows: two"]
    assert one.leads("sweep")
    assert one.leads("sweep")


def test_who_was_suspended_joins_again_under_another_number_and_says_so(
    time: Time, one: Membership, two: Membership, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_payload_key()
    two.writes.begin([key])
    before = two.members.number
    for _ in range(int(MEMBER_LEASE_S + MEMBER_RENEW_S)):
        time.pass_(1.0)
        one.step()
    with pytest.raises(StoreUnavailableError, match=r"has not answered for 20 s, limit is 15 s \(member_lease_s\)"):
        two.writes.begin([new_payload_key()])
    caplog.clear()
    two.step()
    assert two.members.number != before
    (said,) = caplog.messages
    assert said == (
        f"member {before} (two) was declared dead, since it had not renewed its row for 20.0 s; it goes on as member "
        f"{two.members.number}, and clients repeat what it was writing"
    )
    with pytest.raises(PayloadMissingError, match=f"nothing is known of payload {key}"):
        two.writes.take_over(key)
    two.writes.begin([new_payload_key()])


def test_while_the_database_is_away_it_tries_again_and_says_so_once(
    time: Time, one: Membership, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)

    def fail() -> bool:
        raise StoreUnavailableError("PostgreSQL is away")

    with monkeypatch.context() as away:
        away.setattr(one.members, "renew", fail)
        for _ in range(10):
            time.pass_(1.0)
            one.step()
    number = one.members.number
    assert caplog.messages == ["member one could not look at the catalogue, and tries again: PostgreSQL is away"]
    one.step()
    assert caplog.messages[1:] == ["member one reaches the catalogue again"]
    assert one.members.number == number


def test_after_an_outage_the_living_have_time_to_say_so(
    time: Time, one: Membership, two: Membership, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> bool:
        raise StoreUnavailableError("PostgreSQL is away")

    numbers = one.members.number, two.members.number
    with monkeypatch.context() as away:
        for member in (one, two):
            away.setattr(member.members, "renew", fail)
        for _ in range(60):
            time.pass_(1.0)
            one.step()
            two.step()
    one.step()
    time.pass_(MEMBER_RENEW_S - 1)
    one.step()
    two.step()
    for _ in range(20):
        time.pass_(1.0)
        one.step()
        two.step()
    assert (one.members.number, two.members.number) == numbers
    assert "declared dead" not in caplog.text


def test_after_the_database_hung_the_living_have_time_to_say_so(
    time: Time, one: Membership, two: Membership, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew = one.members.renew

    def hang() -> bool:
        time.pass_(60.0)
        return renew()

    number = two.members.number
    time.pass_(MEMBER_RENEW_S)
    with monkeypatch.context() as hanging:
        hanging.setattr(one.members, "renew", hang)
        one.step()
    two.step()
    assert two.members.number == number
    assert "declared dead" not in caplog.text


def test_other_looks_go_on_with_the_next_step_if_one_fails(one: Membership) -> None:
    looks: list[str] = []

    def fail() -> None:
        looks.append("fail")
        if len(looks) == 1:
            raise StoreUnavailableError("away")

    one.every_look(fail)
    one.every_look(lambda: looks.append("next"))
    one.step()
    one.step()
    assert looks == ["fail", "fail", "next"]


def test_who_closes_gives_everything_back_and_may_close_twice(one: Membership, two: Membership) -> None:
    assert two.leads("sweep")
    assert two.close(1.0)
    assert two.close(1.0)
    assert one.leads("sweep")


def test_a_payload_of_another_member_is_busy(one: Membership, two: Membership) -> None:
    key = new_payload_key()
    one.writes.begin([key])
    with pytest.raises(PayloadBusyError):
        two.writes.take_over(key)
    one.writes.park(key)
    assert two.writes.take_over(key) == 2
    assert one.writes.abandon([key]) == []
    one.writes.forget([key])
    assert two.writes.abandon([key]) == [key]


def test_the_end_of_the_thread_is_noticed(
    open_one: Callable[[str], Membership], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    member = open_one("one")
    looked, failed = threading.Event(), threading.Event()

    def look() -> None:
        looked.set()
        raise AssertionError("a defect")

    member.every_look(look)
    member.start(lambda _: failed.set())
    assert failed.wait(10.0)
    assert looked.is_set()
    assert member.close(10.0)


def test_an_engine_that_closes_leaves(tmp_path: Path) -> None:
    with replica_on(tmp_path, "one") as one, replica_on(tmp_path, "two") as two:
        assert one._membership is not None
        assert two._membership is not None
        assert one._membership.leads("sweep")
        number = one._membership.members.number
        assert two._membership.members.holder("sweep") == number
        one.close()
        assert two._membership.members.holder("sweep") is None


def test_of_all_replicas_one_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with replica_on(tmp_path, "one") as one, replica_on(tmp_path, "two") as two:
        swept: list[str] = []
        monkeypatch.setattr(one, "sweep", lambda: swept.append("one"))
        monkeypatch.setattr(two, "sweep", lambda: swept.append("two"))
        for engine in (two, one, two, one):
            engine._sweep_round()
        assert swept == ["two", "two"]
        two.close()
        one._sweep_round()
        assert swept == ["two", "two", "one"]


def test_the_daily_listing_of_a_shared_store_only_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with replica_on(tmp_path, "one") as engine:
        orphan = tmp_path / "chunks" / "00" / f"{0:032x}"
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"x")
        monkeypatch.setattr(engine, "_orphan_age_s", -60.0)
        monkeypatch.setattr(engine._catalogue.garbage, "claim_listing", lambda _: True)
        engine._sweep_round()
        assert caplog.messages == ["1 of 1 payloads belong to nothing; `tensorus gc` moves them to quarantine"]
        assert orphan.exists()
        assert engine.quarantine_orphans().moved == 1
        assert not orphan.exists()
