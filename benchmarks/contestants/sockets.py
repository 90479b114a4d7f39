"""Python sockets over loopback: the upper limit for data between two processes. Run as a module, it is the server."""

from __future__ import annotations

import socket
import socketserver
import struct
from collections.abc import Sequence
from functools import partial

import numpy as np
from common.client_process import Action
from common.settings import KIB
from common.values import Array

__all__ = ["SERVE", "transfers"]

SERVE = ("-m", "contestants.sockets")
"""What Python is told in order to serve."""

_WISH = struct.Struct("<?II")
"""Whether the client receives; size of a block in KiB; how many blocks."""


def transfers(address: str, total_kibibytes: int, block_kibibytes: Sequence[int]) -> dict[str, Action]:
    """Return "receive SIZE" into a fresh array and "send SIZE", in blocks of SIZE KiB."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    actions: dict[str, Action] = {}
    for size in block_kibibytes:
        actions[f"receive {size}"] = partial(_receive, connection, size, total_kibibytes // size)
        actions[f"send {size}"] = partial(_send, connection, size, total_kibibytes // size)
    return actions


def _receive(connection: socket.socket, kibibytes: int, count: int) -> Array:
    connection.sendall(_WISH.pack(True, kibibytes, count))
    target: Array = np.empty(kibibytes * KIB * count, np.uint8)
    _fill(connection, memoryview(target), kibibytes * KIB)
    return target


def _send(connection: socket.socket, kibibytes: int, count: int) -> None:
    connection.sendall(_WISH.pack(False, kibibytes, count))
    block = bytes(kibibytes * KIB)
    for _ in range(count):
        connection.sendall(block)
    connection.recv(1)


def _fill(connection: socket.socket, target: memoryview, block_bytes: int) -> None:
    position = 0
    while position < target.nbytes:
        received = connection.recv_into(target[position : position + block_bytes])
        if received == 0:
            raise ConnectionError("the other side has ended")
        position += received


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        """Do what the client wishes, until it ends."""
        while wish := self.request.recv(_WISH.size, socket.MSG_WAITALL):
            receives, kibibytes, count = _WISH.unpack(wish)
            block = bytearray(kibibytes * KIB)
            for _ in range(count):
                if receives:
                    self.request.sendall(block)
                else:
                    _fill(self.request, memoryview(block), len(block))
            if not receives:
                self.request.sendall(b".")


if __name__ == "__main__":
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        print(server.server_address[1], flush=True)
        server.serve_forever()
