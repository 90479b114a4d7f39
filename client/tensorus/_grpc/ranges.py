"""Fetches chunk records from an object store by presigned HTTP requests, several at once.

Records are fetched in units: consecutive records of about one object. Threads fetch units ahead of the reader and verify the
CRC32C of each record; the reader gets the units in order. A unit is tried twice, unless the store refuses it.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import crc32c
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from concurrent.futures import Future

__all__ = ["FetchFailedError", "Fetcher", "Range", "Unit"]

_THREADS = 8

_AHEAD_BYTES = 64 * 1024 * 1024
"""Of units that are being fetched, or wait for the reader. A single unit may be larger."""

_CONNECT_TIMEOUT_S = 5.0

_SILENCE_TIMEOUT_S = 20.0
"""How long the store may send nothing."""

_BYTES_PER_S_MIN = 64 * 1024
"""Of a request, once it has taken `_SILENCE_TIMEOUT_S`."""

_BLOCK_BYTES = 1024 * 1024

_PARTIAL_CONTENT = 206
_SERVER_ERROR = 500

_log = logging.getLogger(__name__)


class FetchFailedError(Exception):
    """Records could not be fetched. The message names the host, and not the URL, which has a signature."""


class _RefusedError(FetchFailedError):
    """The store refused a request. It would again."""


@dataclass(frozen=True)
class Range:
    """A range of an object."""

    url: str
    offset: int
    """In the object."""
    length: int


@dataclass(frozen=True)
class Unit:
    """Consecutive chunks whose records are fetched together."""

    first_chunk: int
    records: list[tuple[int, int]]
    """Length and CRC32C of each chunk's record."""
    ranges: list[Range]
    """That hold the records, one after the other."""

    @property
    def nbytes(self) -> int:
        """Length of all records."""
        return sum(length for length, _ in self.records)


class Fetcher:
    """Threads and connections of one read. Used by one thread at a time. Close it."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], list[HTTPConnection]] = {}
        self._used: set[HTTPConnection] = set()
        self._closed = False

    def fetched(self, units: Iterable[Unit]) -> Generator[tuple[Unit, memoryview], None, None]:
        """Yield the units in order, each with its records, one after the other.

        Raises:
            FetchFailedError: a unit could not be fetched, or is damaged; raised when the iteration reaches it.
        """
        waiting: deque[tuple[Unit, Future[memoryview]]] = deque()
        waiting_bytes = 0
        try:
            for unit in units:
                while waiting and waiting_bytes + unit.nbytes > _AHEAD_BYTES:
                    waiting_bytes -= waiting[0][0].nbytes
                    yield _result(*waiting.popleft())
                waiting.append((unit, self._submit(unit)))
                waiting_bytes += unit.nbytes
            while waiting:
                yield _result(*waiting.popleft())
        finally:
            for _, future in waiting:
                future.cancel()

    def close(self) -> None:
        """End all requests. Idempotent."""
        with self._lock:
            self._closed = True
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
            for connection in self._used:
                # Its thread wakes with an error, and closes it: here, its descriptor might get another use meanwhile.
                sock = connection.sock
                if sock is not None:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
        for connection in idle:
            connection.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, unit: Unit) -> Future[memoryview]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="tensorus-fetch")
        try:
            return self._pool.submit(self._fetch, unit)
        except RuntimeError as error:
            raise FetchFailedError("the read has ended") from error

    def _fetch(self, unit: Unit) -> memoryview:
        """Return the records of a unit, verified; runs on a thread of the pool."""
        try:
            return self._attempt(unit)
        except _RefusedError:
            raise
        except FetchFailedError as error:
            if self._closed:
                raise
            _log.debug("a range is fetched again: %s", error)
            return self._attempt(unit)

    def _attempt(self, unit: Unit) -> memoryview:
        if sum(piece.length for piece in unit.ranges) != unit.nbytes:
            raise _RefusedError("the ranges of a plan do not have the length of its records")
        # Not a bytearray, which would be zeroed first.
        found = memoryview(np.empty(unit.nbytes, np.uint8))
        at = 0
        for piece in unit.ranges:
            self._request(piece, found[at : at + piece.length])
            at += piece.length
        at = 0
        for number, (length, expected) in enumerate(unit.records, unit.first_chunk):
            if crc32c.crc32c(found[at : at + length]) != expected:
                host = urlsplit(unit.ranges[0].url).netloc
                raise FetchFailedError(
                    f"the record of chunk {number} from {host} has another CRC32C than the plan says"
                )
            at += length
        return found

    def _request(self, piece: Range, target: memoryview) -> None:
        """Fetch a range into `target`."""
        url = urlsplit(piece.url)
        place = (url.scheme, url.netloc)
        path = url.path + (f"?{url.query}" if url.query else "")
        # A kept connection may have been closed by the store meanwhile: then a new one is tried at once.
        connection, is_new = self._connection(*place)
        try:
            while True:
                try:
                    self._get(connection, path, piece, target)
                    break
                except (OSError, HTTPException) as error:
                    self._drop(connection)
                    if is_new or self._closed:
                        # Not its text, which may have the URL.
                        raise FetchFailedError(f"{url.netloc}: {type(error).__name__}") from None
                    connection, is_new = self._connection(*place, new=True)
        except BaseException:
            self._drop(connection)
            raise
        with self._lock:
            self._used.discard(connection)
            if not self._closed:
                self._idle.setdefault(place, []).append(connection)
                return
        connection.close()

    def _get(self, connection: HTTPConnection, path: str, piece: Range, target: memoryview) -> None:
        begun_s = time.monotonic()
        last = piece.offset + piece.length - 1
        # Without Accept-Encoding: identity, a proxy might compress what is sent.
        connection.request(
            "GET", path, headers={"Range": f"bytes={piece.offset}-{last}", "Accept-Encoding": "identity"}
        )
        response = connection.getresponse()
        if response.status != _PARTIAL_CONTENT or response.length != piece.length:
            kind = FetchFailedError if response.status >= _SERVER_ERROR else _RefusedError
            raise kind(
                f"{connection.host}:{connection.port} answered {response.status} with {response.length} bytes, "
                f"expected {_PARTIAL_CONTENT} with {piece.length}"
            )
        at = 0
        while at < piece.length:
            count = response.readinto(target[at : at + _BLOCK_BYTES])
            at += count
            taken_s = time.monotonic() - begun_s
            if not count or (taken_s > _SILENCE_TIMEOUT_S and at < taken_s * _BYTES_PER_S_MIN):
                raise FetchFailedError(
                    f"{at} of {piece.length} bytes came from {connection.host}:{connection.port} in {taken_s:.1f} s"
                )
        # Marks the response as read, so that the connection can be used again.
        response.read()

    def _connection(self, scheme: str, host: str, *, new: bool = False) -> tuple[HTTPConnection, bool]:
        """Return a connection to this host, and whether it is a new one."""
        if scheme not in {"http", "https"}:
            raise _RefusedError(f"the scheme of a URL of {host} is {scheme!r}, must be http or https")
        with self._lock:
            self._require_open()
            idle = self._idle.get((scheme, host))
            if idle and not new:
                connection = idle.pop()
                self._used.add(connection)
                return connection, False
            if scheme == "https":
                connection = HTTPSConnection(host, timeout=_CONNECT_TIMEOUT_S, context=ssl.create_default_context())
            else:
                connection = HTTPConnection(host, timeout=_CONNECT_TIMEOUT_S)
            self._used.add(connection)
        try:
            connection.connect()
            connection.sock.settimeout(_SILENCE_TIMEOUT_S)
        except OSError as error:
            self._drop(connection)
            raise FetchFailedError(f"{host} cannot be reached: {error}") from error
        try:
            self._require_open()
        except FetchFailedError:
            self._drop(connection)
            raise
        return connection, True

    def _require_open(self) -> None:
        if self._closed:
            raise FetchFailedError("the read has ended")

    def _drop(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._used.discard(connection)
        connection.close()


def _result(unit: Unit, future: Future[memoryview]) -> tuple[Unit, memoryview]:
    return unit, future.result()
