"""Threads under watch: every task is done in the end, a thread that ends is replaced or told of, and waits end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from support.cases import each
from tensorus_server import background
from tensorus_server.background import Watched, WorkerPool, join_all, result_of
from tensorus_server.engine.health import Health
from tensorus_server.errors import StoreUnavailableError


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    opened = WorkerPool(2, "test")
    yield opened
    assert opened.close(30)


def fail(error: BaseException) -> None:
    raise error


class TestWorkerPool:
    """Up to a number of threads that run tasks."""

    def test_tasks_return_and_raise(self, pool: WorkerPool) -> None:
        assert [pool.submit(divmod, number, 3).result(30) for number in range(50)] == [
            divmod(number, 3) for number in range(50)
        ]
        for error in (ValueError("a value"), KeyboardInterrupt(), SystemExit()):
            with pytest.raises(type(error)):
                pool.submit(fail, error).result(30)
        assert pool.submit(int).result(30) == 0

    def test_no_more_threads_than_asked_for_are_started_and_none_without_need(self) -> None:
        pool, may_end, names = WorkerPool(2, "counted"), threading.Event(), set()

        def work() -> None:
            names.add(threading.current_thread().name + str(threading.get_ident()))
            assert may_end.wait(30)

        assert not any(thread.name == "tensorus-counted" for thread in threading.enumerate())
        tasks = [pool.submit(work) for _ in range(6)]
        assert sum(thread.name == "tensorus-counted" for thread in threading.enumerate()) == 2
        may_end.set()
        for task in tasks:
            task.result(30)
        assert len(names) <= 2
        assert pool.close(30)
        assert not any(thread.name == "tensorus-counted" for thread in threading.enumerate())

    def test_closing_fails_what_has_not_begun_and_waits_for_what_has(self) -> None:
        pool, begun, may_end = WorkerPool(1, "closing"), threading.Event(), threading.Event()

        def work() -> int:
            begun.set()
            assert may_end.wait(30)
            return 7

        running, waiting = pool.submit(work), pool.submit(int)
        assert begun.wait(30)
        assert not pool.close(0.01)
        may_end.set()
        assert pool.close(30)
        assert running.result(0) == 7
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            waiting.result(0)
        with pytest.raises(StoreUnavailableError, match="the store is closed"):
            pool.submit(int)

    def test_a_thread_that_ends_is_replaced(
        self, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        run_task, died = background._run_task, threading.Event()

        def die(*task: object) -> None:
            run_task(*task)  # type: ignore[arg-type]
            died.set()
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(background, "_run_task", die)
            for number in range(10):
                assert pool.submit(int, number).result(30) == number
            assert died.wait(30)
        assert [pool.submit(int, number).result(30) for number in range(10)] == list(range(10))
        assert "another one takes its place" in caplog.text

    def test_without_any_thread_a_task_fails_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool = WorkerPool(1, "test")

        def no_thread(_: object) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(StoreUnavailableError, match="the system cannot start a thread for test"):
                pool.submit(int)
        assert pool.submit(int).result(30) == 0
        assert pool.close(30)


class TestWatched:
    """A thread whose end is noticed."""

    @each("error", [ValueError("a cause"), MemoryError(), SystemExit()])
    def test_an_error_that_leaves_the_loop_is_told(self, error: BaseException) -> None:
        told: list[BaseException] = []
        thread = Watched("test", lambda: fail(error), told.append)
        assert thread.join(30)
        assert told == [error]
        assert not thread.is_alive

    def test_a_loop_that_returns_is_no_failure(self) -> None:
        told: list[BaseException] = []
        assert Watched("test", lambda: None, told.append).join(30)
        assert told == []

    def test_one_that_does_not_end_is_logged_with_its_stack(self, caplog: pytest.LogCaptureFixture) -> None:
        may_end = threading.Event()

        def hang_here() -> None:
            may_end.wait(30)

        thread = Watched("hanging", hang_here, fail)
        with caplog.at_level(logging.ERROR):
            assert not thread.join(0.01)
        assert "thread tensorus-hanging has not ended after 0.0 s" in caplog.text
        assert "in hang_here" in caplog.text
        may_end.set()
        assert thread.join(30)

    def test_a_thread_does_not_wait_for_itself(self) -> None:
        assert join_all([threading.current_thread()], 30)


class TestResultOf:
    """A wait for another thread ends."""

    def test_it_is_what_the_task_returned_or_raised(self) -> None:
        done: Future[int] = Future()
        done.set_result(7)
        assert result_of(done, "it") == 7
        failed: Future[int] = Future()
        failed.set_exception(TimeoutError("the task's own"))
        with pytest.raises(TimeoutError, match="the task's own"):
            result_of(failed, "it")

    def test_a_task_that_never_ends_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(background, "LOOK_S", 0.001)
        monkeypatch.setattr(background, "STUCK_S", 0.01)
        with pytest.raises(StoreUnavailableError, match=r"a sync has not ended after 0 s \(stuck_s\)"):
            result_of(Future(), "a sync")

    def test_the_failure_of_the_store_ends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(background, "LOOK_S", 0.001)
        health = Health()
        health.fail("a test", ValueError("a cause"))
        with pytest.raises(StoreUnavailableError, match="the store failed"):
            result_of(Future(), "a mark", health.require)


class TestHealth:
    """Whether the store can be used."""

    def test_the_first_failure_counts_and_is_logged_with_its_cause(self, caplog: pytest.LogCaptureFixture) -> None:
        health = Health()
        health.require()
        for number in (1, 2):
            health.fail(f"failure {number}", ValueError(f"cause {number}"))
        with pytest.raises(StoreUnavailableError, match="takes no more writes until a restart: failure 1"):
            health.require()
        assert "cause 1" in caplog.text
        assert "cause 2" not in caplog.text

    def test_a_catalogue_that_takes_no_writes_counts_too(self) -> None:
        with pytest.raises(StoreUnavailableError, match="the catalogue failed"):
            Health(lambda: fail(StoreUnavailableError("the catalogue failed"))).require()
