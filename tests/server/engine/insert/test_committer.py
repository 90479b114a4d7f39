"""The committer: groups, the order of publishing and committing, and outcomes that are told exactly once."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from support.committing import DATASET, Bench, commit_all
from support.engine import stored_tensor
from tensorus_server import background
from tensorus_server.catalogue.abc import StoredTensor, WriterLostError
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    EngineError,
    SessionTakenOverError,
    StorageFullError,
    StoreUnavailableError,
)
from tensorus_server.limits import COMMIT_GROUP_MAX
from tensorus_server.model import Tensor


@pytest.fixture
def bench() -> Iterator[Bench]:
    opened = Bench()
    yield opened
    opened.close()
    # However it went, everybody was told exactly once, and nothing waits to be published any more.
    assert {len(outcomes) for outcomes in opened.outcomes.values()} <= {1}
    assert opened.store._staged == {}


class TestGroups:
    """What waits while a group is committed is the next group."""

    def test_what_waits_is_committed_together_and_in_order(self, bench: Bench) -> None:
        bench.all_at_once(["a", "b", "c"])
        bench.close()
        assert [[stored.new.id for stored in group] for group in bench.catalogue.groups] == [
            ["first"],
            ["a", "b", "c"],
        ]

    def test_a_group_has_a_limit(self, bench: Bench) -> None:
        names = [f"{number}" for number in range(2 * COMMIT_GROUP_MAX + 3)]
        bench.all_at_once(names, inline=True)
        bench.close()
        assert [len(group) for group in bench.catalogue.groups] == [1, COMMIT_GROUP_MAX, COMMIT_GROUP_MAX, 3]
        assert all(isinstance(bench.outcome(name), Tensor) for name in names)

    def test_a_full_group_at_the_end_loses_nobody(self, bench: Bench) -> None:
        names = [f"{number}" for number in range(COMMIT_GROUP_MAX)]
        bench.all_at_once(names, inline=True)
        bench.close()
        assert all(isinstance(bench.outcome(name), Tensor) for name in names)

    def test_a_submission_of_many_hears_of_each_in_order(self, bench: Bench) -> None:
        heard: list[Tensor | Exception] = []
        stored = [stored_tensor(DATASET, name, inline_payload=b"x") for name in "abc"]
        bench.committer.submit(bench.commit(stored, [], heard.extend))
        bench.submit("d")
        bench.close()
        assert [outcome.id for outcome in heard if isinstance(outcome, Tensor)] == ["a", "b", "c"]
        assert isinstance(bench.outcome("d"), Tensor)

    def test_a_submission_is_never_torn(self, bench: Bench) -> None:
        heard: list[int] = []
        bench.catalogue.may_commit.clear()
        for size in (1, COMMIT_GROUP_MAX - 1, 2, COMMIT_GROUP_MAX + 5):
            stored = [stored_tensor(DATASET, f"{size}-{n}", inline_payload=b"x") for n in range(size)]
            bench.committer.submit(bench.commit(stored, [], lambda outcomes: heard.append(len(outcomes))))
        bench.close()
        assert heard == [1, COMMIT_GROUP_MAX - 1, 2, COMMIT_GROUP_MAX + 5]

    def test_closing_commits_what_waits_and_may_be_repeated(self, bench: Bench) -> None:
        for number in range(10):
            bench.submit(f"{number}")
        bench.close()
        bench.close()
        assert len(bench.outcomes) == 10

    def test_many_threads_submit_at_once(self, bench: Bench) -> None:
        threads = [
            threading.Thread(target=lambda name=name: [bench.submit(f"{name}-{turn}") for turn in range(50)])
            for name in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bench.close()
        assert sum(len(group) for group in bench.catalogue.groups) == 200


class TestOrder:
    """Payloads first, then the catalogue, then the report."""

    def test_payloads_are_published_before_the_commit_and_the_outcome_told_after_it(self, bench: Bench) -> None:
        submitted = bench.all_at_once(["a", "b"])
        bench.close()
        assert bench.events == ["publish 2", "commit 2"]
        for stored in submitted:
            outcome = bench.outcome(stored.new.id)
            assert isinstance(outcome, Tensor)
            # The catalogue was given the key under which the payload lies.
            assert outcome.locator == replace(stored.locator, key=f"7f/{stored.locator.key}")
            assert bench.store.open(outcome.locator.key).read(0, 1) == stored.new.id.encode()

    def test_inline_tensors_are_committed_as_they_are(self, bench: Bench) -> None:
        submitted = bench.all_at_once(["a"], inline=True)
        bench.close()
        outcome = bench.outcome("a")
        assert isinstance(outcome, Tensor)
        assert outcome.locator == submitted[0].locator
        assert bench.catalogue.groups[-1] == submitted
        assert list(bench.store.published()) == []

    def test_a_group_may_hold_both_kinds(self, bench: Bench) -> None:
        bench.all_at_once([])
        bench.submit("inline", inline=True)
        bench.submit("file")
        bench.close()
        assert [key.key for key in bench.store.published()] == [bench.outcome("file").locator.key]  # type: ignore[union-attr]


class TestFailures:
    """Whoever waits hears why, and the thread lives."""

    @pytest.mark.parametrize("error", [StoreUnavailableError("no"), StorageFullError("full")], ids=["broken", "full"])
    def test_a_group_that_cannot_be_published_fails_and_is_dropped(self, bench: Bench, error: EngineError) -> None:
        bench.store.failures["publish"] = error
        bench.all_at_once(["a", "b", "c"])
        bench.close()
        assert [bench.outcome(name) for name in ("a", "b", "c")] == [error] * 3
        # Nothing of the group reached the catalogue.
        assert bench.events == ["publish 3", "drop", "drop", "drop"]

    def test_a_catalogue_that_takes_no_writes_is_not_asked_to(self, bench: Bench) -> None:
        bench.all_at_once([])
        error = StoreUnavailableError("failed earlier")
        bench.catalogue.failures["check_writable"] = error
        bench.submit("a")
        bench.close()
        assert bench.outcome("a") is error
        assert bench.events == ["drop"]

    def test_payloads_of_a_commit_that_wrote_nothing_are_deleted(self, bench: Bench) -> None:
        error = StorageFullError("full")
        bench.catalogue.failures["commit"] = error
        bench.all_at_once(["a", "b"])
        bench.close()
        assert [bench.outcome("a"), bench.outcome("b")] == [error, error]
        assert list(bench.store.published()) == []

    def test_payloads_of_a_commit_with_an_unknown_outcome_stay(self, bench: Bench) -> None:
        # Perhaps their rows are there: only a restart knows.
        error = StoreUnavailableError("unknown")
        bench.catalogue.failures["commit"] = error
        bench.all_at_once(["a", "b"])
        bench.close()
        assert [bench.outcome("a"), bench.outcome("b")] == [error, error]
        assert len(list(bench.store.published())) == 2
        assert "delete" not in bench.events

    def test_payloads_count_as_uncommitted_from_before_their_publication(self, bench: Bench) -> None:
        bench.catalogue.may_commit.clear()
        stored = bench.submit("a")
        assert bench.catalogue.is_committing.wait(30)
        assert bench.committer.uncommitted == {stored.locator.key}

    def test_payloads_of_a_commit_with_an_unknown_outcome_stay_uncommitted(self, bench: Bench) -> None:
        # A sweep before the restart must not remove them, however old they look.
        bench.catalogue.failures["commit"] = StoreUnavailableError("unknown")
        stored = bench.submit("a")
        assert bench.catalogue.is_committing.wait(30)
        bench.catalogue.failures["check_writable"] = StoreUnavailableError("failed earlier")
        bench.submit("b")
        bench.close()
        assert bench.committer.uncommitted == {stored.locator.key}

    def test_an_error_that_nobody_foresaw_keeps_the_payloads_too_and_leaks_nothing(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.catalogue.failures["commit"] = ValueError("a secret")
        with caplog.at_level(logging.ERROR):
            bench.all_at_once(["a", "b"])
            bench.close()
        for name in ("a", "b"):
            outcome = bench.outcome(name)
            assert isinstance(outcome, StoreUnavailableError)
            assert str(outcome) == "the commit failed; see the server's log"
        assert len(list(bench.store.published())) == 2
        assert "a secret" in caplog.text

    def test_payloads_of_those_that_lost_are_deleted(self, bench: Bench) -> None:
        existing = stored_tensor(DATASET, "same", key="00/" + "0" * 32).committed(1, 1, 0)

        def outcomes(group: Sequence[StoredTensor]) -> list[Tensor | Exception]:
            if len(group) == 1:
                return commit_all(group)
            return [
                group[0].committed(2, 2, 0),
                AlreadyExistsError("taken", dataset="d", tensor="taken"),
                existing,
                DatasetNotFoundError("gone", dataset="d"),
                group[4].committed(3, 3, 0),
            ]

        bench.catalogue.outcomes = outcomes
        bench.all_at_once(["won", "taken", "same", "gone", "also"])
        bench.close()
        outcome, other = bench.outcome("won"), bench.outcome("also")
        assert isinstance(outcome, Tensor)
        assert isinstance(other, Tensor)
        assert {stored.key for stored in bench.store.published()} == {outcome.locator.key, other.locator.key}
        assert bench.outcome("same") == existing
        assert isinstance(bench.outcome("taken"), AlreadyExistsError)
        assert isinstance(bench.outcome("gone"), DatasetNotFoundError)

    def test_payloads_that_cannot_be_deleted_are_left_to_the_sweep(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.store.failures["delete"] = OSError(errno.EIO, "Input/output error")
        bench.catalogue.failures["commit"] = StorageFullError("full")
        with caplog.at_level(logging.WARNING):
            bench.all_at_once(["a", "b"])
            bench.close()
        assert isinstance(bench.outcome("a"), StorageFullError)
        assert len(list(bench.store.published())) == 2
        assert caplog.text.count("could not be deleted and is left to the daily listing") == 2

    @pytest.mark.parametrize("where", ["publish", "commit"])
    @pytest.mark.parametrize(
        "error", [StoreUnavailableError("no"), StorageFullError("full"), ValueError("?")], ids=repr
    )
    def test_the_next_group_is_committed_after_one_that_failed(
        self, bench: Bench, where: str, error: Exception
    ) -> None:
        failures = bench.store.failures if where == "publish" else bench.catalogue.failures
        if where == "publish" and isinstance(error, ValueError):
            # What was staged is dropped with the process: only known errors of a store are foreseen there.
            bench.store.drop = lambda _: None  # type: ignore[method-assign]
        failures[where] = error
        bench.submit("fails")
        waited = threading.Event()
        bench.committer.submit(
            bench.commit([stored_tensor(DATASET, "x", inline_payload=b"")], [], lambda _: waited.set())
        )
        assert waited.wait(30)
        failures.clear()
        bench.submit("next")
        bench.close()
        assert isinstance(bench.outcome("next"), Tensor)
        bench.store._staged.clear()


class TestObjects:
    """Payloads in an object store, where another writer may go on with them."""

    @pytest.fixture(autouse=True)
    def in_segments(self, bench: Bench) -> None:
        bench.store.shard = "s1-0-5"

    def test_those_of_tensors_that_failed_are_left_to_the_sweep_unless_another_writer_has_them(
        self, bench: Bench
    ) -> None:
        lost = [SessionTakenOverError("taken over"), WriterLostError("declared dead"), AlreadyExistsError("exists")]
        bench.catalogue.outcomes = lambda group: [*lost, *commit_all(group)[3:]] if group[1:] else commit_all(group)
        submitted = bench.all_at_once(["taken over", "lost", "exists", "committed"])
        bench.close()
        assert bench.catalogue.abandoned == [submitted[2].locator.key]
        assert "delete" not in bench.events

    def test_those_of_a_commit_that_wrote_nothing_are_left_to_the_sweep(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.catalogue.failures["commit"] = StorageFullError("full")
        submitted = [bench.submit(name).locator.key for name in "ab"]
        bench.close()
        assert sorted(bench.catalogue.abandoned) == sorted(submitted)
        assert "delete" not in bench.events
        assert caplog.records == []

    def test_what_cannot_be_left_is_logged(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        bench.catalogue.failures |= {"commit": StorageFullError("full"), "abandon": StoreUnavailableError("away")}
        bench.submit("a")
        bench.close()
        assert isinstance(bench.outcome("a"), StorageFullError)
        assert caplog.messages == ["1 objects that no tensor uses cannot be given up yet: away"]

    @pytest.mark.parametrize("error", [StoreUnavailableError("unknown"), ValueError("a fault")])
    def test_those_of_a_commit_with_an_unknown_outcome_are_given_up_when_the_catalogue_answers(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        monkeypatch.setattr("tensorus_server.engine.insert.committer._GIVE_UP_AGAIN_S", 0.0)
        bench.catalogue.failures |= {"commit": error, "abandon": StoreUnavailableError("away")}
        is_back = threading.Event()

        def come_back(*, idle: bool) -> None:
            bench.catalogue.maintained.append(idle)
            bench.catalogue.failures.clear()
            is_back.set()

        bench.catalogue.maintain = come_back  # type: ignore[method-assign]
        key = bench.submit("a").locator.key
        assert is_back.wait(30)
        assert bench.catalogue.abandoned == []
        bench.close()
        assert isinstance(bench.outcome("a"), StoreUnavailableError)
        assert bench.catalogue.abandoned == [key]
        assert "delete" not in bench.events


class TestMaintenance:
    """Between groups and when idle the catalogue may tidy up; that it cannot stops nobody."""

    def test_it_happens_after_every_group(self, bench: Bench) -> None:
        bench.all_at_once(["a"])
        bench.close()
        assert bench.catalogue.maintained[:2] == [False, False]

    def test_it_happens_when_nothing_comes(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tensorus_server.engine.insert.committer._IDLE_S", 0.001)
        told = threading.Event()
        maintain = bench.catalogue.maintain

        def tell(*, idle: bool) -> None:
            maintain(idle=idle)
            if idle:
                told.set()

        bench.catalogue.maintain = tell  # type: ignore[method-assign]
        bench.submit("a")
        assert told.wait(30)

    @pytest.mark.parametrize("error", [OSError(errno.EIO, "?"), StoreUnavailableError("no"), ValueError("?")], ids=repr)
    def test_one_that_fails_stops_no_commit(self, bench: Bench, error: Exception) -> None:
        bench.catalogue.failures["maintain"] = error
        for name in ("a", "b", "c"):
            bench.all_at_once([name])
            del bench.outcomes["first"]
        bench.close()
        assert all(isinstance(bench.outcome(name), Tensor) for name in ("a", "b", "c"))


def test_a_commit_that_does_not_end_fails_the_store(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.catalogue.may_commit.clear()
    bench.submit("hangs")
    assert bench.catalogue.is_committing.wait(30)
    bench.committer.check()
    bench.health.require()
    monkeypatch.setattr(background, "STUCK_S", 0.0)
    bench.committer.check()
    with pytest.raises(StoreUnavailableError, match="a commit does not end"):
        bench.health.require()
    bench.catalogue.may_commit.set()


def test_a_committer_that_waits_for_work_is_not_stuck(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.submit("done")
    bench.committer.close(30)
    monkeypatch.setattr(background, "STUCK_S", 0.0)
    bench.committer.check()
    bench.health.require()
