"""The threads that encode and decode chunks, shared by all streams.

The codec libraries release the GIL, so threads are enough. Work is handed out chunk by chunk and comes back in order; who
hands out decides how much may be under way, and so how much memory it takes.
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
        """Use as many threads as there are processors, or `threads`."""
        self.threads = threads or os.cpu_count() or 1
        self._workers = WorkerPool(self.threads, "codec")

    @property
    def depth(self) -> int:
        """Chunks of one stream that should be under way: one a thread, and one that waits."""
        return self.threads + 1

    def submit(self, work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run `work` on a thread of the pool.

        Raises:
            StoreUnavailableError: the pool is closed, or the system gives it no thread.
        """
        return self._workers.submit(work, *args, **kwargs)

    def result_of(self, future: Future[R]) -> R:
        """Wait for what `submit` began, and return what it returned, or raise what it raised.

        Raises:
            StoreUnavailableError: a codec hangs.
        """
        return background.result_of(future, "the codec of a chunk")

    def map_in_order(self, work: Callable[[T], R], inputs: Iterable[T]) -> Iterator[R]:
        """Yield `work(input)` for each input, in order, with at most `depth` of them under way or waiting to be taken.

        If the caller stops early, what is under way is waited for, so that nothing it uses is closed too soon.
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
        """Fail what has not begun, wait for what is under way, and end the threads. Idempotent.

        Returns:
            Whether all of them have ended in time.
        """
        return self._workers.close(timeout_s)
