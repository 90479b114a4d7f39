"""The thread that sweeps a store: once a minute or so, until the store closes or fails."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from tensorus_server.background import Watched
from tensorus_server.errors import EngineError, StoreUnavailableError
from tensorus_server.meters import SweepMeters

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from tensorus_server.engine.health import Health

__all__ = ["Sweeper"]

_log = logging.getLogger(__name__)


class Sweeper:
    """Runs rounds of sweeping, on a thread of its own once `start` was called."""

    def __init__(
        self,
        sweep_round: Callable[[], None],
        check_present: Callable[[], None],
        health: Health,
        closing: threading.Event,
        *,
        every_s: float = 60.0,
    ) -> None:
        """Start no thread yet.

        Args:
            sweep_round: does one round; its errors are logged, and the next round tries again.
            check_present: raises `EngineError` if the store's folder was removed, or its database is away.
            health: once the store has failed, nothing may be deleted from it.
            closing: set when the store closes.
            every_s: pause between two rounds.
        """
        self.meters = SweepMeters()
        self._every_s = every_s
        self._round = sweep_round
        self._check_present = check_present
        self._health = health
        self._closing = closing
        self._thread: Watched | None = None
        self._is_away = False

    def start(self) -> None:
        """Start the thread. If it ends unexpectedly, the store fails."""
        self.meters.is_on = True
        self._thread = Watched("sweeper", self.run, lambda error: self._health.fail("the sweeper ended", error))

    def join(self, timeout_s: float) -> bool:
        """Return whether the thread has ended in time. Set `closing` before."""
        return self._thread is None or self._thread.join(timeout_s)

    def run(self) -> None:
        """Run rounds until the store closes or fails. While its catalogue cannot be used, no round is begun."""
        while self._takes_writes():
            if self._is_usable():
                begun_s = time.monotonic()
                try:
                    self._round()
                    self.meters.runs.observe(time.monotonic() - begun_s)
                    self.meters.last_success_s = time.time()
                except Exception as error:  # noqa: BLE001 - the next round tries again, whatever the error
                    self.meters.failures += 1
                    # The folder may have been removed meanwhile. A store that merely cannot be swept still serves.
                    if self._is_usable():
                        _log_failure(error)
            if not self._takes_writes() or self._closing.wait(self._every_s):
                return

    def _takes_writes(self) -> bool:
        try:
            self._health.require()
        except StoreUnavailableError:
            return False
        return True

    def _is_usable(self) -> bool:
        """Return whether the catalogue is there; a database that is away now may be back at the next round."""
        try:
            self._check_present()
        except EngineError as error:
            # A folder that was removed fails the store, which says so itself.
            if not self._is_away and self._takes_writes():
                _log.warning("the store is not swept for now: %s", error)
            self._is_away = True
            return False
        self._is_away = False
        return True


def _log_failure(error: Exception) -> None:
    if isinstance(error, EngineError):
        _log.error("the sweep failed: %s", error)
    else:
        _log.error("the sweep failed", exc_info=error)
