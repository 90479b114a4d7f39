"""Patterns of work: repeated, and concurrent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

__all__ = ["Load", "at_once", "repeat"]


@dataclass(frozen=True)
class Load:
    """What many streams do together, and how they are spread over processes."""

    counts: Sequence[int]
    """Numbers of streams."""
    processes: int
    tensors: int
    """Moved in a run, by all streams together."""
    mebibytes: int
    """Of each tensor."""

    def streams_of(self, process: int, count: int | None = None) -> range:
        """Return which of `count` streams, or of the most there are, a process has."""
        return range(process, max(self.counts) if count is None else count, self.processes)


def repeat(count: int, work: Callable[[], object]) -> object:
    """Do it `count` times; return the last result. No two results are held at once."""
    result: object = None
    for _ in range(count):
        result = None
        result = work()
    return result


def at_once(pool: ThreadPoolExecutor, works: Sequence[Callable[[], object]], count: int) -> list[object]:
    """Do each work `count` times, all of them at once, on threads of the pool; return the last result of each."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        return repeat(count, work)

    return list(pool.map(run, works))
