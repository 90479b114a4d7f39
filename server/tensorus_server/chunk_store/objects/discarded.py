"""Gives up what this process wrote and does not need: dropped payloads, and packs of which nothing was committed.

The `WriteLog` decides whether it is this process's to give up: another may have declared it dead, and go on with the payload.
Whoever keeps the log has the objects deleted later, those that are still on their way included. They are also deleted at
once, to save space, unless the store is away. If the log is away, this is tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import wait
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.objects.names import Segment, pack_name, payload_folder
from tensorus_server.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tensorus_server.chunk_store.abc import WriteLog
    from tensorus_server.chunk_store.objects.client import ObjectClient

__all__ = ["PACK_KEY", "Discarded", "delete_payload"]

PACK_KEY = "pack/"
"""What the keys of packs begin with in the `WriteLog`."""

_WAIT_S = 1.0
"""How long a caller waits for objects that are on their way, so that they are deleted, too. Usually they arrive in less."""

_AWAY_S = 30.0
"""After an object could not be deleted: how long all are left to the sweep."""

_log = logging.getLogger(__name__)


def delete_payload(client: ObjectClient, payload_key: str, *, generation: int = 0, once: bool = False) -> None:
    """Delete all segments of a payload, of every generation.

    Args:
        client: makes the requests.
        payload_key: of the payload.
        generation: of the writer whose payload is not needed; 0: nobody's is. If a later one has stored something, that builds
            on the earlier ones, and nothing is deleted.
        once: whether to make one attempt of each request only.
    """
    names = [stored.name for stored in client.objects(payload_folder(payload_key), once=once)]
    found = [segment.generation for name in names if (segment := Segment.parse(name)) is not None]
    if generation and max(found, default=0) > generation:
        _log.info("payload %s of writer %d stays, because another went on with it", payload_key, generation)
        return
    client.delete(names, once=once)


class Discarded:
    """What could not be given up yet. Thread-safe."""

    def __init__(self, client: ObjectClient, writes: WriteLog) -> None:
        """Start with nothing."""
        self._client = client
        self._writes = writes
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._away_until_s = 0.0

    def discard(self, key: str, on_their_way: Sequence[Future[None]] = ()) -> bool:
        """Give up what is stored under a key of the `WriteLog`; return False if it is not this process's.

        Args:
            key: a payload key, or that of a pack.
            on_their_way: of the objects that are still being stored.
        """
        try:
            if not self._writes.abandon([key]):
                return False
        except EngineError as error:
            _log.warning("%s cannot be given up yet: %s", key, error)
            with self._lock:
                self._waiting.add(key)
            return True
        if time.monotonic() >= self._away_until_s:
            wait(on_their_way, _WAIT_S)
            self._delete(key)
        return True

    def _delete(self, key: str) -> None:
        try:
            if key.startswith(PACK_KEY):
                self._client.delete([pack_name(key.removeprefix(PACK_KEY))], once=True)
            else:
                delete_payload(self._client, key, once=True)
        except EngineError as error:
            # Whoever drops hundreds of payloads, because the store is away, must not wait for it each time.
            self._away_until_s = time.monotonic() + _AWAY_S
            _log.info("objects such as those of %s are left to the sweep: %s", key, error)

    def retry(self) -> int:
        """Try again, and return how many were given up."""
        with self._lock:
            waiting, self._waiting = self._waiting, set()
        for key in waiting:
            self.discard(key)
        with self._lock:
            return len(waiting - self._waiting)
