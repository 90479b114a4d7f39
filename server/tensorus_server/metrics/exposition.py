"""Puts the values of one or several processes together and shows them in Prometheus' text format.

Counters never go backwards: what a process had counted when it ended is added to what ended processes counted before. Gauges
are those of the living processes alone.
"""

from __future__ import annotations

import math
import threading
from array import array
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from tensorus_server.meters import BUCKETS_S
from tensorus_server.metrics.board import GROWING, PLACES
from tensorus_server.metrics.families import Kind
from tensorus_server.metrics.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from tensorus_server.metrics.board import Board, Place

__all__ = ["CONTENT_TYPE", "Exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of `Exposition.text`."""

_BOUNDS = (*(f"{bound:g}" for bound in BUCKETS_S), "+Inf")

_AT_ZERO = frozenset({"OK", "INTERNAL", "STORAGE_FULL", "STORE_UNAVAILABLE", "TOO_MANY_STREAMS"})
"""Outcomes that are shown at 0, too: PromQL's `increase` does not see the first event of a series that was missing before."""


class Exposition:
    """The metrics of a server. Thread-safe."""

    def __init__(self) -> None:
        """Start without processes."""
        self._lock = threading.Lock()
        self._boards: dict[int, Board] = {}
        self._ended: array[float] | None = None
        self.workers: Callable[[], tuple[int, int, int]] | None = None
        """Returns how many workers there should be, how many serve, and how often one was started again; None: there are no
        workers."""
        self._processes = Processes(self._pids)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._registry.register(self._processes)

    def add(self, pid: int, board: Board) -> None:
        """Show the values of one more process, this one included."""
        with self._lock:
            self._boards[pid] = board

    def ended(self, pid: int) -> None:
        """Keep what a process has counted that has ended, and close its board."""
        with self._lock:
            board = self._boards.pop(pid, None)
            if board is None:
                return
            self._ended = self._grown([board])
            board.close()

    def text(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Return all metrics but those of processes, for the library."""
        with self._lock:
            boards = list(self._boards.values())
            grown = self._grown(boards)
            now = [array("d", board.values) for board in boards]
        yield InfoMetricFamily("tensorus_build", "Version of the server.", value={"version": version("tensorus")})
        for place in PLACES.values():
            if (metric := _shown(place, grown, now)) is not None:
                yield metric
        if self.workers is not None:
            yield from _of_workers(*self.workers())

    def _pids(self) -> list[int]:
        with self._lock:
            return list(self._boards)

    def _grown(self, boards: Sequence[Board]) -> array[float]:
        """Return the sums of what only grows, ended processes included; other places are meaningless. The lock is held."""
        arrays = [board.values for board in boards]
        if self._ended is not None:
            return array("d", map(sum, zip(self._ended, *arrays, strict=True)))
        return array("d", map(sum, zip(*arrays, strict=True)))


def _shown(place: Place, grown: array[float], now: Sequence[array[float]]) -> Metric | None:
    """Return a family with the series that have a value; None: none has."""
    family = place.family
    if family.kind in GROWING:
        if not grown:
            return None
        return _histogram(place, grown) if family.kind is Kind.HISTOGRAM else _counter(place, grown)
    gauge = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for index, labels in enumerate(family.values, place.start):
        found = [values[index] for values in now if not math.isnan(values[index])]
        if found:
            gauge.add_metric(labels, max(found) if family.kind is Kind.SHARED else sum(found))
    return gauge if gauge.samples else None


def _counter(place: Place, grown: array[float]) -> Metric:
    family = place.family
    counter = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for index, labels in enumerate(family.values, place.start):
        if grown[index] or len(family.labels) < 2 or labels[-1] in _AT_ZERO:
            counter.add_metric(labels, grown[index])
    return counter


def _histogram(place: Place, grown: array[float]) -> Metric:
    family = place.family
    histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    for number, labels in enumerate(family.values):
        start = place.start + number * place.step
        counts = list(accumulate(grown[start : start + len(_BOUNDS)]))
        if counts[-1] or not family.labels:
            histogram.add_metric(labels, list(zip(_BOUNDS, counts, strict=True)), grown[start + len(_BOUNDS)])
    return histogram


def _of_workers(wanted: int, serving: int, restarts: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("tensorus_workers", "Workers that the server should have.", value=wanted)
    yield GaugeMetricFamily("tensorus_workers_serving", "Workers that serve.", value=serving)
    yield CounterMetricFamily(
        "tensorus_worker_restarts_total", "How often a worker that had ended was started again.", value=restarts
    )
