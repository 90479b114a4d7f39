"""A worker: one of several processes that serve a port and a store together. `supervisor.py` starts and monitors it.

A worker is like a server of one process, except that it shares the port, that its inserts may continue on a stream of another
worker (`session_locks.py`), and that it ends when its supervisor ends.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreUnavailableError
from tensorus_server.metrics.board import Board
from tensorus_server.processes.control import Kind, Message
from tensorus_server.processes.descriptors import raise_limit
from tensorus_server.processes.server import Server, stop_or_exit
from tensorus_server.processes.signals import stop_event
from tensorus_server.processes.supervisor import BOARD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.config import ServerConfig
    from tensorus_server.engine.insert.sessions import InsertSessions
    from tensorus_server.processes.control import Channel

__all__ = ["work"]

_log = logging.getLogger(__name__)


def work(config: ServerConfig, channel: Channel) -> None:
    """Serve until the supervisor or SIGTERM says stop; if the supervisor ends, exit at once.

    Args:
        config: this worker's settings.
        channel: connects to the supervisor, which is told when this worker serves, and when its store failed.

    Raises:
        StoreUnavailableError: see `serve`.
    """
    stopping = stop_event()
    orders = _Orders(channel, stopping)
    threading.Thread(target=orders.follow, name="tensorus-orders", daemon=True).start()
    raise_limit()
    with _reporting_failure(channel):
        server = Server(
            config, ask=lambda request_id, ticket: _ask(channel, request_id, ticket), board=_inherited_board()
        )
    orders.sessions = server.sessions
    server.start()
    channel.send(Message(Kind.READY))
    try:
        with _reporting_failure(channel):
            # If the message does not arrive, the next one does.
            server.watch(stopping, lambda: _tell_served(channel))
    finally:
        stop_or_exit(server)


class _Orders:
    """Handles the supervisor's messages on a separate thread."""

    def __init__(self, channel: Channel, stopping: threading.Event) -> None:
        self._channel = channel
        self._stopping = stopping
        self.sessions: InsertSessions | None = None
        """None until the server is open."""

    def follow(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                if message.kind is Kind.STOP:
                    self._stopping.set()
                elif message.kind is Kind.NEWER and self.sessions is not None:
                    self.sessions.newer(message.text, message.ticket)
            _log.error("the supervisor has gone: ending at once")
        finally:
            # Like a crash, this loses nothing that was committed. It frees the port, so that the server can be started again.
            os._exit(1)


def _inherited_board() -> Board | None:
    descriptor = os.environ.pop(BOARD, None)
    if descriptor is None:
        return None
    board = Board.inherited(int(descriptor))
    if board is None:
        _log.warning(
            "the supervisor is of another version: its metrics lack those of this worker until it is restarted"
        )
    return board


def _tell_served(channel: Channel) -> None:
    channel.send(Message(Kind.SERVED))


def _ask(channel: Channel, request_id: str, ticket: int) -> None:
    # If the message does not arrive, the caller asks again.
    channel.send(Message(Kind.NEWER, request_id, ticket))


@contextmanager
def _reporting_failure(channel: Channel) -> Iterator[None]:
    """Report an error to the supervisor before the worker stops, which may take as long as the grace period."""
    try:
        yield
    except StoreUnavailableError as error:
        channel.send(Message(Kind.FAILED, str(error)))
        raise
