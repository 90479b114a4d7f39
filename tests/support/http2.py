"""Just enough HTTP/2 to be a client that pings, that does not answer pings, or whose calls are odd.

Source: RFC 9113, sections 3.4, 4.1 and 6; RFC 7541, sections 5 and 6.2.2, for headers.
"""

from __future__ import annotations

import socket
import time
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = 1
_END_STREAM, _END_HEADERS = 1, 4


class Http2Client:
    """A connection."""

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
        self.settings: dict[int, int] = {}
        """Of the server."""
        self.answers: dict[int, bytes] = {}
        """What came of each stream: the bytes of its headers and its data."""
        self.ended: set[int] = set()
        """Streams that the server has ended."""
        self._streams = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ping(self, count: int = 1) -> None:
        """Send pings, one right after the other."""
        self._socket.sendall(count * _frame(_PING, b"12345678"))

    def begin(self, method: str, *headers: tuple[bytes, bytes], message: bytes | None = None) -> int:
        """Begin a call with these headers, and return its stream.

        Args:
            message: its only one; None: none follows, and the call stays open.
        """
        stream, self._streams = 2 * self._streams + 1, self._streams + 1
        fixed = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"localhost"),
            (b"content-type", b"application/grpc"),
            (b"te", b"trailers"),
        )
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in (*fixed, *headers))
        self._socket.sendall(_frame(_HEADERS, block, flags=_END_HEADERS, stream=stream))
        if message is not None:
            body = b"\0" + len(message).to_bytes(4, "big") + message
            self._socket.sendall(_frame(_DATA, body, flags=_END_STREAM, stream=stream))
        return stream

    def answer(self, stream: int) -> bytes:
        """Wait for the end of a call, and return what came of it."""
        while stream not in self.ended:
            assert self.is_open(1.0, stream=stream), "the server closed the connection"
        return self.answers[stream]

    def is_open(self, wait_s: float, *, stream: int = 0) -> bool:
        """Take what comes for so long, or until a stream has ended; return whether the connection is still open then."""
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0 and stream not in self.ended:
            self._socket.settimeout(left_s)
            try:
                header = self._receive(9)
                kind, flags, body = header[3], header[4], self._receive(int.from_bytes(header[:3], "big"))
                number = int.from_bytes(header[5:], "big")
            except TimeoutError:
                break
            except (ConnectionError, EOFError):
                return False
            if number:
                self._take_of_stream(number, kind, flags, body)
            else:
                self._take(kind, flags, body)
        return True

    def _take_of_stream(self, stream: int, kind: int, flags: int, body: bytes) -> None:
        if kind in {_HEADERS, _DATA}:
            self.answers[stream] = self.answers.get(stream, b"") + body
        if kind == _RESET or (kind in {_HEADERS, _DATA} and flags & _END_STREAM):
            self.answers.setdefault(stream, b"")
            self.ended.add(stream)

    def _take(self, kind: int, flags: int, body: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            pairs = [body[at : at + 6] for at in range(0, len(body), 6)]
            self.settings |= {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
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


def _frame(kind: int, body: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a frame; stream 0 is the whole connection."""
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _text(text: bytes) -> bytes:
    """Return a text of a header as it is, after its length: an integer with a prefix of 7 bits."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, more = len(text) - 127, bytearray([127])
    while rest >= 128:
        more.append(rest % 128 + 128)
        rest //= 128
    more.append(rest)
    return bytes(more) + text
