"""Turns SIGTERM and SIGINT into an event that tells a serving process to stop."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["stop_event"]


def stop_event() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set from now on; a second signal of the same kind ends the process at once."""
    stopping = threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        # The handler only sets an event, because it must not call into gRPC.
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return stopping
