"""The threads that encode and decode chunks, shared by all streams.

The codec libraries release the GIL, so threads run in parallel. Tasks are single chunks, and their results are used in order.
The caller decides how many are in flight, and so how much memory they take.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import wait
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from tensorus_server import background
from tensorus_server.background import WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["CodecPool"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


class CodecPool:
    """A fixed number of threads."""

    def __init__(self, threads: int | None = None) -> None:
        """Use `threads` threads; None: one per processor."""
        self.threads = threads or os.cpu_count() or 1
        self._workers = WorkerPool(self.threads, "codec")

    @property
    def depth(self) -> int:
        """Chunks that one stream should have in flight: one per thread, and one that waits."""
        return self.threads + 1

    def submit(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `work` on a thread of the pool.

        Raises:
            StoreUnavailableError: the pool is closed, or the system starts no thread.
        """
        return self._workers.submit(work, *args, **kwargs)

    def result_of(self, future: Future[R]) -> R:
        """Wait for a task of `submit`, and return its result or raise its error.

        Raises:
            StoreUnavailableError: a codec hangs.
        """
        return background.result_of(future, "the codec of a chunk")

    def map_in_order(self, work: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
        """Yield `work(input)` for each input, in order, with at most `depth` of them in flight or waiting to be yielded.

        If the caller stops early, this waits for running tasks, so that the caller does not close what they still use.
        """
        pending: deque[Future[R]] = deque()
        try:
            for item in inputs:
                pending.append(self.submit(work, item))
                if len(pending) >= self.depth:
                    yield self.result_of(pending.popleft())
            while pending:
                yield self.result_of(pending.popleft())
        finally:
            running = [future for future in pending if not future.cancel()]
            wait(running, background.STUCK_S)

    def close(self, timeout_s: float = background.STUCK_S) -> bool:
        """Fail tasks that have not started, wait for running ones, and end the threads. Idempotent.

        Returns:
            Whether all threads have ended in time.
        """
        return self._workers.close(timeout_s)
