"""The quarantine of a store of objects: small objects that mark payloads and packs. What they mark stays where it is.

`names.py` has the names of the marks. Keys are those of `Quarantined`, and "pack/<32 hex digits>" for a pack.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tensorus_server.chunk_store.abc import PayloadBusyError, PayloadMissingError, Quarantine, Quarantined
from tensorus_server.chunk_store.objects.discarded import delete_payload
from tensorus_server.chunk_store.objects.names import QUARANTINE, pack_name, payload_folder
from tensorus_server.payload_keys import SegmentedKey, parse_key

if TYPE_CHECKING:
    from tensorus_server.chunk_store.abc import WriteLog
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.chunk_store.objects.leases import LogLeases

__all__ = ["PACK_HOME", "Marks", "ObjectQuarantine", "read_marks"]

PACK_HOME = "pack"
_KEPT_HOME = "uploads"

_TIME = "%Y%m%dT%H%M%SZ"
_MARK = re.compile(rf"{QUARANTINE}/(\d{{8}}T\d{{6}}Z)\.(\d+)\.([0-9a-z-]+)\.([0-9a-f]{{32}})")
_RESTORED = re.compile(rf"{QUARANTINE}/restored\.([0-9a-z-]+)\.([0-9a-f]{{32}})")


@dataclass
class Marks:
    """All marks of a store."""

    entries: dict[str, Quarantined] = field(default_factory=dict)
    """What is in quarantine, by key."""
    restored_s: dict[str, float] = field(default_factory=dict)
    """When what was in quarantine was restored, by key, in seconds since 1970."""


def read_marks(client: ObjectClient) -> Marks:
    """Return all marks of a store. Objects with other names are ignored."""
    marks = Marks()
    for stored in client.objects(QUARANTINE):
        if found := _MARK.fullmatch(stored.name):
            until_s = datetime.strptime(found[1], _TIME).replace(tzinfo=UTC).timestamp()
            key = f"{found[3]}/{found[4]}"
            marks.entries[key] = Quarantined(key, int(found[2]), until_s)
        elif found := _RESTORED.fullmatch(stored.name):
            marks.restored_s[f"{found[1]}/{found[2]}"] = stored.modified_s
    return marks


class ObjectQuarantine(Quarantine):
    """See the module's description."""

    def __init__(self, client: ObjectClient, writes: WriteLog, leases: LogLeases) -> None:
        """Use the store of `client`, the log of what is written to it, and this process's leases."""
        self._client = client
        self._writes = writes
        self._leases = leases

    def put(self, key: str, *, until_s: float) -> bool:
        """See `Quarantine`."""
        home, _, name = key.rpartition("/")
        if home != _KEPT_HOME:
            return self._put(key, until_s)
        self._leases.acquire(name)
        try:
            return self._put(key, until_s)
        finally:
            self._leases.release(name)

    def entries(self) -> list[Quarantined]:
        """See `Quarantine`."""
        return sorted(read_marks(self._client).entries.values(), key=lambda entry: entry.until_s)

    def restore(self, entry: Quarantined) -> None:
        """See `Quarantine`."""
        if entry.key not in read_marks(self._client).entries:
            raise PayloadMissingError(f"no payload in quarantine has the key {entry.key}")
        self._client.put(_restored_name(entry.key), b"")
        self._client.delete([_mark_name(entry)])

    def delete(self, entry: Quarantined) -> None:
        """See `Quarantine`."""
        home, _, name = entry.key.rpartition("/")
        if home == PACK_HOME:
            self._client.delete([pack_name(name)])
            self._writes.forget([entry.key])
        elif home == _KEPT_HOME:
            self._drop_kept(name)
        elif isinstance(parse_key(entry.key), SegmentedKey):
            delete_payload(self._client, name)
        # Last, so that a failure before it leaves the mark, and the next round goes on.
        self._client.delete([_mark_name(entry), _restored_name(entry.key)])

    def _drop_kept(self, payload_key: str) -> None:
        """Delete a kept payload, unless somebody goes on with it."""
        try:
            self._leases.take_over(payload_key)
        except PayloadMissingError:
            delete_payload(self._client, payload_key)
        except PayloadBusyError:
            return
        else:
            self._leases.unhold(payload_key)
            if self._writes.abandon([payload_key]):
                delete_payload(self._client, payload_key)

    def _put(self, key: str, until_s: float) -> bool:
        size = self._stored_bytes(key)
        if size is None:
            return False
        self._client.put(_mark_name(Quarantined(key, size, until_s)), b"")
        with suppress(PayloadMissingError):
            self._client.delete([_restored_name(key)])
        return True

    def _stored_bytes(self, key: str) -> int | None:
        """Return how many bytes are stored under a key; None: there is nothing of this kind."""
        home, _, name = key.rpartition("/")
        if home == PACK_HOME:
            try:
                return self._client.size(pack_name(name))
            except PayloadMissingError:
                return None
        if home != _KEPT_HOME and not isinstance(parse_key(key), SegmentedKey):
            return None
        sizes = [stored.size for stored in self._client.objects(payload_folder(name))]
        return sum(sizes) if sizes else None


def _mark_name(entry: Quarantined) -> str:
    until = datetime.fromtimestamp(entry.until_s, UTC)
    return f"{QUARANTINE}/{until:{_TIME}}.{entry.stored_bytes}.{entry.key.replace('/', '.')}"


def _restored_name(key: str) -> str:
    return f"{QUARANTINE}/restored.{key.replace('/', '.')}"
