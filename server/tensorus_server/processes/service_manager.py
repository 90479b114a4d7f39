"""Tells the service manager (systemd) that this process is ready, alive or stopping, and with it one line of text.

The protocol is that of sd_notify(3): each message is a datagram to the Unix socket that NOTIFY_SOCKET names. Without that
variable nothing is sent. The main process alone speaks: it removes the variables, so that workers do not inherit them.

The watchdog. If WATCHDOG_USEC is set, the service manager ends and restarts the service unless a sign of life arrives in time.
The sign must mean that calls are served. So a process gives it only after a task of the threads that run calls has ended since
the last one (`Server.watch`); an idle server runs an empty task for that. A process that is busy for long goes on. One in which
all these threads hang, or Python itself, does not. With several workers, each tells the supervisor. The supervisor kills a
worker that does not, and gives the sign as long as any worker serves.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Self

__all__ = ["SILENT", "ServiceManager"]

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

_SEND_S = 1.0
"""How long a message may wait for room at the service manager."""

_log = logging.getLogger(__name__)


class ServiceManager:
    """The connection to the service manager. Not thread-safe."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """Send nothing yet.

        Args:
            address: the path of the socket, or "@" and its abstract name; None: there is no service manager.
            watchdog_s: how often it expects a sign of life, at least; None: it expects none.
        """
        self._address = address
        self.watchdog_s = None if address is None else watchdog_s
        self._signed_s = 0.0

    @classmethod
    def from_environment(cls) -> Self:
        """Return the one that the environment names, and remove its variables, so that child processes do not inherit them."""
        address, microseconds, pid = (os.environ.pop(name, "") for name in _VARIABLES)
        if not address.startswith(("/", "@")):
            return cls(None)
        watched = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        if not watched or pid not in {"", str(os.getpid())}:
            return cls(address)
        return cls(address, int(microseconds) / 1e6)

    def ready(self, status: str) -> None:
        """Say that the server serves."""
        self._send("READY=1", f"STATUS={_line(status)}")

    def status(self, status: str) -> None:
        """Replace the line of text that the service manager shows."""
        self._send(f"STATUS={_line(status)}")

    def stopping(self, grace_s: float) -> None:
        """Say that the server stops, and gives open calls `grace_s`. No sign of life is expected any more."""
        self._send("STOPPING=1", f"STATUS=stops; open calls get {grace_s:g} s")

    def sign_of_life(self) -> None:
        """Say that calls are served; may be called more often than needed."""
        # Twice as often as the manual page asks for, so that one lost message does no harm.
        if self.watchdog_s is not None and time.monotonic() - self._signed_s >= self.watchdog_s / 4:
            self._signed_s = time.monotonic()
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(_SEND_S)
            try:
                connection.sendto("\n".join(lines).encode(errors="replace"), name)
            except OSError as error:
                # It acts as for a process that says nothing.
                _log.warning("the service manager at %s was not told %s: %s", self._address, lines[0], error)


SILENT = ServiceManager(None)
"""Says nothing to nobody."""


def _line(text: str) -> str:
    """Return a text as one line: each line of a message is a variable of its own."""
    return " ".join(text.split())
