"""Whether the store can still be used: one object that every part of the engine asks.

A store fails once and for good. From then on it takes no writes, every wait in the engine ends with `StoreUnavailableError`,
health says NOT_SERVING, and the server's process ends with exit code 4: only a restart finds out what is on the disk.

Two things make a store fail: a commit whose outcome is unknown (the catalogue knows of that), and a background thread that
ended although it should not have.
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
    """Safe in many threads; asking takes no lock."""

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        """Start as usable.

        Args:
            check: raises `StoreUnavailableError` where the catalogue takes no writes; must not wait.
        """
        self._check = check
        self._lock = threading.Lock()
        self._failure: str | None = None

    def fail(self, what: str, cause: BaseException) -> None:
        """Note that the store has failed. The first failure counts, and is logged with its cause."""
        with self._lock:
            if self._failure is not None:
                return
            self._failure = what
        _log.critical("the store has failed and takes no more writes until a restart: %s", what, exc_info=cause)

    def require(self) -> None:
        """Do nothing while the store can be used.

        Raises:
            StoreUnavailableError: it has failed, or is closed.
        """
        if self._failure is not None:
            raise StoreUnavailableError(f"the store failed and takes no more writes until a restart: {self._failure}")
        self._check()
