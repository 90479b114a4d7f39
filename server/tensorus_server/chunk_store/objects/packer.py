"""Puts small payloads into packs: those that are published together into one object.

    finish → pending, in memory → published: stored with its group, in one pack or more
                                → the next one would make it more than 16 MiB: stored at once, in the background
                                → dropped: gone

So a group of small tensors costs one PUT, and an all-or-nothing insert does not pile up in memory until it is committed. At
most `HELD_BYTES_MAX` are in memory, pending or on their way; then `add` waits.

A payload in a stored pack that is dropped, or refused by the catalogue, stays there. The pack is given up here if nothing in it
was committed; everything else is up to the sweep of packs.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from tensorus_server import background
from tensorus_server.background import result_of
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.objects.discarded import PACK_KEY
from tensorus_server.chunk_store.objects.names import pack_name
from tensorus_server.chunk_store.objects.packs import pack_bytes
from tensorus_server.errors import EngineError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from tensorus_server.background import WorkerPool
    from tensorus_server.chunk_store.abc import PackedPart, WriteLog
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.chunk_store.objects.discarded import Discarded

__all__ = ["HELD_BYTES_MAX", "Packer"]

HELD_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of small payloads in memory: four packs."""

_NAMES_AT_ONCE = 16
"""Names that are noted in the `WriteLog` at once, so that most packs cost no round trip to it."""

_OWN_PACKS_MAX = 256
"""Packs of this process that are known here. One that was stored earlier is deleted by the sweep of packs."""

_Parts = dict[str, "PackedPart"]


class Packer:
    """The small payloads of one process. Thread-safe."""

    def __init__(
        self, client: ObjectClient, writes: WriteLog, discarded: Discarded, pool: WorkerPool, *, pack_bytes_max: int
    ) -> None:
        """Start with nothing pending.

        Args:
            discarded: deletes packs that nobody needs.
            pool: its threads store packs.
            pack_bytes_max: at which a pack is complete.
        """
        self._client = client
        self._writes = writes
        self._discarded = discarded
        self._pool = pool
        self._pack_bytes_max = pack_bytes_max
        # Reentrant: a pack that has already failed notifies on the thread that submitted it.
        self._changed = threading.Condition(threading.RLock())
        self._pending: dict[str, bytes] = {}
        self._pending_bytes = 0
        self._held_bytes = 0
        # By payload key: the pack that it is in, and that is stored or on its way.
        self._stored: dict[str, Future[_Parts]] = {}
        # By pack: the payloads in it that were neither dropped nor deleted.
        self._needed: OrderedDict[str, set[str]] = OrderedDict()
        self._names_lock = threading.Lock()
        self._names: list[str] = []
        self._member: int | None = None

    def add(self, payload_key: str, payload: bytes) -> None:
        """Hold a payload until it is published or dropped.

        Raises:
            StoreUnavailableError: too much is on its way, and does not arrive.
        """
        give_up_s = time.monotonic() + background.STUCK_S
        with self._changed:
            while self._held_bytes > self._pending_bytes and self._held_bytes + len(payload) > HELD_BYTES_MAX:
                # Ends: every PUT ends, and notifies.
                self._changed.wait(background.LOOK_S)
                if time.monotonic() > give_up_s:
                    raise StoreUnavailableError(
                        f"{self._client.name} has not taken a pack for {background.STUCK_S:.0f} s"
                    )
            if self._pending and self._pending_bytes + len(payload) > self._pack_bytes_max:
                # Without this payload, which would be in a pack of its own.
                self._store(list(self._pending))
            self._pending[payload_key] = payload
            self._pending_bytes += len(payload)
            self._held_bytes += len(payload)
            if self._pending_bytes >= self._pack_bytes_max:
                self._store(list(self._pending))

    def publish(self, payload_keys: Sequence[str]) -> dict[str, str]:
        """Store payloads, durably, and return their keys by payload key.

        Raises:
            StorageFullError, StoreUnavailableError: they cannot be stored now; then they are lost.
        """
        with self._changed:
            self._store([payload_key for payload_key in payload_keys if payload_key in self._pending])
            futures = {payload_key: self._stored[payload_key] for payload_key in payload_keys}
        keys = {payload_key: result_of(future, "a pack")[payload_key].key for payload_key, future in futures.items()}
        with self._changed:
            for payload_key in payload_keys:
                self._stored.pop(payload_key, None)
        return keys

    def drop(self, payload_key: str) -> None:
        """Drop a payload that is held or stored, and not published. Unknown ones are ignored."""
        with self._changed:
            payload = self._pending.pop(payload_key, None)
            if payload is not None:
                self._pending_bytes -= len(payload)
                self._held_bytes -= len(payload)
                return
            future = self._stored.pop(payload_key, None)
        if future is not None:
            future.add_done_callback(lambda stored: self._drop_stored(stored, payload_key))

    def deleted(self, pack: str, payload_key: str) -> None:
        """Note that a published payload is not needed any more; if no payload in its pack is, give up the pack.

        That has no effect on a pack of which something was committed, which is up to the sweep of packs.
        """
        with self._changed:
            needed = self._needed.get(pack)
            if needed is None:
                return
            needed.discard(payload_key)
            if needed:
                return
            del self._needed[pack]
        self._discarded.discard(PACK_KEY + pack)

    def new_pack(self) -> str:
        """Return the name of a pack that is noted in the `WriteLog`."""
        with self._names_lock:
            member = self._writes.number
            if member != self._member:
                # What a member that lost its lease had begun cannot be committed.
                self._names, self._member = [], member
            if not self._names:
                names = [new_payload_key() for _ in range(_NAMES_AT_ONCE)]
                self._writes.begin([PACK_KEY + name for name in names])
                self._names = names
            return self._names.pop()

    def close(self) -> None:
        """Forget the names that were not used. Idempotent."""
        with self._names_lock:
            names, self._names = self._names, []
        if names:
            # They are of no use to anyone, and go when this process's keys do.
            with suppress(EngineError):
                self._writes.forget([PACK_KEY + name for name in names])

    def _store(self, payload_keys: list[str]) -> None:
        """Start to store pending payloads. The lock is held."""
        group: list[tuple[str, bytes]] = []
        size = 0
        for payload_key in payload_keys:
            payload = self._pending.pop(payload_key)
            self._pending_bytes -= len(payload)
            if group and size + len(payload) > self._pack_bytes_max:
                self._submit(group, size)
                group, size = [], 0
            group.append((payload_key, payload))
            size += len(payload)
        if group:
            self._submit(group, size)

    def _submit(self, group: list[tuple[str, bytes]], size: int) -> None:
        # The task empties the group.
        payload_keys = [payload_key for payload_key, _ in group]
        try:
            future = self._pool.submit(self._store_pack, group)
        except BaseException:
            self._held_bytes -= size
            raise
        self._stored.update(dict.fromkeys(payload_keys, future))
        future.add_done_callback(lambda _: self._arrived(size))

    def _arrived(self, size: int) -> None:
        with self._changed:
            self._held_bytes -= size
            self._changed.notify_all()

    def _store_pack(self, group: list[tuple[str, bytes]]) -> _Parts:
        pack = self.new_pack()
        data, parts = pack_bytes(pack, group)
        # Now the payloads are in `data`, and not needed twice.
        group.clear()
        try:
            self._client.put(pack_name(pack), data)
        except BaseException:
            self._discarded.discard(PACK_KEY + pack)
            raise
        with self._changed:
            self._needed[pack] = {part.payload_key for part in parts}
            if len(self._needed) > _OWN_PACKS_MAX:
                self._needed.popitem(last=False)
        return {part.payload_key: part for part in parts}

    def _drop_stored(self, stored: Future[_Parts], payload_key: str) -> None:
        if not stored.cancelled() and stored.exception() is None:
            self.deleted(stored.result()[payload_key].pack, payload_key)
