"""Messages between the processes that use one catalogue, by NOTIFY and LISTEN.

They only shorten waits: whoever waits also looks from time to time, so a message may be lost. Behind pgbouncer in transaction
mode none arrives, because LISTEN belongs to a session.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import psycopg

from tensorus_server.background import Watched
from tensorus_server.catalogue.postgres.database import lock_number
from tensorus_server.catalogue.postgres.pool import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.postgres.address import Address
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["PostgresNotifications"]

_LOOK_S = 1.0
"""How often the thread checks whether the catalogue is closing."""

_PAUSE_S = 5.0
"""Pause before a broken connection is opened again."""

_TEXT_BYTES_MAX = 7999
"""The largest payload of a notification: PostgreSQL's NOTIFY."""

_log = logging.getLogger(__name__)


class PostgresNotifications:
    """Implements `Notifications`. Thread-safe."""

    def __init__(self, address: Address) -> None:
        """Listen to nothing yet."""
        self._address = address
        # A name of our own making, since a channel's name has at most 63 bytes.
        self._channel = f"tensorus_{lock_number(address.schema, 'notifications') & (2**64 - 1):016x}"
        self._called: Callable[[str], None] = lambda _: None
        self._closing = threading.Event()
        self._thread: Watched | None = None

    def send(self, connection: Connection, text: str) -> None:
        """See `Notifications`."""
        if len(text.encode()) <= _TEXT_BYTES_MAX:
            connection.execute("SELECT pg_notify(?, ?)", (self._channel, text))

    def listen(self, called: Callable[[str], None]) -> None:
        """See `Notifications`. Called once. Does nothing behind pgbouncer, where another client would get the messages."""
        if not self._address.prepares:
            return
        self._called = called
        self._thread = Watched("notifications", self._run, self._failed)

    def close(self, timeout_s: float) -> bool:
        """Stop listening; return whether the thread has ended in time. Idempotent."""
        self._closing.set()
        return self._thread is None or self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._hear()
            except psycopg.Error as error:
                _log.info("%s: notifications are not heard at present: %s", self._address.where, error)
                self._closing.wait(_PAUSE_S)

    def _hear(self) -> None:
        """Call with each message until the catalogue is closing, or the connection breaks."""
        with connect(self._address) as raw:
            raw.execute(f"LISTEN {self._channel}".encode(), prepare=False)
            while not self._closing.is_set():
                for message in raw.notifies(timeout=_LOOK_S):
                    self._called(message.payload)
                    if self._closing.is_set():
                        return

    def _failed(self, error: BaseException) -> None:
        _log.error("notifications are not heard any more, so streams wait longer for each other: %r", error)
