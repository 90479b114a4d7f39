"""Background threads whose failures are reported, and waits for them that always end.

A `Watched` thread runs one loop while the store is open. If an exception ends the loop, the thread reports it to its owner,
which can then fail the callers that wait for the loop.

A `WorkerPool` runs tasks. Its threads have no state: if one ends, only its current task fails, and another thread replaces it.
All threads are daemons, so a hanging thread cannot keep the process from exiting.

`result_of` waits for a task with a timeout. `STUCK_S` is not a deadline for work. It is how long a disk or a codec may make no
progress at all before the waiting call fails.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["LOOK_S", "STUCK_S", "Watched", "WorkerPool", "close_parts", "join_all", "result_of"]

P = ParamSpec("P")
T = TypeVar("T")

LOOK_S = 1.0
"""How often a waiting thread checks whether it should still wait."""

STUCK_S = 600.0
"""How long one step may take before its caller gives up: several times what the slowest codec needs for a chunk while all
streams use it, and what a disk needs for its longest fsync."""

_PART_TIMEOUT_MIN_S = 0.5

_log = logging.getLogger(__name__)


class Watched:
    """A thread that runs one loop, and reports to its owner if the loop fails."""

    def __init__(self, name: str, loop: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Start the thread.

        Args:
            loop: returns when the store closes; an exception ends the thread.
            failed: called with that exception, on the thread, just before it ends.
        """
        self._loop = loop
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name=f"tensorus-{name}", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the loop is running."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the loop to return; if it does not in time, log its stack and return False."""
        return join_all([self._thread], timeout_s)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - nobody else would notice any error here
            self._failed(error)


class WorkerPool:
    """Runs tasks on up to `threads` threads, which are started on demand. Thread-safe."""

    def __init__(self, threads: int, name: str) -> None:
        """Start without threads."""
        self._threads_max = threads
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        # `Any`: the queue holds tasks with different results.
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` on a thread of the pool.

        Returns:
            A future that always gets done: with the result or the error of `work`, or with an error if it could not run.

        Raises:
            StoreUnavailableError: the pool is closed, or the system cannot start a thread.
        """
        future: Future[T] = Future()
        task = (future, partial(work, *args, **kwargs))
        with self._changed:
            if self._closed:
                raise StoreUnavailableError("the store is closed")
            self._tasks.append(task)
            try:
                self._start_thread_if_needed()
            except BaseException:
                self._tasks.remove(task)
                raise
            self._changed.notify()
        return future

    def close(self, timeout_s: float) -> bool:
        """Accept no more tasks, fail those that have not started, and wait for running ones. Idempotent.

        Returns:
            Whether all threads have ended in time; the stacks of others are logged.
        """
        with self._changed:
            self._closed = True
            waiting, self._tasks = self._tasks, deque()
            threads = list(self._threads)
            self._changed.notify_all()
        _fail_tasks(waiting, StoreUnavailableError("the store is closed"))
        return join_all(threads, timeout_s)

    def _start_thread_if_needed(self) -> None:
        """Start one more thread if tasks wait for one and the limit allows it. The lock is held."""
        if len(self._tasks) <= self._idle or len(self._threads) >= self._threads_max:
            return
        thread = threading.Thread(target=self._run, name=f"tensorus-{self._name}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            # Other threads of the pool, if any, will run the task.
            if not self._threads:
                raise StoreUnavailableError(f"the system cannot start a thread for {self._name}: {error}") from error

    def _run(self) -> None:
        try:
            while (task := self._next()) is not None:
                _run_task(*task)
                # Releases the task's memory before the thread waits for the next one.
                del task
        except BaseException:  # noqa: BLE001 - waiting tasks must not be lost, whatever the error
            _log.exception("a thread of the pool %s ended; another one takes its place", self._name)
        self._leave()

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a task; return None if the pool is closed. It needs no timeout: `submit` and `close` always notify."""
        with self._changed:
            while not self._tasks:
                if self._closed:
                    return None
                self._idle += 1
                try:
                    self._changed.wait()
                finally:
                    self._idle -= 1
            return self._tasks.popleft()

    def _leave(self) -> None:
        """Remove this thread from the pool. If tasks are waiting, start another thread, or fail them if that is impossible."""
        waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        with self._changed:
            self._threads.discard(threading.current_thread())
            try:
                self._start_thread_if_needed()
            except StoreUnavailableError as error:
                waiting, self._tasks = self._tasks, waiting
                failure = error
        if waiting:
            _fail_tasks(waiting, failure)


def _fail_tasks(tasks: Iterable[tuple[Future[Any], Callable[[], Any]]], error: Exception) -> None:
    for future, _ in tasks:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)


def _run_task(future: Future[T], work: Callable[[], T]) -> None:
    """Run a task and complete its future, whatever happens."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - passed on to whoever waits for the task
        future.set_exception(error)
    else:
        future.set_result(result)


def result_of(future: Future[T], what: str, check: Callable[[], None] = lambda: None) -> T:
    """Wait for a task of another thread and return its result, or raise its error.

    Args:
        what: what the caller waits for, for the message.
        check: called every `LOOK_S`; an exception that it raises ends the wait.

    Raises:
        StoreUnavailableError: the task has not ended after `STUCK_S`.
    """
    give_up_s = time.monotonic() + STUCK_S
    while True:
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            if future.done():
                # The task itself raised TimeoutError, or it ended just after the wait.
                return future.result()
            check()
            if time.monotonic() > give_up_s:
                raise StoreUnavailableError(f"{what} has not ended after {STUCK_S:.0f} s (stuck_s)") from None


def join_all(threads: Iterable[threading.Thread], timeout_s: float) -> bool:
    """Wait up to `timeout_s` in total for threads to end; if some have not, log their stacks and return False."""
    give_up_s = time.monotonic() + timeout_s
    ended = True
    for thread in threads:
        if thread is threading.current_thread():
            continue
        thread.join(max(give_up_s - time.monotonic(), 0.0))
        if thread.is_alive():
            ended = False
            frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way to another thread's stack
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            _log.error("thread %s has not ended after %.1f s:\n%s", thread.name, timeout_s, stack)
    return ended


def close_parts(parts: Mapping[str, Callable[[float], bool]], timeout_s: float) -> list[str]:
    """Close parts in order, and return the names of those that did not close in time. An error is logged, and the rest closed.

    Args:
        parts: by name; each takes a timeout in seconds and returns whether it was enough.
        timeout_s: for all of them together. Parts that come after one that hangs still get a little time.
    """
    give_up_s = time.monotonic() + timeout_s
    hanging = []
    for name, close in parts.items():
        try:
            ended = close(max(give_up_s - time.monotonic(), _PART_TIMEOUT_MIN_S))
        except Exception:  # noqa: BLE001 - the other parts must be closed, too
            _log.exception("%s could not be closed", name)
            ended = False
        if not ended:
            hanging.append(name)
    return hanging
