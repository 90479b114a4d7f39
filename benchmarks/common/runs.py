"""Contestants, and their alternating runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.peaks import Growth
from common.processes import Client, Server, run_server
from common.settings import MIB

__all__ = ["Contestant", "Here", "Measured", "Run", "Start", "Transfer", "alternate"]


@dataclass(frozen=True)
class Run:
    """What one run took. None: there is no such process."""

    seconds: float
    server_cpu_s: float | None = None
    client_cpu_s: float | None = None
    server_mib: float | None = None
    """Peak of the server's resident memory over what it was before the run."""
    client_mib: float | None = None
    """The same of the client, less the arrays that it received."""
    store_cpu_s: float | None = None
    """Of the object store."""


class Contestant(Protocol):
    """What can be run again and again."""

    def run(self) -> Run:
        """Run once."""
        ...


@dataclass(frozen=True)
class Transfer:
    """One action of one client, or of several at once, on a server or on none."""

    clients: Sequence[Client]
    action: str
    server: Server | None = None
    after: str | None = None
    """An action of the first client that tidies up after each run, unmeasured."""
    store_cpu_s: Callable[[], float] | None = None
    """Returns the processor time that the object store has used so far, where there is one."""

    def run(self) -> Run:
        """Run once: from the first client's beginning to the last one's end."""
        pids = [] if self.server is None else self.server.pids
        cpu_s = 0.0 if self.server is None else self.server.cpu_s()
        store_cpu_s = None if self.store_cpu_s is None else self.store_cpu_s()
        with Growth(pids) as growth:
            for client in self.clients:
                client.start(self.action)
            runs = [client.finish() for client in self.clients]
        server_cpu_s = None if self.server is None else self.server.cpu_s() - cpu_s
        if self.store_cpu_s is not None and store_cpu_s is not None:
            store_cpu_s = self.store_cpu_s() - store_cpu_s
        if self.after is not None:
            self.clients[0].run(self.after)
        return Run(
            seconds=max(run.ended_s for run in runs) - min(run.started_s for run in runs),
            server_cpu_s=server_cpu_s,
            client_cpu_s=sum(run.cpu_s for run in runs),
            server_mib=None if self.server is None else growth.peak_bytes / MIB,
            client_mib=sum(run.grown_bytes for run in runs) / MIB,
            store_cpu_s=store_cpu_s,
        )


@dataclass(frozen=True)
class Start:
    """A process that starts, says that it is ready, and is ended."""

    arguments: Sequence[str]

    def run(self) -> Run:
        """Run once: from the start of the process to its first line. Memory is all that it has then."""
        with run_server(*self.arguments) as server:
            return Run(server.start_s, server_cpu_s=server.cpu_s(), server_mib=server.rss_mib())


@dataclass(frozen=True)
class Here:
    """A function in this process, on one thread."""

    work: Callable[[], object]

    def run(self) -> Run:
        """Run once."""
        cpu_s, started_s = time.process_time(), time.perf_counter()
        self.work()
        return Run(time.perf_counter() - started_s, client_cpu_s=time.process_time() - cpu_s)


@dataclass(frozen=True)
class Measured:
    """The runs of one contestant."""

    runs: Sequence[Run]
    """Without the warm-up."""
    server_mib: float | None
    """The largest of all runs, the warm-up among them: what a process takes once and keeps would not show otherwise."""
    client_mib: float | None

    @property
    def server_cpu_s(self) -> float | None:
        """Processor time of the server in a run, on average."""
        return _mean([run.server_cpu_s for run in self.runs])

    @property
    def client_cpu_s(self) -> float | None:
        """The same of the client."""
        return _mean([run.client_cpu_s for run in self.runs])

    @property
    def store_cpu_s(self) -> float | None:
        """The same of the object store."""
        return _mean([run.store_cpu_s for run in self.runs])


def alternate(
    contestants: Mapping[str, Contestant], repeats: int, report: Callable[[str], None], *, warm_ups: int = 1
) -> dict[str, Measured]:
    """Run the contestants in turn, `warm_ups` times unmeasured and then `repeats` times; return the runs of each."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    for turn in range(warm_ups + repeats):
        for name, contestant in contestants.items():
            report(f"{name}, run {turn + 1} of {warm_ups + repeats}")
            runs[name].append(contestant.run())
    return {
        name: Measured(
            found[warm_ups:],
            _largest([run.server_mib for run in found]),
            _largest([run.client_mib for run in found]),
        )
        for name, found in runs.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
