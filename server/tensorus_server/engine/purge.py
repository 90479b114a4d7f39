"""The thread that frees the space of deleted datasets in the background."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server.background import Watched
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tensorus_server.catalogue.abc import DatasetTable
    from tensorus_server.engine.health import Health

__all__ = ["Purger"]

_LOOK_EVERY_S = 60.0
"""How often the thread checks for work that another process left."""

_log = logging.getLogger(__name__)


class Purger:
    """A thread that checks for deleted datasets when it starts, once a minute, and whenever it is woken."""

    def __init__(
        self, datasets: DatasetTable, health: Health, check_present: Callable[[], None] = lambda: None
    ) -> None:
        """Start the thread. If it ends unexpectedly, it reports that to `health`.

        Args:
            check_present: raises `StoreUnavailableError` if the store's folder was removed; the thread then ends.
        """
        self._datasets = datasets
        self._check_present = check_present
        self._health = health
        self._closing = threading.Event()
        self._woken = threading.Event()
        self._thread = Watched("purger", self._run, lambda error: health.fail("the purger ended", error))

    def wake(self) -> None:
        """Check now, because a dataset was deleted."""
        self._woken.set()

    def close(self, timeout_s: float) -> bool:
        """End the thread after the current batch; return False if it does not end in time. Idempotent.

        The next start of the store continues with what is left.
        """
        self._closing.set()
        self._woken.set()
        return self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._woken.clear()
            try:
                self._health.require()
            except StoreUnavailableError:
                return
            try:
                purged = self._datasets.purge(self._closing.wait)
            except Exception:  # noqa: BLE001 - the next round tries again, whatever the error
                with suppress(StoreUnavailableError):
                    self._check_present()
                    _log.exception("deleted datasets could not be purged")
            else:
                if purged:
                    _log.info("%d tensors of deleted datasets were deleted", purged)
            self._woken.wait(_LOOK_EVERY_S)
