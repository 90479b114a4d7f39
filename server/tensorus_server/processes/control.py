"""The messages between the supervisor and its workers: JSON over a pair of sockets.

    worker to supervisor    READY                   the worker serves
                            SERVED                  since the last such message it has served calls, or could have
                            FAILED, why             its store failed, or cannot be opened
                            NOT_INSTALLED, what     a library is missing
    supervisor to worker    STOP                    finish the open calls, then exit
    both ways               NEWER, request, ticket  a newer stream wants this insert (see `sessions.py`); the supervisor
                                                    forwards it to the other workers

When a process ends for any reason, the kernel closes its sockets. So the end of the connection means that the process is gone.
"""

from __future__ import annotations

import json
import socket
from dataclasses import astuple, dataclass
from enum import Enum

__all__ = ["Channel", "Kind", "Message"]

_MESSAGE_BYTES_MAX = 64 * 1024
"""The text of a failure is the longest part, and far shorter."""


class Kind(Enum):
    """The type of a message."""

    READY = "ready"
    SERVED = "served"
    FAILED = "failed"
    NOT_INSTALLED = "not_installed"
    STOP = "stop"
    NEWER = "newer"


@dataclass(frozen=True)
class Message:
    """See the module's description."""

    kind: Kind
    text: str = ""
    """FAILED: the reason; NOT_INSTALLED: the library; NEWER: the request id."""
    ticket: int = 0
    """NEWER: the ticket of the newer stream."""


class Channel:
    """One end of a connection between two processes of this machine. Sending is thread-safe."""

    def __init__(self, end: socket.socket) -> None:
        """Use the socket `end`, which `close` closes."""
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Return one end as a channel, and the other as a socket that a child process can inherit."""
        # Sequenced packets keep messages whole, like datagrams, and report the end of the connection, like streams.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """Return the end that this process inherited; its own children do not inherit it."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        return cls(end)

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Send a message without blocking; return False if the other end is gone, or has not read enough of what was sent."""
        kind, text, ticket = astuple(message)
        try:
            self._socket.send(json.dumps([kind.value, text, ticket]).encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """Wait for the next message; None if the other process has ended."""
        while True:
            try:
                data = self._socket.recv(_MESSAGE_BYTES_MAX)
            except ConnectionResetError:
                # The other process ended without reading everything. This error comes once; its last messages follow.
                continue
            if not data:
                return None
            kind, text, ticket = json.loads(data)
            return Message(Kind(kind), text, ticket)

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._socket.close()
