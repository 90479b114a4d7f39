"""Threads of the engine that nobody waits for directly, under watch, and waits for them that end.

A `Watched` thread runs one loop for as long as the store is open. An exception that leaves the loop is told to whoever started
it, so that those who wait for the loop can be failed.

A `WorkerPool` runs tasks. A thread of a pool has no state of its own: one that ends takes only its task with it, which fails,
and another thread takes its place. All threads are daemons, so a thread that hangs cannot keep the process from ending.

`result_of` waits for a task, but never for ever. `STUCK_S` is no deadline for work: it is how long a disk or a codec may do
nothing at all before the call that waits for it is ended.
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
    from collections.abc import Callable, Iterable

__all__ = ["LOOK_S", "STUCK_S", "Watched", "WorkerPool", "join_all", "result_of"]

P = ParamSpec("P")
T = TypeVar("T")

LOOK_S = 1.0
"""How often a thread that waits looks whether it still should."""

STUCK_S = 600.0
"""How long one step may take before whoever waits for it gives up: several times what the slowest codec needs for a chunk when
every stream waits for it, and what a disk needs for its longest sync."""

_log = logging.getLogger(__name__)


class Watched:
    """A thread that runs one loop; whoever starts it is told if the loop fails."""

    def __init__(self, name: str, loop: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Start the thread.

        Args:
            loop: returns when the store closes; an exception that it raises ends the thread.
            failed: told that exception, on the thread, as the last thing it does.
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
        """Wait for the loop to return; False, and a line in the log with its stack, where it has not in time."""
        return join_all([self._thread], timeout_s)

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 - whatever it is, nobody else would notice
            self._failed(error)


class WorkerPool:
    """Up to a number of threads that run tasks, started as they are needed. Safe in many threads."""

    def __init__(self, threads: int, name: str) -> None:
        """Start without threads."""
        self._threads_max = threads
        self._name = name
        self._changed = threading.Condition(threading.Lock())
        # `Any`: tasks of all kinds wait here.
        self._tasks: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._closed = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `work` on a thread of the pool.

        Returns:
            Is always done in the end: with what `work` returned or raised, or with why it could not run.

        Raises:
            StoreUnavailableError: the pool is closed, or the system gives it no thread.
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
        """Run no more tasks, fail those that have not begun, and wait for the others. Idempotent.

        Returns:
            Whether all threads have ended in time; the log has the stacks of those that have not.
        """
        with self._changed:
            self._closed = True
            waiting, self._tasks = self._tasks, deque()
            threads = list(self._threads)
            self._changed.notify_all()
        _fail_tasks(waiting, StoreUnavailableError("the store is closed"))
        return join_all(threads, timeout_s)

    def _start_thread_if_needed(self) -> None:
        """Start one more thread where tasks wait for one, and there may be one. The lock is held."""
        if len(self._tasks) <= self._idle or len(self._threads) >= self._threads_max:
            return
        thread = threading.Thread(target=self._run, name=f"tensorus-{self._name}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            self._threads.discard(thread)
            # The others take the task, if there are any.
            if not self._threads:
                raise StoreUnavailableError(f"the system gives no thread for {self._name}: {error}") from error

    def _run(self) -> None:
        try:
            while (task := self._next()) is not None:
                _run_task(*task)
                del task
        except BaseException:  # noqa: BLE001 - whatever it is, the tasks that wait must not be forgotten
            _log.exception("a thread of the pool %s ended; another one takes its place", self._name)
        self._leave()

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """Wait for a task, without a limit: only `submit` and `close` have something to say to a thread without one."""
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
        """Note that this thread ends; where tasks wait, another one takes its place, or they fail."""
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
    """Run a task and let its future know; whatever happens, the future is done afterwards."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for the task gets it
        future.set_exception(error)
    else:
        future.set_result(result)


def result_of(future: Future[T], what: str, check: Callable[[], None] = lambda: None) -> T:
    """Wait for a task of another thread and return its result, or raise what it raised.

    Args:
        what: is waited for, for the error.
        check: called from time to time; what it raises ends the wait.

    Raises:
        StoreUnavailableError: it has not ended after `STUCK_S`.
    """
    give_up_s = time.monotonic() + STUCK_S
    while True:
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            if future.done():
                # The task's own error, or one that it ended with just now.
                return future.result()
            check()
            if time.monotonic() > give_up_s:
                raise StoreUnavailableError(f"{what} has not ended after {STUCK_S:.0f} s (stuck_s)") from None


def join_all(threads: Iterable[threading.Thread], timeout_s: float) -> bool:
    """Wait for threads to end, together no longer than `timeout_s`; log the stack of each that has not, and return False."""
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
