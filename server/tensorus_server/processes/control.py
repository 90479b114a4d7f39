"""What a supervisor and its workers say to each other: whole messages over a pair of sockets, JSON.

    worker to supervisor    READY                   it serves
                            FAILED, why             its store cannot be opened, or failed
                            NOT_INSTALLED, what     a library is missing
    supervisor to worker    STOP                    let calls end, and end
    both ways               NEWER, request, ticket  a newer stream wants this insert: see `sessions.py`; passed on to the others

That a connection ends says that the other process has ended, however it did: the kernel closes what it had open.
"""

from __future__ import annotations

import json
import socket
from dataclasses import astuple, dataclass
from enum import Enum

__all__ = ["Channel", "Kind", "Message"]

_MESSAGE_BYTES_MAX = 64 * 1024
"""A failure's text is the longest part, and far below."""


class Kind(Enum):
    """What a message is about."""

    READY = "ready"
    FAILED = "failed"
    NOT_INSTALLED = "not_installed"
    STOP = "stop"
    NEWER = "newer"


@dataclass(frozen=True)
class Message:
    """See the module's description."""

    kind: Kind
    text: str = ""
    """Why, what, or the id of a request."""
    ticket: int = 0
    """Of the newer stream."""


class Channel:
    """One end of a connection between two processes of this machine. Sending is safe in many threads."""

    def __init__(self, end: socket.socket) -> None:
        """Speak through `end`, which `close` closes."""
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Return one end, and the other one as a child process can inherit it."""
        # Sequenced packets: a message arrives whole or not at all, and the end of the connection is noticed.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """Return the end that this process was started with; its own children do not get it."""
        end = socket.socket(fileno=descriptor)
        end.set_inheritable(False)
        return cls(end)

    def fileno(self) -> int:
        """Return the descriptor, to wait for it."""
        return self._socket.fileno()

    def send(self, message: Message) -> bool:
        """Send it without waiting; False where the other end is gone, or does not take what was sent before."""
        kind, text, ticket = astuple(message)
        try:
            self._socket.send(json.dumps([kind.value, text, ticket]).encode(), socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def receive(self) -> Message | None:
        """Wait for the next message; None where the other process has ended."""
        while True:
            try:
                data = self._socket.recv(_MESSAGE_BYTES_MAX)
            except ConnectionResetError:
                # It ended without having read everything, which is told once; what it said before comes after that.
                continue
            if not data:
                return None
            kind, text, ticket = json.loads(data)
            return Message(Kind(kind), text, ticket)

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._socket.close()
