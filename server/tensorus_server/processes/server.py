"""A server, which serves one engine at one port, and its process from start to exit."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from tensorus_server.app import open_engine
from tensorus_server.background import join_all
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.limits import RECEIVED_MESSAGE_BYTES_MAX
from tensorus_server.logs.audit_file import AuditFile
from tensorus_server.logs.setup import hide_metadata
from tensorus_server.metrics.call_meters import CallMeters
from tensorus_server.metrics.sampler import Sampler
from tensorus_server.metrics.showing import shown
from tensorus_server.processes.descriptors import connections_max, raise_limit
from tensorus_server.processes.gate import build_gate, identity_provider, warn_if_nobody_can_call
from tensorus_server.processes.port import require_port
from tensorus_server.processes.service_manager import ServiceManager
from tensorus_server.processes.signals import stop_event
from tensorus_server.rpc.access_calls import AccessCalls
from tensorus_server.rpc.access_service import ACCESS_SERVICE_NAME, access_handler
from tensorus_server.rpc.admission import Admission, AdmissionLimits
from tensorus_server.rpc.open_services import OpenServices
from tensorus_server.rpc.service import SERVICE_NAME, TensorService

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from tensorus_server.config import ServerConfig
    from tensorus_server.engine.insert.sessions import InsertSessions
    from tensorus_server.metrics.board import Board
    from tensorus_server.processes.credentials import WatchedCertificates
    from tensorus_server.rpc.calls import CallObserver
    from tensorus_server.rpc.identity_provider import IdentityProvider
    from tensorus_server.tracing.provider import Traces

__all__ = ["Server", "serve", "stop_or_exit"]

_SHORT_CALL_THREADS = 16
"""Threads in addition to one per stream, so that short calls never wait for a stream to end."""

_CONNECTION_STREAMS_MIN = 1000
"""How many calls one connection may have open at the same time, at least. gRPC's clients make the others wait."""

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVED_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", RECEIVED_MESSAGE_BYTES_MAX),
    # The window is fixed: one that grows with the bandwidth buffers several MiB of every stream, even of queued ones.
    ("grpc.http2.bdp_probe", 0),
    # Idle connections are pinged, too, and any number of times.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Both are needed: the first has no effect while it is below the second, whose default is 60 s (measured).
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # Clients may ping every 10 s, with or without a call. The limit is half of that, since pings may bunch up on the way.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Close connections that never speak HTTP/2, or have had no call for a while, to free their descriptors. Clients reconnect
    # at their next call.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 10 * 60_000),
)

_WINDOW_BYTES = (64 * 1024, 4 * 1024 * 1024)
"""The smallest window is HTTP/2's default. The largest saturates a network with 1 GB/s and a round trip of 4 ms."""

_STATUS_WAIT_S = 2.0
"""Time for the statuses of calls that ended while the server drained to reach the clients."""

_ENDING_S = 10.0
"""Time after the grace for the calls' threads to clean up, and again for the store to close. Both wait only for the disk."""

_EXIT_CODE = 4
"""Exit code if the store failed or did not close; the same as the command line's for an unavailable store."""

_STORE_CHECK_S = 0.5
"""How often the server checks whether its store still takes writes."""

_log = logging.getLogger(__name__)

_numbers = itertools.count(1)


class Server:
    """One engine behind one port, with health checks and reflection."""

    def __init__(
        self, config: ServerConfig, *, ask: Callable[[str, int], None] | None = None, board: Board | None = None
    ) -> None:
        """Open the store and bind the port; nothing is served before `start`.

        Args:
            ask: see `open_engine`.
            board: where to write the values of metrics; None: nowhere.

        Raises:
            StoreUnavailableError: the store or the audit log cannot be opened, the port is not available, or the certificates
                cannot be used.
        """
        self._config = config
        hide_metadata()
        self._audit = None if config.logs.audit_file is None else AuditFile(config.logs.audit_file)
        self.certificates = _watched_certificates(config)
        """Those of TLS; None: connections are not encrypted."""
        if not config.shares_port:
            # gRPC's own check would also log several lines to stderr.
            require_port(config.listen)
        # Both before a new store is created.
        provider = identity_provider(config)
        self._traces = _traces(config)
        with ExitStack() as undo:
            if self._traces is not None:
                undo.callback(self._traces.close)
            self._engine = open_engine(config.engine, ask=ask)
            undo.callback(self._engine.close)
            self._assemble(provider, board)
            self.port = self._listen()
            undo.pop_all()

    def _assemble(self, provider: IdentityProvider | None, board: Board | None) -> None:
        """Make the server of the engine's services."""
        config = self._config
        self._health = health.HealthServicer(experimental_non_blocking=True)
        self._thread_names = f"tensorus-call-{next(_numbers)}-"
        self._threads = _CallThreads(config.streams_max + _SHORT_CALL_THREADS, thread_name_prefix=self._thread_names)
        options = (
            *_CHANNEL_OPTIONS,
            # Without this, a second server on the same port would take a share of the connections; for workers, see `port.py`.
            ("grpc.so_reuseport", int(config.shares_port)),
            ("grpc.http2.lookahead_bytes", _window_bytes(config)),
            ("grpc.max_concurrent_streams", max(_CONNECTION_STREAMS_MIN, 2 * config.streams_max)),
            ("grpc.keepalive_time_ms", int(1000 * config.keepalive_s)),
            ("grpc.max_allowed_incoming_connections", config.connections_max or connections_max()),
        )
        self._server = grpc.server(self._threads, options=options, compression=grpc.Compression.NoCompression)
        self._admission = Admission(
            AdmissionLimits(
                config.streams_max, config.memory_budget_bytes, config.memory_wait_s, config.stall_timeout_s
            )
        )
        observers: list[CallObserver] = []
        self._sampler: Sampler | None = None
        if board is not None:
            meters = CallMeters(board)
            observers.append(meters)
            self._sampler = Sampler(
                board, meters, self._engine, self._admission, certificate_expires_s=self._certificate_expires_s
            )
        if self._traces is not None:
            observers.append(self._traces.calls)
        gate = build_gate(config, self._engine.access, self._admission, provider, self._audit, more=observers)
        service = TensorService(self._engine, gate, store=config.engine.describe())
        calls = AccessCalls(self._engine.access, gate.quotas.streams_of if gate.quotas is not None else lambda _: 0)
        self._server.add_generic_rpc_handlers((service.handler(), access_handler(calls, gate)))
        names = (SERVICE_NAME, ACCESS_SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
        self._open = OpenServices(self._health, names, self._admission.arrivals)
        self._server.add_generic_rpc_handlers(self._open.handlers())

    @property
    def address(self) -> str:
        """HOST:PORT with the port that was bound."""
        return f"{self._config.listen.rpartition(':')[0]}:{self.port}"

    @property
    def sessions(self) -> InsertSessions:
        """The sessions of inserts in progress."""
        return self._engine.sessions

    def start(self) -> None:
        """Start serving."""
        before = set(threading.enumerate())
        self._server.start()
        # gRPC's thread that takes calls from its queue. If it ends, no call is answered any more, and gRPC tells nobody.
        self._takers = [thread for thread in threading.enumerate() if thread not in before and "_serve" in thread.name]
        self._admission.watch()
        if self._sampler is not None:
            self._sampler.start()
        self._set_health(health_pb2.HealthCheckResponse.SERVING)
        warn_if_nobody_can_call(self._config, self._engine.access)

    def _certificate_expires_s(self) -> float | None:
        return None if self.certificates is None else self.certificates.expires_s

    @property
    def is_serving(self) -> bool:
        """Whether the server takes calls, and its store writes."""
        try:
            self._engine.check_writable()
        except StoreUnavailableError:
            return False
        return self._admission.draining_s is None

    def check(self) -> None:
        """Check that the store takes writes.

        Raises:
            StoreUnavailableError: it takes none until a restart; health checks return NOT_SERVING from now on.
        """
        try:
            self._engine.check_writable()
        except StoreUnavailableError:
            self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            raise

    def watch(self, stopping: threading.Event, on_served: Callable[[], None] | None = None) -> None:
        """Wait until `stopping` is set, and check the store meanwhile.

        Args:
            on_served: called after each check that found that calls are served; None: that is not checked.

        Raises:
            StoreUnavailableError: see `check`.
        """
        while not stopping.wait(_STORE_CHECK_S):
            self.check()
            if self.certificates is not None:
                self.certificates.look()
            if on_served is not None and self._threads.moved() and all(taker.is_alive() for taker in self._takers):
                on_served()

    def stop(self) -> None:
        """Refuse new calls, wait up to the grace period for open ones, and close the store.

        Raises:
            StoreUnavailableError: a call or the store did not end in time; the log has its stack. The process should exit
                without waiting for it.
        """
        self._health.enter_graceful_shutdown()
        drained = self._admission.drain(self._config.grace_s)
        give_up_s = time.monotonic() + _STATUS_WAIT_S + _ENDING_S
        # Calls that have ended here may still be sending their statuses.
        ended = self._server.stop(_STATUS_WAIT_S if drained else None).wait(_STATUS_WAIT_S + _ENDING_S)
        # The calls have ended for their clients, but their threads may still be cleaning up.
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._open.close()
        calls = [thread for thread in threading.enumerate() if thread.name.startswith(self._thread_names)]
        ended = join_all(calls, max(give_up_s - time.monotonic(), 0.0)) and ended
        self._admission.close()
        if self._sampler is not None:
            self._sampler.close()
        if self._traces is not None:
            self._traces.close()
        failures: list[StoreUnavailableError] = []
        closing = threading.Thread(target=self._close_engine, args=(failures,), name="tensorus-closing", daemon=True)
        closing.start()
        # The store is closed on another thread: if the disk hangs, so does the catalogue's fsync, which has no timeout.
        if not join_all([closing], 2 * _ENDING_S):
            raise StoreUnavailableError(f"the store has not closed {2 * _ENDING_S:.0f} s after the calls ended")
        if self._audit is not None:
            self._audit.close()
        if failures:
            raise failures[0]
        if not ended:
            raise StoreUnavailableError(f"calls have not ended {_ENDING_S:.0f} s after the grace")

    def _listen(self) -> int:
        """Bind the port and return it."""
        if not self._config.shares_port:
            # Another process may have taken the port while the store was opened, and gRPC would log that in its own words.
            require_port(self._config.listen)
        try:
            if self.certificates is None:
                return self._server.add_insecure_port(self._config.listen)
            return self._server.add_secure_port(self._config.listen, self.certificates.credentials())
        except RuntimeError as error:
            raise StoreUnavailableError(f"cannot listen on {self._config.listen}: is another server there?") from error

    def _close_engine(self, failures: list[StoreUnavailableError]) -> None:
        try:
            self._engine.close(_ENDING_S)
        except StoreUnavailableError as error:
            failures.append(error)

    def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", SERVICE_NAME):
            self._health.set(name, status)


def _traces(config: ServerConfig) -> Traces | None:
    if not config.traces:
        return None
    from tensorus_server.tracing.provider import Traces  # noqa: PLC0415 - an extra

    return Traces()


def _watched_certificates(config: ServerConfig) -> WatchedCertificates | None:
    if config.tls is None:
        return None
    # A server without TLS does not need the library for certificates, which takes 11 MiB.
    from tensorus_server.processes.credentials import WatchedCertificates  # noqa: PLC0415

    return WatchedCertificates(config.tls)


class _CallThreads(ThreadPoolExecutor):
    """The threads that run calls; they tell whether any task has ended lately."""

    _ended = False
    _probe: Future[None] | None = None

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:  # `Any`: as in the base class
        """Run a task."""
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._end)
        return future

    def moved(self) -> bool:
        """Return whether a task has ended since the last call, be it the empty one that the last call has left.

        If all threads have work for long, tasks end nevertheless. If all threads hang, none does.
        """
        ended, self._ended = self._ended, False
        if self._probe is None or self._probe.done():
            self._probe = self.submit(lambda: None)
        return ended

    def _end(self, _: Future[Any]) -> None:
        self._ended = True


def _window_bytes(config: ServerConfig) -> int:
    """Return how many bytes of one stream gRPC may buffer before they are read: all streams share a quarter of the budget.

    Measured with 256 concurrent Inserts and a budget of 256 MiB: the process peaks at 190 MiB with the resulting window of
    256 KiB, and at 570 MiB with gRPC's own choice.
    """
    share = config.memory_budget_bytes // (4 * config.streams_max)
    return min(max(share, _WINDOW_BYTES[0]), _WINDOW_BYTES[1])


def serve(config: ServerConfig, on_ready: Callable[[Server], None]) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully; a second signal ends the process at once.

    Args:
        on_ready: called once the server serves.

    Raises:
        StoreUnavailableError: the store cannot be opened, the port is not available, or the store failed while serving.
    """
    manager = ServiceManager.from_environment()
    raise_limit()
    with shown(config.metrics_listen) as metrics:
        server = Server(config, board=None if metrics is None else metrics.own_board())
        stopping = stop_event()
        server.start()
        if metrics is not None:
            metrics.serve(lambda: server.is_serving)
        on_ready(server)
        manager.ready(f"serves {config.engine.describe()} on {server.address}")
        try:
            server.watch(stopping, None if manager.watchdog_s is None else manager.sign_of_life)
        finally:
            manager.stopping(config.grace_s)
            stop_or_exit(server)


def stop_or_exit(server: Server) -> None:
    """Stop the server; if a call or the store does not end, end the process with exit code 4.

    Like a crash, that loses nothing that was committed.
    """
    _log.info("stopping")
    try:
        server.stop()
    except StoreUnavailableError as error:
        _log.critical("%s: the process ends without it", error)
        logging.shutdown()
        os._exit(_EXIT_CODE)
