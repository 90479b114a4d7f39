"""Payloads of a local store behind an HTTP server that honours signed requests, as an object store does, and can fail."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tensorus_server.chunk_store.abc import PresignedRange
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.read import plans
from tensorus_server.processes.server import Server

__all__ = ["PresigningStore", "presigning"]

PIECE_BYTES = 100_000
"""Of a payload per object, as if it were stored in segments: records lie across their borders."""


class PresigningStore:
    """Signs requests for ranges of payload files, and answers them."""

    def __init__(self, folder: Path) -> None:
        """Serve the files below `folder` on a free loopback port."""
        self.folder = folder
        self.requests: list[str] = []
        self.served_bytes = 0
        self.spoil: Callable[[bytearray], None] | None = None
        """Changes what is answered."""
        self.overloaded = 0
        """How many requests are answered with 503 from now on."""
        self.change_url: Callable[[str], str] = str
        self.lifetime_s: float | None = None
        """How long signatures are valid; None: as long as was asked for."""
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise the body waits for the acknowledgement of the head.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                store._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def presign(
        self, key: str, ranges: Sequence[tuple[int, int]], expires_s: float
    ) -> list[list[PresignedRange]] | None:
        """See `PayloadStore.presign`. Each piece of a payload has a URL of its own."""
        expires = time.time() + (expires_s if self.lifetime_s is None else self.lifetime_s)
        return [list(self._pieces(key, offset, length, expires)) for offset, length in ranges]

    def close(self) -> None:
        """Stop serving: connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _pieces(self, key: str, offset: int, length: int, expires: float) -> Iterator[PresignedRange]:
        while length:
            piece = offset // PIECE_BYTES
            taken = min(length, (piece + 1) * PIECE_BYTES - offset)
            path = f"/{key}/{piece}?expires={expires:.3f}"
            url = f"http://127.0.0.1:{self._server.server_port}{path}&signature={_signature(path)}"
            yield PresignedRange(self.change_url(url), offset - piece * PIECE_BYTES, taken, expires)
            offset, length = offset + taken, length - taken

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append(request.path)
        path, _, signature = request.path.partition("&signature=")
        found = re.fullmatch(r"/(.+)/(\d+)\?expires=(.+)", path)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers["Range"] or "")
        if self.overloaded:
            self.overloaded -= 1
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if found is None or asked is None or signature != _signature(path) or float(found[3]) < time.time():
            request.send_response(403)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        first, last = int(asked[1]), int(asked[2])
        assert last < PIECE_BYTES
        with (self.folder / "chunks" / found[1]).open("rb") as file:
            file.seek(int(found[2]) * PIECE_BYTES + first)
            data = bytearray(file.read(last - first + 1))
        assert len(data) == last - first + 1, "a range beyond the payload"
        request.send_response(206)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if self.spoil is not None:
            self.spoil(data)
        self.served_bytes += len(data)
        request.wfile.write(data)


@contextmanager
def presigning(
    server: Server, folder: Path, patch: pytest.MonkeyPatch, *, above_bytes: int = 0
) -> Iterator[PresigningStore]:
    """Let a server on a local store offer direct reads of payloads of so many bytes or more."""
    store = PresigningStore(folder)
    patch.setattr(LocalChunkStore, "presign", lambda _, *arguments: store.presign(*arguments))
    patch.setattr(plans, "PLANNED_BYTES_MIN", above_bytes)
    server._engine.plans.enabled = True
    try:
        yield store
    finally:
        server._engine.plans.enabled = False
        store.close()


def _signature(path: str) -> str:
    return hashlib.sha256(b"secret" + path.encode()).hexdigest()[:16]
