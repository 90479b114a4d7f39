"""What the parts of a store measure of themselves: counts and durations, as plain values that others may read.

Nothing here knows who reads them. `metrics/` shows them to Prometheus. A `Trace` is told of the stages of one call, if somebody
traces it.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["BUCKETS_S", "ChunkStoreMeters", "CommitMeters", "Connections", "SweepMeters", "Tally", "Timings", "Trace"]

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of durations, in seconds: from a small call on loopback to a transfer of minutes."""


class Trace(Protocol):
    """Is told of the stages of one call, on any thread; must be fast and must not raise."""

    def stage(self, name: str, begun_ns: int, ended_ns: int, about: Mapping[str, str | int | float]) -> None:
        """Note a stage that has ended.

        Args:
            name: what was done.
            begun_ns: when it began, in nanoseconds since 1970; likewise its end.
            ended_ns: as above.
            about: what it was about, such as "tensor" with an id.
        """


class Timings:
    """Durations, counted by bucket. Thread-safe; one observation takes less than a microsecond."""

    def __init__(self) -> None:
        """Start without observations."""
        self._lock = threading.Lock()
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        bucket = bisect_left(BUCKETS_S, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum_s += seconds

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Count how long the block takes, also if it raises."""
        begun_s = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun_s)

    def read(self) -> tuple[list[int], float]:
        """Return the count of each bucket, the last one without an upper bound, and the sum of all durations in seconds."""
        with self._lock:
            return self._counts.copy(), self._sum_s


class Tally:
    """Counts by key, of things that are rare. Thread-safe."""

    def __init__(self) -> None:
        """Start without counts."""
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, *key: str) -> None:
        """Count one more of a key."""
        with self._lock:
            self._counts[key] += 1

    def read(self) -> Mapping[tuple[str, ...], int]:
        """Return a copy of the counts."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True)
class ChunkStoreMeters:
    """What a chunk store has done since it was opened. Its parts go on counting."""

    syncs: Timings = field(default_factory=Timings)
    """Syncs of files and folders to the disk."""
    requests: Mapping[str, int] = field(default_factory=dict)
    """Attempts of requests to an object store, by their kind: "put", "get", "list", "delete", "head", "sign"."""
    retries: Mapping[str, int] = field(default_factory=dict)
    """Those of them that repeated a failed one, by their kind."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Requests that failed after their last attempt, by their kind. That an object does not exist is no failure."""


@dataclass(frozen=True)
class Connections:
    """Connections to a database, now."""

    used: int
    idle: int
    limit: int


@dataclass
class CommitMeters:
    """What the committer has done. Written by its thread alone."""

    commits: Timings = field(default_factory=Timings)
    """Commits of tensors, with the publication of their payloads before it."""
    tensors: int = 0
    """Tensors that were in them."""


@dataclass
class SweepMeters:
    """What the sweeper has done. Written by its thread alone."""

    runs: Timings = field(default_factory=Timings)
    """Rounds that ended without an error."""
    is_on: bool = False
    """Whether this process sweeps at all."""
    failures: int = 0
    """Rounds that failed."""
    last_success_s: float | None = None
    """When the last round ended without an error, in seconds since 1970; None: none did."""
