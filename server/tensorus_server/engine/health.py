"""Tracks whether the store has failed; all parts of the engine share one `Health`.

A failure is permanent. From then on the store takes no writes, every wait in the engine ends with `StoreUnavailableError`,
health checks return NOT_SERVING, and the server's process ends with exit code 4. Only a restart can determine what is on the
disk.

A store fails if the outcome of a commit is unknown (which the catalogue reports), or if a background thread ends unexpectedly.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Health"]

_log = logging.getLogger(__name__)


class Health:
    """Thread-safe; `require` takes no lock."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """Start as usable.

        Args:
            check: raises `StoreUnavailableError` if the catalogue takes no writes; must not block.
        """
        self._check = check
        self._lock = threading.Lock()
        self._failure: str | None = None

    def fail(self, what: str, cause: BaseException) -> None:
        """Record that the store has failed. Only the first failure counts; it is logged with its cause."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = what
        _log.critical("the store has failed and takes no more writes until a restart: %s", what, exc_info=cause)

    def require(self) -> None:
        """Check that the store is usable.

        Raises:
            StoreUnavailableError: it has failed, or is closed.
        """
        if self._failure is not None:
            raise StoreUnavailableError(f"the store failed and takes no more writes until a restart: {self._failure}")
        self._check()
