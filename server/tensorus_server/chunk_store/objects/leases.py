"""Which payloads this process is writing.

Between processes, the `WriteLog` decides. Within the process, a set of payload keys does, so that no thread takes over what
another one writes: the log would let it, since both are the same member.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import Leases, PayloadBusyError, PayloadMissingError
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.chunk_store.abc import WriteLog

__all__ = ["LogLeases"]

_log = logging.getLogger(__name__)


class LogLeases(Leases):
    """The leases of one process on one store."""

    def __init__(self, writes: WriteLog, has_others: Callable[[], bool]) -> None:
        """Hold nothing.

        Args:
            writes: notes who writes what.
            has_others: returns whether another living process uses the store.
        """
        self._writes = writes
        self._has_others = has_others
        self._lock = threading.Lock()
        self._held: set[str] = set()
        # Could not be parked, since the log was away.
        self._unparked: set[str] = set()

    def acquire(self, payload_key: str) -> None:
        """See `Leases`. A payload that is not noted in the log has no other writer."""
        self.hold(payload_key)
        try:
            self._writes.take_over(payload_key)
        except PayloadMissingError:
            return
        except BaseException:
            self.unhold(payload_key)
            raise

    def release(self, payload_key: str) -> None:
        """See `Leases`."""
        with self._lock:
            held = payload_key in self._held
        if held:
            self.park(payload_key)

    def take_over(self, payload_key: str) -> int:
        """Take the lease of a payload that the log knows, and return its new generation.

        Raises:
            PayloadMissingError: the log does not know it.
            PayloadBusyError: a writer holds it.
        """
        self.hold(payload_key)
        try:
            return self._writes.take_over(payload_key)
        except BaseException:
            self.unhold(payload_key)
            raise

    def hold(self, payload_key: str) -> None:
        """Take the lease of a payload that the log has as this process's.

        Raises:
            PayloadBusyError: another thread has it.
        """
        with self._lock:
            if payload_key in self._held:
                raise PayloadBusyError(f"another writer has the payload {payload_key}")
            self._held.add(payload_key)

    def unhold(self, payload_key: str) -> None:
        """Give up what `hold` took, without leaving the payload to other processes."""
        with self._lock:
            self._held.discard(payload_key)

    def park(self, payload_key: str) -> None:
        """Leave a payload to whoever takes it over; if the log is away, `retry` does it."""
        try:
            self._writes.park(payload_key)
        except EngineError as error:
            _log.warning("payload %s cannot be left to other processes yet: %s", payload_key, error)
            with self._lock:
                self._unparked.add(payload_key)
        finally:
            self.unhold(payload_key)

    def retry(self) -> None:
        """Park what could not be parked, unless this process writes it again."""
        with self._lock:
            waiting = self._unparked - self._held
            self._unparked -= waiting
        for payload_key in waiting:
            self.park(payload_key)

    def has_other_users(self) -> bool:
        """See `Leases`."""
        return self._has_others()

    def close(self) -> None:
        """See `Leases`. Whoever keeps the log tells the others that this process has gone."""
        with self._lock:
            self._held.clear()
