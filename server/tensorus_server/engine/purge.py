"""The thread that frees the space of deleted datasets, and of past tensors that nothing needs, in the background."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server.background import Watched
from tensorus_server.errors import StoreUnavailableError

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import Catalogue
    from tensorus_server.engine.health import Health

__all__ = ["Purger"]

_LOOK_EVERY_S = 60.0
"""How often the thread checks for work that another process left."""

_log = logging.getLogger(__name__)


class Purger:
    """A thread that checks for such work when it starts, once a minute, and whenever it is woken."""

    def __init__(self, catalogue: Catalogue, health: Health, *, start: bool = True) -> None:
        """Start the thread, unless nothing may be written. If it ends unexpectedly, it reports that to `health`."""
        self._catalogue = catalogue
        self._health = health
        self._closing = threading.Event()
        self._woken = threading.Event()
        self._thread: Watched | None = None
        if start:
            self._thread = Watched("purger", self._run, lambda error: health.fail("the purger ended", error))

    def wake(self) -> None:
        """Check now, because a dataset was deleted, or something may no longer be needed."""
        self._woken.set()

    def close(self, timeout_s: float) -> bool:
        """End the thread after the current batch; return False if it does not end in time. Idempotent.

        The next start of the store continues with what is left.
        """
        self._closing.set()
        self._woken.set()
        return self._thread is None or self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            # Forget the wake-up before asking what it was for: `close` sets the other event first.
            self._woken.clear()
            if self._closing.is_set():
                return
            try:
                self._health.require()
            except StoreUnavailableError:
                return
            try:
                purged = self._catalogue.datasets.purge(self._closing.wait)
                pruned = self._catalogue.snapshots.prune(self._closing.wait)
            except Exception:  # noqa: BLE001 - the next round tries again, whatever the error
                with suppress(StoreUnavailableError):
                    self._catalogue.check_present()
                    _log.exception("deleted datasets and past tensors could not be purged")
            else:
                if purged:
                    _log.info("%d tensors of deleted datasets were deleted", purged)
                if pruned:
                    _log.info("%d past tensors were deleted, which nothing needed any more", pruned)
            self._woken.wait(_LOOK_EVERY_S)
