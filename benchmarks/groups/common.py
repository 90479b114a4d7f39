"""What the groups share: servers as processes, warm memory, and alternating runs."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024


@contextmanager
def tensorus_server() -> Iterator[tuple[str, int]]:
    """Run a server on an empty folder; yield its address and process id."""
    with (
        tempfile.TemporaryDirectory(prefix="tensorus-bench-") as folder,
        process(["-m", "tensorus", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder]) as (line, pid),
    ):
        found = re.search(r" on (\S+),", line)
        if found is None:
            raise SystemExit(f"the server did not start: {line}")
        yield found.group(1), pid


@contextmanager
def process(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """Run Python with these arguments; yield its first line and its process id, and end it afterwards."""
    running = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        assert running.stdout is not None
        yield running.stdout.readline(), running.pid
    finally:
        running.terminate()
        running.communicate()


def warm_up_memory(mebibytes: int) -> None:
    """Touch as much page cache as the runs will use, and give it back.

    On a virtual machine the first touch of memory that it never used costs several times more than later ones.
    """
    with tempfile.TemporaryFile() as file:
        block = bytes(MIB)
        for _ in range(mebibytes):
            file.write(block)


def alternate(contestants: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run the contestants in turn, once unmeasured and then `repeats` times; return the seconds of each run."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def rates(seconds: list[float], amount: float) -> tuple[float, float, float]:
    """Return the median, smallest and largest rate of runs that did `amount` each."""
    found = sorted(amount / run for run in seconds)
    return statistics.median(found), found[0], found[-1]
