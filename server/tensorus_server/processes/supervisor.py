"""Several processes that serve one port and one store, and the one that starts them and watches over them.

    starting ─ READY → serving ─ ended → waiting ─ its delay is over → starting ...
        └─ FAILED, or ended ──────────────→ waiting

The supervisor holds the port (`port.py`) and never uses gRPC itself, which must not have been in use where a process forks: the
workers are fresh interpreters. It passes on what workers say to each other (`control.py`). They end when it does.

A worker that ends, or cannot begin to serve, is started again, and the others go on meanwhile. The whole server stops where
nobody serves and every one has failed to begin. A store that failed is every worker's store: what only a restart can clear up
stops them all, as it stops a server of one process.

This module must not import gRPC, nor what does.
"""

from __future__ import annotations

import logging
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.control import Channel, Kind, Message
from tensorus_server.processes.port import ReservedPort
from tensorus_server.processes.signals import stop_event

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from tensorus_server.config import ServerConfig

__all__ = ["supervise"]

_LOOK_S = 0.2
"""How often the supervisor looks whether it was told to stop, and who is due."""

_DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Before a worker is started again, the first time, the second..., and so on with the last: what it dies of may take memory and
time from the others."""

_STEADY_S = 60.0
"""A worker that has served for so long begins with the first delay again."""

_log = logging.getLogger(__name__)


def supervise(config: ServerConfig, command: Sequence[str], on_ready: Callable[[str], None]) -> None:
    """Serve with `config.workers` processes until SIGTERM or SIGINT, then stop gracefully; a second signal ends all of them.

    Args:
        command: starts a worker when a descriptor and a `ServerConfig` as JSON follow; it calls `work` with them.
        on_ready: called with the address once all of them serve.

    Raises:
        StoreUnavailableError: the port cannot be had, no worker can begin to serve, or the store failed while serving.
        ImportError: a worker has no library that it needs.
    """
    with ReservedPort(config.listen) as port:
        supervisor = _Supervisor(config, [*command], port.address, stop_event())
        try:
            supervisor.run(lambda: on_ready(port.address))
        finally:
            supervisor.stop()


class _Worker:
    """One place among the workers, and the process that has it now."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.running: tuple[subprocess.Popen[bytes], Channel] | None = None
        self.serves = False
        self.has_failed = False
        """Whether its process has said that it cannot serve: that it ends then is no news."""
        self.due_s = 0.0
        """When it is to be started, on the monotonic clock."""
        self.attempts_failed = 0
        """Starts since it served last, or since the beginning, that came to nothing."""
        self._serving_since_s = 0.0
        self._deaths = 0

    def begin_to_serve(self) -> None:
        self.serves = True
        self._serving_since_s = time.monotonic()

    def end(self) -> float:
        """Note that its process has ended, or could not be started; return the delay in seconds before it is due again."""
        now_s = time.monotonic()
        if self.serves and now_s - self._serving_since_s >= _STEADY_S:
            self._deaths = 0
        self.attempts_failed = 0 if self.serves else self.attempts_failed + 1
        delay_s = _DELAYS_S[min(self._deaths, len(_DELAYS_S) - 1)]
        self._deaths += 1
        self.running, self.serves, self.has_failed, self.due_s = None, False, False, now_s + delay_s
        return delay_s

    def __str__(self) -> str:
        return f"worker {self.number}" + ("" if self.running is None else f" (process {self.running[0].pid})")


class _Supervisor:
    """See the module's description. One thread."""

    def __init__(self, config: ServerConfig, command: list[str], address: str, stopping: threading.Event) -> None:
        self._command = command
        self._settings = config.of_worker(address).to_json()
        self._stopping = stopping
        self._workers = [_Worker(number) for number in range(1, config.workers + 1)]
        self._selector = selectors.DefaultSelector()
        self._complete = False
        """Whether all of them have served at once."""

    def run(self, on_complete: Callable[[], None]) -> None:
        """Start the workers and watch over them until it is time to stop. Errors as of `supervise`."""
        while not self._stopping.is_set():
            for worker in self._workers:
                if worker.running is None and time.monotonic() >= worker.due_s:
                    self._start(worker)
            for key, _ in self._selector.select(_LOOK_S):
                self._hear(key.data)
            if not self._complete and all(worker.serves for worker in self._workers):
                self._complete = True
                on_complete()

    def stop(self) -> None:
        """Let every worker stop, and wait until they have."""
        _log.info("stopping")
        while any(worker.running for worker in self._workers):
            for worker in self._workers:
                if worker.running is not None:
                    # Again and again: one that does not listen yet, or is slow, may not have taken it.
                    worker.running[1].send(Message(Kind.STOP))
            for key, _ in self._selector.select(_LOOK_S):
                self._hear_last(key.data)
        self._selector.close()

    def _start(self, worker: _Worker) -> None:
        ours, theirs = Channel.pair()
        with theirs:
            command = [*self._command, str(theirs.fileno()), self._settings]
            try:
                # In a group of its own: Ctrl-C is the supervisor's to answer.
                process = subprocess.Popen(  # noqa: S603 - our own
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], process_group=0
                )
            except OSError as error:
                ours.close()
                if not self._others_hope(worker):
                    raise
                delay_s = worker.end()
                _log.error("%s cannot be started: %s; tried again in %.0f s", worker, error, delay_s)
                return
        worker.running = (process, ours)
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _hear(self, worker: _Worker) -> None:
        """Take one message of a worker, or note that it has ended."""
        assert worker.running is not None
        _, channel = worker.running
        message = channel.receive()
        if message is None:
            self._ended(worker)
        elif message.kind is Kind.READY:
            worker.begin_to_serve()
            _log.info("%s serves", worker)
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

    def _hear_last(self, worker: _Worker) -> None:
        """Take one message of a worker that is to stop: only its end counts."""
        assert worker.running is not None
        message = worker.running[1].receive()
        if message is not None:
            worker.has_failed = worker.has_failed or message.kind in {Kind.FAILED, Kind.NOT_INSTALLED}
            return
        name, was_expected = str(worker), worker.has_failed
        code, _ = self._bury(worker)
        if code and not was_expected:
            _log.warning("%s %s while it stopped", name, _how(code))

    def _pass_on(self, message: Message, speaker: _Worker) -> None:
        for other in self._workers:
            if other is not speaker and other.running is not None:
                # What somebody does not take now is said again.
                other.running[1].send(message)

    def _ended(self, worker: _Worker) -> None:
        name, is_fatal = str(worker), self._is_fatal(worker, gone=True)
        code, delay_s = self._bury(worker)
        if is_fatal:
            raise StoreUnavailableError(f"{name} {_how(code)} before it served")
        _log.warning("%s %s; it starts again in %.0f s", name, _how(code), delay_s)

    def _is_fatal(self, worker: _Worker, *, gone: bool) -> bool:
        """Whether what ails a worker ails the server.

        So it is where the store of one that serves failed, and where nobody is left who serves or may begin to. One that
        serves and then is gone was killed, or crashed, and starts again.
        """
        if worker.serves:
            return not gone
        return not self._others_hope(worker)

    def _others_hope(self, worker: _Worker) -> bool:
        """Whether another one serves, or is being started and has not failed to before."""
        return any(
            other.serves or (other.running and not (other.has_failed or other.attempts_failed))
            for other in self._workers
            if other is not worker
        )

    def _bury(self, worker: _Worker) -> tuple[int, float]:
        """Clear up after a process that has ended; return its exit code, and the delay before it is due again."""
        assert worker.running is not None
        process, channel = worker.running
        self._selector.unregister(channel)
        channel.close()
        return process.wait(), worker.end()


def _how(code: int) -> str:
    """Return how a process ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
