"""A few connections to PostgreSQL; each is lent for one transaction.

Connections are opened by the thread that needs one, so that it gets the reason if that fails, and no thread runs in the
background. One that broke is not lent again.
"""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from tensorus_server.catalogue.postgres.adapters import set_up
from tensorus_server.catalogue.postgres.postgres_errors import RETRY_AFTER_S
from tensorus_server.errors import StoreBusyError, StoreUnavailableError
from tensorus_server.meters import Connections

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.postgres.address import Address

__all__ = ["CONNECTIONS_MAX", "Pool", "PooledConnection", "connect"]

CONNECTIONS_MAX = 10

_TURN_TIMEOUT_S = 60.0
"""How long to wait for a connection: longer than any statement of a query runs."""


def connect(address: Address) -> psycopg.Connection[Any]:
    """Open a connection, in which only BEGIN begins a transaction.

    Raises:
        psycopg.OperationalError: that is not possible.
    """
    raw = psycopg.connect(address.conninfo, autocommit=True, prepare_threshold=5 if address.prepares else None)
    set_up(raw)
    return raw


@dataclass
class PooledConnection:
    """A connection, and the random number by which its commits are known; see `commits.py`."""

    raw: psycopg.Connection[Any]
    is_new: bool = True
    """Whether nothing was done with it yet."""
    number: int = field(default_factory=lambda: secrets.randbits(62))


class Pool:
    """See the module's description. Thread-safe."""

    def __init__(self, address: Address) -> None:
        """Start without connections."""
        self._address = address
        self._changed = threading.Condition()
        self._closed = False
        # The connection that was returned last is lent first; the others may time out.
        self._free: list[PooledConnection] = []
        self._lent = 0

    def take(self) -> PooledConnection:
        """Take a free connection, or open one; the caller must return it with `give_back`.

        Raises:
            StoreBusyError: none became free in time.
            StoreUnavailableError: the catalogue is closed.
            psycopg.OperationalError: none can be opened.
        """
        with self._changed:
            if not self._wait_until(lambda: self._closed or self._lent < CONNECTIONS_MAX, _TURN_TIMEOUT_S):
                raise StoreBusyError(
                    f"{CONNECTIONS_MAX} calls of the catalogue have been going on for {_TURN_TIMEOUT_S:.0f} s",
                    retry_after_s=RETRY_AFTER_S,
                )
            if self._closed:
                raise StoreUnavailableError("the store is closed")
            self._lent += 1
            if self._free:
                return self._free.pop()
        try:
            return PooledConnection(connect(self._address))
        except BaseException:
            self._returned()
            raise

    def connections(self) -> Connections:
        """Return how many connections are lent, free and allowed."""
        with self._changed:
            return Connections(self._lent, len(self._free), CONNECTIONS_MAX)

    def give_back(self, pooled: PooledConnection) -> None:
        """Return a connection. It is closed if it broke, or if a transaction goes on in it."""
        pooled.is_new = False
        if not pooled.raw.closed and pooled.raw.info.transaction_status != TransactionStatus.IDLE:
            pooled.raw.close()
        self._returned(pooled)

    def discard_free(self) -> None:
        """Close all connections that are not lent: the server has probably closed them all."""
        with self._changed:
            free, self._free = self._free, []
        for pooled in free:
            pooled.raw.close()

    def close(self, timeout_s: float) -> bool:
        """Lend no more connections, wait for the lent ones, and close all; return False if one was not returned in time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            all_back = self._wait_until(lambda: self._lent == 0, timeout_s)
        self.discard_free()
        return all_back

    def _returned(self, pooled: PooledConnection | None = None) -> None:
        with self._changed:
            self._lent -= 1
            if pooled is not None and not pooled.raw.closed:
                if self._closed:
                    pooled.raw.close()
                else:
                    self._free.append(pooled)
            self._changed.notify_all()

    def _wait_until(self, happens: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until another thread makes the condition true; return whether it did in time. The lock is held."""
        give_up_s = time.monotonic() + timeout_s
        while not happens():
            left_s = give_up_s - time.monotonic()
            if left_s <= 0:
                return False
            self._changed.wait(left_s)
        return True
