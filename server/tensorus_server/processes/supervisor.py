"""The supervisor: starts and monitors the worker processes, which serve one port and one store together.

    starting ─ READY → serving ─ ended → waiting ─ delay is over → starting ...
        └─ FAILED, or ended ──────────────→ waiting

The supervisor reserves the port (`port.py`) and forwards messages between workers (`control.py`). It never uses gRPC, which
does not survive a fork; the workers are fresh interpreters. Workers end when the supervisor ends.

A worker that ends, or fails to start, is started again while the others continue. The whole server stops if no worker serves
and all have failed to start. It also stops if the store failed: all workers share it, and only a restart can clear that up, as
for a server of one process.

If the service manager has a watchdog, a worker that serves no calls for as long as the watchdog allows is killed and started
again (`service_manager.py`).

This module must not import gRPC, nor any module that does.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.metrics.board import Board
from tensorus_server.metrics.showing import shown
from tensorus_server.processes.control import Channel, Kind, Message
from tensorus_server.processes.port import ReservedPort
from tensorus_server.processes.service_manager import SILENT, ServiceManager
from tensorus_server.processes.signals import stop_event

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from tensorus_server.config import ServerConfig
    from tensorus_server.metrics.showing import Showing

__all__ = ["BOARD", "SETTINGS", "supervise"]

SETTINGS = "TENSORUS_WORKER_SETTINGS"
"""The environment variable with a worker's settings."""

BOARD = "TENSORUS_WORKER_METRICS"
"""The environment variable with the descriptor of the memory for a worker's metrics; missing: there are none."""

_LOOK_S = 0.2
"""How often the supervisor checks whether it was told to stop, and which workers are due to start."""

_DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Delays before the first, second, ... restart of a worker; the last one repeats. A worker that keeps crashing may cost the
others memory and time."""

_STEADY_S = 60.0
"""After a worker has served for this long, its next restart has the first delay again."""

_log = logging.getLogger(__name__)


def supervise(config: ServerConfig, command: Sequence[str], on_ready: Callable[[str], None]) -> None:
    """Serve with `config.workers` processes until SIGTERM or SIGINT, then stop gracefully; a second signal ends all of them.

    Args:
        command: starts a worker, which calls `work`. The descriptor of its connection is appended. Its settings, a
            `ServerConfig` as JSON, are in the environment variable `SETTINGS`, since they may hold a password, and every user
            of the machine can see arguments.
        on_ready: called with the address once all workers serve.

    Raises:
        StoreUnavailableError: the port is not available, no worker can start, or the store failed while serving.
        ImportError: a worker lacks a library.
    """
    manager = ServiceManager.from_environment()
    with shown(config.metrics_listen) as metrics, ReservedPort(config.listen) as port:
        supervisor = _Supervisor(config, [*command], port.address, stop_event(), manager, metrics=metrics)
        if metrics is not None:
            metrics.serve(supervisor.has_serving, supervisor.counts)

        def complete() -> None:
            on_ready(port.address)
            manager.ready(f"serves {config.engine.describe()} on {port.address}, {config.workers} workers")

        try:
            supervisor.run(complete)
        finally:
            manager.stopping(config.grace_s)
            supervisor.stop()


class _Worker:
    """One of the workers by number, and its current process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.running: tuple[subprocess.Popen[bytes], Channel] | None = None
        self.serves = False
        self.has_failed = False
        """Whether its process has reported that it cannot serve, so that its end needs no further warning."""
        self.due_s = 0.0
        """When to start it, on the monotonic clock."""
        self.attempts_failed = 0
        """Failed starts since it last served."""
        self.hangs = False
        """Whether it was killed since it served no calls, and has not ended yet."""
        self.served_s = 0.0
        """When it last served calls, on the monotonic clock."""
        self._serving_since_s = 0.0
        self._deaths = 0

    def begin_to_serve(self) -> None:
        self.serves = True
        self._serving_since_s = self.served_s = time.monotonic()

    def silent_s(self) -> float:
        """Return for how long it has served no calls, in seconds."""
        return time.monotonic() - self.served_s

    def end(self) -> float:
        """Note that its process ended, or could not be started; return the delay before the next start, in seconds."""
        now_s = time.monotonic()
        if self.serves and now_s - self._serving_since_s >= _STEADY_S:
            self._deaths = 0
        self.attempts_failed = 0 if self.serves else self.attempts_failed + 1
        delay_s = _DELAYS_S[min(self._deaths, len(_DELAYS_S) - 1)]
        self._deaths += 1
        self.running, self.serves, self.has_failed, self.due_s = None, False, False, now_s + delay_s
        self.hangs = False
        return delay_s

    def __str__(self) -> str:
        return f"worker {self.number}" + ("" if self.running is None else f" (process {self.running[0].pid})")


class _Supervisor:
    """See the module's description. Not thread-safe, except what metrics need: `has_serving` and `counts`."""

    def __init__(
        self,
        config: ServerConfig,
        command: list[str],
        address: str,
        stopping: threading.Event,
        manager: ServiceManager = SILENT,
        *,
        metrics: Showing | None = None,
    ) -> None:
        self._manager = manager
        self._command = command
        self._settings = config.of_worker(address).to_json()
        self._stopping = stopping
        self._metrics = metrics
        self._starts = 0
        self._workers = [_Worker(number) for number in range(1, config.workers + 1)]
        self._selector = selectors.DefaultSelector()
        self._complete = False
        """Whether all workers have served at the same time."""
        self._told = config.workers
        """How many workers serve, as the service manager was told."""

    def run(self, on_complete: Callable[[], None]) -> None:
        """Start the workers and monitor them until it is time to stop. Raises the errors of `supervise`."""
        while not self._stopping.is_set():
            for worker in self._workers:
                if worker.running is None and time.monotonic() >= worker.due_s:
                    self._start(worker)
            for key, _ in self._selector.select(_LOOK_S):
                self._handle(key.data)
            if not self._complete and all(worker.serves for worker in self._workers):
                self._complete = True
                on_complete()
            if self._complete:
                self._tell()
                if self._manager.watchdog_s is not None:
                    self._watch(self._manager.watchdog_s)

    def has_serving(self) -> bool:
        """Return whether a worker serves, and the server is not about to stop."""
        return not self._stopping.is_set() and any(worker.serves for worker in self._workers)

    def counts(self) -> tuple[int, int, int]:
        """Return how many workers there should be, how many serve, and how often one was started again."""
        wanted = len(self._workers)
        return wanted, sum(worker.serves for worker in self._workers), max(self._starts - wanted, 0)

    def stop(self) -> None:
        """Tell all workers to stop, and wait until they have."""
        _log.info("stopping")
        while any(worker.running for worker in self._workers):
            for worker in self._workers:
                if worker.running is not None:
                    # Sent repeatedly: a worker that is starting, or slow, may not have received it.
                    worker.running[1].send(Message(Kind.STOP))
            for key, _ in self._selector.select(_LOOK_S):
                self._handle_last(key.data)
        self._selector.close()

    def _tell(self) -> None:
        """Tell the service manager how many workers serve, if that has changed."""
        serving = sum(worker.serves for worker in self._workers)
        if serving != self._told:
            self._told = serving
            self._manager.status(f"{serving} of {len(self._workers)} workers serve")

    def _watch(self, watchdog_s: float) -> None:
        """Kill workers that hang, and give a sign of life as long as any worker serves."""
        for worker in self._workers:
            if worker.serves and worker.running is not None and worker.silent_s() > watchdog_s:
                _log.error("%s has served no calls for %.0f s: it hangs, and is killed", worker, worker.silent_s())
                # Its end is handled like that of a crash. Until then it gets another period, since a process that waits for a
                # disk ends only when the disk answers.
                worker.running[0].kill()
                worker.served_s = time.monotonic()
                worker.hangs = True
        if any(worker.serves and not worker.hangs for worker in self._workers):
            self._manager.sign_of_life()

    def _start(self, worker: _Worker) -> None:
        ours, theirs = Channel.pair()
        with theirs, ExitStack() as given:
            command = [*self._command, str(theirs.fileno())]
            try:
                board, environment, descriptors = self._board(worker, given)
                # In its own process group, so that Ctrl-C reaches only the supervisor.
                process = subprocess.Popen(  # noqa: S603 - the command is our own
                    command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), *descriptors],
                    process_group=0,
                    env={**os.environ, SETTINGS: self._settings, **environment},
                )
            except OSError as error:
                ours.close()
                if not self._others_may_serve(worker):
                    raise
                delay_s = worker.end()
                _log.error("%s cannot be started: %s; next attempt in %.0f s", worker, error, delay_s)
                return
        self._starts += 1
        if self._metrics is not None and board is not None:
            self._metrics.add(process.pid, board)
        worker.running = (process, ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _board(self, worker: _Worker, given: ExitStack) -> tuple[Board | None, dict[str, str], list[int]]:
        """Return a board for a worker's metrics, the variable that names its memory, and the descriptor to inherit.

        Args:
            given: closes the descriptor once the worker has it.

        Raises:
            OSError: there is no memory, or no descriptor.
        """
        if self._metrics is None:
            return None, {}, []
        # The workers share the store, so one of them looks up its sizes.
        board, descriptor = Board.for_worker(looks=worker.number == 1)
        given.callback(os.close, descriptor)
        return board, {BOARD: str(descriptor)}, [descriptor]

    def _handle(self, worker: _Worker) -> None:
        """Handle one message of a worker, or its end."""
        assert worker.running is not None
        _, channel = worker.running
        message = channel.receive()
        if message is None:
            self._ended(worker)
        elif message.kind is Kind.READY:
            worker.begin_to_serve()
            _log.info("%s serves", worker)
        elif message.kind is Kind.SERVED:
            worker.served_s = time.monotonic()
        elif message.kind is Kind.NEWER:
            self._pass_on(message, worker)
        else:
            worker.has_failed = True
            if not self._is_fatal(worker, gone=False):
                _log.error("%s: %s", worker, message.text)
            elif message.kind is Kind.NOT_INSTALLED:
                raise ImportError(message.text)
            else:
                raise StoreUnavailableError(message.text)

    def _handle_last(self, worker: _Worker) -> None:
        """Handle one message of a worker that was told to stop: only its end matters."""
        assert worker.running is not None
        message = worker.running[1].receive()
        if message is not None:
            worker.has_failed = worker.has_failed or message.kind in {Kind.FAILED, Kind.NOT_INSTALLED}
            return
        name, was_expected = str(worker), worker.has_failed
        code, _ = self._clean_up(worker)
        if code and not was_expected:
            _log.warning("%s %s while it stopped", name, _how(code))

    def _pass_on(self, message: Message, speaker: _Worker) -> None:
        for other in self._workers:
            if other is not speaker and other.running is not None:
                # If a worker does not receive it now, the sender repeats it: see `sessions.py`.
                other.running[1].send(message)

    def _ended(self, worker: _Worker) -> None:
        name, is_fatal = str(worker), self._is_fatal(worker, gone=True)
        code, delay_s = self._clean_up(worker)
        if is_fatal:
            raise StoreUnavailableError(f"{name} {_how(code)} before it served")
        _log.warning("%s %s; it starts again in %.0f s", name, _how(code), delay_s)

    def _is_fatal(self, worker: _Worker, *, gone: bool) -> bool:
        """Whether the failure of a worker stops the whole server.

        It does if a serving worker reports that its store failed, or if no other worker serves or may still start. A serving
        worker that is simply gone was killed or crashed, and is started again.
        """
        if worker.serves:
            return not gone
        return not self._others_may_serve(worker)

    def _others_may_serve(self, worker: _Worker) -> bool:
        """Whether another worker serves, or is starting and has not failed to start before."""
        return any(
            other.serves or (other.running and not (other.has_failed or other.attempts_failed))
            for other in self._workers
            if other is not worker
        )

    def _clean_up(self, worker: _Worker) -> tuple[int, float]:
        """Clean up after a process that has ended; return its exit code, and the delay before the next start."""
        assert worker.running is not None
        process, channel = worker.running
        self._selector.unregister(channel)
        channel.close()
        code = process.wait()
        if self._metrics is not None:
            self._metrics.ended(process.pid)
        return code, worker.end()


def _how(code: int) -> str:
    """Describe an exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
