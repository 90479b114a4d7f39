"""Deletes what this process wrote and does not need: dropped payloads, and packs without a payload that was published.

What cannot be deleted now, because the store is away or an object is still on its way, is tried again later. If the process
ends before that, the `WriteLog` knows the keys, and whoever reaps dead processes deletes the objects.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import wait
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.objects.names import pack_name, payload_folder
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tensorus_server.chunk_store.abc import WriteLog
    from tensorus_server.chunk_store.objects.client import ObjectClient

__all__ = ["PACK_KEY", "Discarded", "delete_payload"]

PACK_KEY = "pack/"
"""What the keys of packs begin with in the `WriteLog`."""

_WAIT_S = 5.0
"""How long a caller waits for objects that are on their way. Usually they arrive in less than a second."""

_log = logging.getLogger(__name__)


def delete_payload(client: ObjectClient, payload_key: str) -> bool:
    """Delete all segments of a payload, of every generation; return whether there were any."""
    names = [stored.name for stored in client.objects(payload_folder(payload_key))]
    client.delete(names)
    return bool(names)


class Discarded:
    """What is to be deleted. Thread-safe."""

    def __init__(self, client: ObjectClient, writes: WriteLog) -> None:
        """Start with nothing to delete."""
        self._client = client
        self._writes = writes
        self._lock = threading.Lock()
        self._waiting: dict[str, Sequence[Future[None]]] = {}

    def discard(self, key: str, on_their_way: Sequence[Future[None]] = ()) -> None:
        """Delete what lies under a key of the `WriteLog`, and forget the key.

        Args:
            key: a payload key, or that of a pack.
            on_their_way: of the objects that are still being stored, which would otherwise arrive after the deletion.
        """
        wait(on_their_way, _WAIT_S)
        if not self._try(key, on_their_way):
            with self._lock:
                self._waiting[key] = on_their_way

    def retry(self) -> int:
        """Try again, and return how many were deleted."""
        with self._lock:
            waiting = list(self._waiting.items())
        deleted = 0
        for key, on_their_way in waiting:
            if self._try(key, on_their_way):
                deleted += 1
                with self._lock:
                    self._waiting.pop(key, None)
        return deleted

    def _try(self, key: str, on_their_way: Sequence[Future[None]]) -> bool:
        if not all(future.done() for future in on_their_way):
            return False
        try:
            if key.startswith(PACK_KEY):
                self._client.delete([pack_name(key.removeprefix(PACK_KEY))])
            else:
                delete_payload(self._client, key)
            self._writes.forget([key])
        except EngineError as error:
            _log.warning("%s cannot be deleted yet: %s", key, error)
            return False
        return True
