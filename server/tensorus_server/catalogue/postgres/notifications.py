"""Messages between the processes that use a catalogue, by LISTEN and NOTIFY.

They only make waits shorter. One may be lost while the listening connection is broken, and behind pgbouncer in transaction mode
there are none, so whoever waits also looks for itself from time to time.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

import psycopg

from tensorus_server.background import Watched
from tensorus_server.catalogue.postgres.pool import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.postgres.address import Address
    from tensorus_server.catalogue.sql.connection import Connection

__all__ = ["PostgresNotifications"]

_LOOK_S = 0.5
"""How often the thread looks whether the catalogue was closed."""

_RETRY_S = 1.0

_log = logging.getLogger(__name__)


class PostgresNotifications:
    """Implements `Notifications`. Thread-safe."""

    def __init__(self, address: Address) -> None:
        """Start without a connection: only who listens has one."""
        self._address = address
        # Each schema is a store of its own.
        self._channel = f"tensorus_{address.schema}"
        self._closed = threading.Event()
        self._threads: list[Watched] = []

    def send(self, connection: Connection, text: str) -> None:
        """See `Notifications`. The server sends equal messages of a transaction once."""
        connection.execute("SELECT pg_notify(?, ?)", (self._channel[:63], text))

    def listen(self, called: Callable[[str], None]) -> None:
        """See `Notifications`. An error of `called` is logged."""
        if self._address.prepares and not self._closed.is_set():
            self._threads.append(Watched("catalogue-listen", lambda: self._listen(called), self._ended))

    def close(self, timeout_s: float) -> None:
        """End the threads that listen."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def _listen(self, called: Callable[[str], None]) -> None:
        is_away = False
        while not self._closed.is_set():
            try:
                with connect(self._address) as raw:
                    raw.execute(f'LISTEN "{self._channel[:63]}"'.encode())
                    is_away = False
                    while not self._closed.is_set():
                        for message in raw.notifies(timeout=_LOOK_S):
                            called(message.payload)
            except psycopg.Error as error:
                if not is_away:
                    _log.info("messages of other processes are not heard for now: %s: %s", self._address.where, error)
                is_away = True
                self._closed.wait(_RETRY_S)
            except Exception:  # noqa: BLE001 - the thread must go on listening
                _log.exception("a message of another process could not be handled")
                self._closed.wait(_RETRY_S)

    def _ended(self, error: BaseException) -> None:
        _log.error("messages of other processes are not heard any more: %r", error)
