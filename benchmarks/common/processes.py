"""Runs servers and clients in separate processes.

Clients have their own processes too. So each library's client has its own interpreter lock, its own allocator with its own
settings, and unused memory, and its processor time and peak memory can be measured separately.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Self, TypeAlias

import psutil

from common.client_process import Action, ClientRun
from common.settings import MIB

__all__ = [
    "Action",
    "Client",
    "Server",
    "cpu_s_of",
    "options_of_serve",
    "run_server",
    "serve_command",
    "tensorus_server",
]

ROOT = Path(__file__).parents[1]
"""Where modules of the benchmark are found."""

STOP_TIMEOUT_S = 30.0

_CPU_CLOCK = 2
"""Of a clock's number: the scheduler's count, of all threads."""

Make: TypeAlias = Callable[..., Mapping[str, Action]]


class Server:
    """A server that has said that it is ready."""

    def __init__(self, running: subprocess.Popen[bytes], line: str, seconds: float) -> None:
        """Take its first line, and how long that took, in seconds."""
        self.line = line
        self.start_s = seconds
        process = psutil.Process(running.pid)
        self._processes = [process, *process.children(recursive=True)]

    @property
    def pids(self) -> list[int]:
        """Its processes: itself, and its workers."""
        return [process.pid for process in self._processes]

    @property
    def address(self) -> str:
        """Where it listens, HOST:PORT: peers print the port alone, Tensorus a sentence."""
        found = re.search(r" on (\S+:\d+)", self.line)
        return found.group(1) if found is not None else f"127.0.0.1:{int(self.line)}"

    def cpu_s(self) -> float:
        """Return the processor time that it has used so far, all threads and processes, in seconds."""
        return sum(map(cpu_s_of, self.pids))

    def rss_mib(self) -> float:
        """Return its resident memory."""
        return float(sum(process.memory_info().rss for process in self._processes)) / MIB


@contextmanager
def run_server(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run Python with these arguments; yield the server once it has printed its first line, and end it afterwards.

    Args:
        arguments: of Python.
        environment: variables that it gets in addition.
    """
    variables = None if environment is None else os.environ | dict(environment)
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        running = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=variables
        )
        try:
            assert running.stdout is not None
            line = running.stdout.readline().decode()
            seconds = time.perf_counter() - started
            if not line:
                raise SystemExit(f"a server did not start: {' '.join(arguments)}\n{_tail(errors)}")
            yield Server(running, line, seconds)
        finally:
            _end(running)


def tensorus_server(folder: Path, *options: str) -> AbstractContextManager[Server]:
    """Run `tensorus serve` on a store; see `run_server`."""
    return run_server(*serve_command(folder, *options))


def serve_command(folder: Path, *options: str) -> list[str]:
    """Return what Python is told in order to serve a store on a free port."""
    return ["-m", "tensorus", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder), *options]


def options_of_serve() -> str:
    """Return the help of `tensorus serve`."""
    command = [sys.executable, "-m", "tensorus", "serve", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Client:
    """One library's client in a process of its own: it makes its actions once, then runs them when it is told to."""

    def __init__(self, make: Make, *arguments: object, **named: object) -> None:
        """Start the process and wait until it is ready.

        Args:
            make: called there with all further arguments; a function of a module, which is the only one of ours that is
                loaded. Returns what can be run, by name.
        """
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._running = subprocess.Popen(
            [sys.executable, "-c", "from common.client_process import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
        )
        self._send((partial(make, **named), arguments))
        self._receive()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.close()

    def start(self, action: str) -> None:
        """Let it run an action; `finish` must follow."""
        self._send(action)

    def finish(self) -> ClientRun:
        """Wait for the action to end, and return what it took."""
        found = self._receive()
        assert isinstance(found, ClientRun)
        return found

    def run(self, action: str) -> ClientRun:
        """Run an action, and return what it took."""
        self.start(action)
        return self.finish()

    def close(self) -> None:
        """End the process."""
        _end(self._running, ask=False)
        self._errors.close()

    def _send(self, what: object) -> None:
        assert self._running.stdin is not None
        try:
            pickle.dump(what, self._running.stdin)
            self._running.stdin.flush()
        except BrokenPipeError:
            raise SystemExit(f"a client has ended:\n{_tail(self._errors)}") from None

    def _receive(self) -> object:
        assert self._running.stdout is not None
        try:
            return pickle.load(self._running.stdout)
        except EOFError:
            self._running.wait()
            raise SystemExit(f"a client has failed:\n{_tail(self._errors)}") from None


def cpu_s_of(pid: int) -> float:
    """Return the processor time of all threads of a process, those that have ended included.

    Source: clock_getcpuclockid(3); what /proc and psutil tell comes in steps of 10 ms.
    """
    try:
        return time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def _end(running: subprocess.Popen[bytes], *, ask: bool = True) -> None:
    """End a process: ask it to, or close its input; kill it if it does not."""
    if ask:
        running.terminate()
    try:
        running.communicate(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.communicate()


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")[-3000:]
