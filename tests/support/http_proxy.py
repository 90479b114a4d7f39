"""An HTTP proxy before a real server, which treats some requests badly: for retries, and for servers that break promises."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self

__all__ = ["HttpProxy", "Passed", "Treatment"]


@dataclass(frozen=True)
class Passed:
    """A request that arrived."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True)
class Treatment:
    """What happens to a request instead of being passed on and answered."""

    kind: Literal["status", "cut_before", "cut_after", "delay", "no_range", "no_condition"]
    """An answer with a status; the end of the connection before or after the server got the request; a pause; the answer of a
    server that ignores ranges, or conditions."""
    status: int = 503
    seconds: float = 0.0
    body: bytes = b""
    """Of an answer with a status."""


Rule = Callable[[Passed], Treatment | None]


class HttpProxy:
    """Passes requests to a server on loopback. A context manager."""

    def __init__(self, port: int, rule: Rule = lambda _: None) -> None:
        """Pass to `port`; `rule` decides, on many threads, what happens to each request."""
        self.rule = rule
        self.passed: list[Passed] = []
        """All requests, in the order in which they arrived."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with suppress(OSError):
                    super().handle_one_request()

            def log_message(self, *_: object) -> None:
                pass

            def do(self) -> None:
                proxy._serve(self, port)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do  # noqa: N815 - named by http.server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="http-proxy")

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        request = Passed(handler.command, handler.path, body)
        self.passed.append(request)
        treatment = self.rule(request)
        kind = treatment.kind if treatment is not None else None
        if treatment is not None and kind == "status":
            _answer(handler, treatment.status, {}, treatment.body)
            return
        if treatment is not None and kind == "delay":
            time.sleep(treatment.seconds)
        if kind == "cut_before":
            handler.close_connection = True
            return
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
        if kind == "cut_after":
            handler.close_connection = True
            return
        status, answered = answer.status, dict(answer.getheaders())
        # The headers are signed, so the request itself must stay as it is.
        if kind == "no_range" and status == http.HTTPStatus.PARTIAL_CONTENT:
            status = http.HTTPStatus.OK
            answered = {name: value for name, value in answered.items() if name.lower() != "content-range"}
        if kind == "no_condition" and status == http.HTTPStatus.PRECONDITION_FAILED:
            status, answered, data = http.HTTPStatus.OK, {"ETag": '"0"'}, b""
        _answer(handler, status, answered, data)


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
            handler.send_header(name, value)
    length = headers.get("Content-Length", str(len(data))) if handler.command == "HEAD" else str(len(data))
    handler.send_header("Content-Length", length)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data)
