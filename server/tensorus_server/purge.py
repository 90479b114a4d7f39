"""The thread that frees the space of deleted datasets in the background."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorus_server.catalogue.abc import DatasetTable

__all__ = ["Purger"]

_LOOK_EVERY_S = 60.0
"""For what another process has left."""

_log = logging.getLogger(__name__)


class Purger:
    """One thread. It looks once at its start, once a minute, and whenever it is woken."""

    def __init__(self, datasets: DatasetTable) -> None:
        """Start the thread."""
        self._datasets = datasets
        self._closing = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tensorus-purger", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look now: a dataset was deleted."""
        self._woken.set()

    def close(self) -> None:
        """End the thread after the batch at hand. Idempotent; the next start goes on."""
        self._closing.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._woken.clear()
            try:
                purged = self._datasets.purge(self._closing.wait)
            except Exception:  # noqa: BLE001 - whatever it was, the next look tries again
                _log.exception("deleted datasets could not be purged")
            else:
                if purged:
                    _log.info("%d tensors of deleted datasets were deleted", purged)
            self._woken.wait(_LOOK_EVERY_S)
