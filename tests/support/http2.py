"""Just enough HTTP/2 to be a client that pings, or that does not answer pings. Source: RFC 9113, sections 3.4, 4.1 and 6."""

from __future__ import annotations

import socket
import time
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ACK = 1


class Http2Client:
    """A connection without streams."""

    def __init__(self, address: str, *, answers_pings: bool = True) -> None:
        """Connect, and exchange settings."""
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._answers_pings = answers_pings
        self._socket.sendall(_PREFACE + _frame(_SETTINGS))
        self.pings = 0
        """Of the server, so far."""
        self.farewell = b""
        """What the server said when it sent the connection away."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ping(self, count: int = 1) -> None:
        """Send pings, one right after the other."""
        self._socket.sendall(count * _frame(_PING, b"12345678"))

    def is_open(self, wait_s: float) -> bool:
        """Take what comes for so long; return whether the connection is still open then."""
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0:
            self._socket.settimeout(left_s)
            try:
                header = self._receive(9)
                kind, flags, body = header[3], header[4], self._receive(int.from_bytes(header[:3], "big"))
            except TimeoutError:
                break
            except (ConnectionError, EOFError):
                return False
            self._take(kind, flags, body)
        return True

    def _take(self, kind: int, flags: int, body: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._socket.sendall(_frame(_SETTINGS, flags=_ACK))
        elif kind == _PING and not flags & _ACK:
            self.pings += 1
            if self._answers_pings:
                self._socket.sendall(_frame(_PING, body, flags=_ACK))
        elif kind == _GOAWAY:
            self.farewell = body[8:]

    def _receive(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            more = self._socket.recv(count - len(received))
            if not more:
                raise EOFError
            received += more
        return received


def _frame(kind: int, body: bytes = b"", *, flags: int = 0) -> bytes:
    """Return a frame of the whole connection."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + bytes(4) + body
