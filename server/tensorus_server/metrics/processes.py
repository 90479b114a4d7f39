"""Metrics of the server's processes, by the names that Prometheus' clients use: processor time, memory, descriptors.

With several workers, each value is the sum over the supervisor and the workers that live, and the processor time includes that
of workers that have ended. Only Linux has these metrics.
"""

from __future__ import annotations

import os
import resource
import threading
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

__all__ = ["Processes"]

_TIME = "process_cpu_seconds_total"
_START = "process_start_time_seconds"
_NAMES = {
    "process_virtual_memory_bytes": "Bytes of address space that the processes have.",
    "process_resident_memory_bytes": "Bytes of memory that the processes use; what they share counts for each.",
    "process_open_fds": "Descriptors that are open.",
    "process_max_fds": "Descriptors that the processes may have open.",
}


class Processes:
    """A collector of the library. Thread-safe."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        """Show this process and those with the ids that `pids` returns."""
        self._pids = pids
        self._lock = threading.Lock()
        self._time_s = 0.0

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; none where the system does not tell them."""
        # Before the living ones: a process that ends in between is missing once, and the time does not go backwards below.
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = [_values_of(pid) for pid in {os.getpid(), *self._pids()}]
        found = [values for values in found if values]
        if not found:
            return
        time_s = usage.ru_utime + usage.ru_stime + sum(values.get(_TIME, 0.0) for values in found)
        with self._lock:
            self._time_s = time_s = max(time_s, self._time_s)
        yield CounterMetricFamily(_TIME, "Seconds of processor time that the processes used.", value=time_s)
        start_s = min(values[_START] for values in found if _START in values)
        yield GaugeMetricFamily(
            _START, "When the first of the processes started, in seconds since 1970.", value=start_s
        )
        for name, text in _NAMES.items():
            yield GaugeMetricFamily(name, text, value=sum(values.get(name, 0.0) for values in found))


def _values_of(pid: int) -> dict[str, float]:
    """Return what the system tells of a process; nothing, if it has ended."""
    metrics = ProcessCollector(pid=lambda: pid, registry=None).collect()
    return {sample.name: sample.value for metric in metrics for sample in metric.samples}
