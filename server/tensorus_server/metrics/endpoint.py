"""The HTTP server that Prometheus asks for the metrics: GET /metrics, and GET /healthz for probes.

It has no TLS and asks nobody who they are. What it shows has no names and no values of tensors. It is bounded: a few requests
at a time, each for a limited time, so that slow or many readers cost the server nothing but these threads.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from tensorus_server.background import join_all
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.metrics.exposition import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.metrics.exposition import Exposition

__all__ = ["Endpoint"]

_REQUESTS_MAX = 4
"""Requests at a time; further connections are closed at once."""

_REQUEST_S = 10.0
"""How long one request may take, from the connection to the end of the answer. Prometheus gives up after 10 s by default."""

_LOOK_S = 0.5
"""How often connections are looked at that take too long."""

_log = logging.getLogger(__name__)


class Endpoint:
    """The server and its threads, which are daemons."""

    def __init__(self, listen: str, exposition: Exposition) -> None:
        """Bind the port; nothing is served before `start`.

        Args:
            listen: HOST:PORT.
            exposition: what /metrics shows.

        Raises:
            StoreUnavailableError: the port is not available.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = _Server(host.strip("[]"), int(port), exposition)
        except OSError as error:
            raise StoreUnavailableError(
                f"cannot listen on {listen} for metrics (metrics_listen): {error.strerror or error}"
            ) from error
        self.address = f"{host}:{self._server.server_address[1]}"
        """HOST:PORT with the port that was bound."""
        self._thread: threading.Thread | None = None

    def start(self, is_healthy: Callable[[], bool]) -> None:
        """Serve from now on.

        Args:
            is_healthy: whether /healthz answers 200, otherwise 503. Must not block.
        """
        self._server.is_healthy = is_healthy
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_S,), name="tensorus-metrics-http", daemon=True
        )
        self._thread.start()
        _log.info("metrics are at http://%s/metrics, for everybody who reaches this address", self.address)

    def close(self) -> None:
        """Stop serving; requests in progress are broken off. Idempotent."""
        if self._thread is not None:
            self._server.shutdown()
            join_all([self._thread], 4 * _LOOK_S)
            self._thread = None
        self._server.end_all()
        self._server.server_close()


class _Server(http.server.HTTPServer):
    request_queue_size = 16
    allow_reuse_address = True

    def __init__(self, host: str, port: int, exposition: Exposition) -> None:
        self.exposition = exposition
        self.is_healthy: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()
        # Connections that are being served, with the time when each began.
        self._open: dict[socket.socket, float] = {}
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), _Request)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name servers for this host's name.
        super(http.server.HTTPServer, self).server_bind()
        self.server_name, self.server_port = "", self.server_address[1]

    # `Any`: the library's own types for a connection and its peer.
    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection on a thread of its own, if there are not too many."""
        with self._lock:
            admitted = len(self._open) < _REQUESTS_MAX
            if admitted:
                self._open[request] = time.monotonic()
        if not admitted:
            self.shutdown_request(request)
            return
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="tensorus-metrics-request", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The system has no thread left. Whoever asks asks again.
            self._forget(request)
            self.shutdown_request(request)

    def service_actions(self) -> None:
        """Break off what takes too long. Called every `_LOOK_S`, and after each connection."""
        now_s = time.monotonic()
        with self._lock:
            late = [request for request, begun_s in self._open.items() if now_s - begun_s > _REQUEST_S]
        self._end(late)

    def end_all(self) -> None:
        """Break off all requests."""
        with self._lock:
            late = list(self._open)
        self._end(late)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's interface
        """Log an error of the endpoint itself; a client that went away is none."""
        _log.debug("a request of the metrics' endpoint failed", exc_info=True)

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except Exception:  # noqa: BLE001 - as the library does
            self.handle_error(request, client_address)
        finally:
            self._forget(request)
            self.shutdown_request(request)

    def _forget(self, request: socket.socket) -> None:
        with self._lock:
            self._open.pop(request, None)

    @staticmethod
    def _end(requests: list[socket.socket]) -> None:
        for request in requests:
            try:
                # Wakes the thread that reads from it or writes to it.
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It has just ended by itself.
                continue


class _Request(http.server.BaseHTTPRequestHandler):
    """One request of one connection."""

    server: _Server
    server_version = "tensorus"
    sys_version = ""
    timeout = _REQUEST_S

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.exposition.text(), CONTENT_TYPE)
        elif path == "/healthz":
            healthy = self.server.is_healthy()
            status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, b"serving\n" if healthy else b"not serving\n", "text/plain")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found; there are /metrics and /healthz\n", "text/plain")

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's interface
        """Log nothing: whoever scrapes does so every few seconds."""
