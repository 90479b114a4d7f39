"""What a chunk store that several hosts share needs from the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["WriteLog"]


class WriteLog(Protocol):
    """Notes durably, outside the store, what a process is writing to it. Thread-safe.

    An object may be in the store although no row refers to it only if its key is noted here. So what dead processes left is
    known without a listing. Keys are payload keys, and "pack/<32 hex digits>" for packs. Whoever commits a
    payload to the catalogue removes its key.

    Every method may raise `StoreUnavailableError`, and then may or may not have done its work.
    """

    @property
    def number(self) -> int | None:
        """The number under which this process begins keys; None: it cannot at present.

        It changes if the process lost its lease. Then what it had begun cannot be committed.
        """

    def require(self) -> None:
        """Check, before each attempt to store an object, that nobody may have declared this process dead. Takes no time.

        So an attempt ends at most the timeout of a request after that, and what was begun can be deleted then.
        """

    def begin(self, keys: Sequence[str]) -> None:
        """Note keys before their first object is stored, durably, in generation 1. No key is ever begun twice."""

    def take_over(self, payload_key: str) -> int:
        """Go on with a payload in the name of this process; return its new generation, which is higher than any before.

        Raises:
            PayloadMissingError: the key is not noted: it was never begun, or was committed or dropped.
            PayloadBusyError: another living process is writing the payload.
        """

    def park(self, payload_key: str) -> None:
        """Leave a payload to whoever takes it over; has no effect if this process does not write it."""

    def abandon(self, keys: Sequence[str]) -> list[str]:
        """Give up what this process is writing, for good, and return which of `keys` that is true of.

        Whoever keeps the log has the objects deleted, once none can be on its way. Before that, only those of returned keys may
        be deleted: the others were committed, or other processes go on with them.
        """

    def forget(self, keys: Sequence[str]) -> None:
        """Remove keys of this process of which no object exists. Others are ignored."""
