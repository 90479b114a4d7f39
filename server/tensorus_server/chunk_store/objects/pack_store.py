"""The role `PackStore` of a store of objects: which packs there are, what is in them, and copies into new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.chunk_store.abc import PackStore, PayloadMissingError, PayloadUnreadableError
from tensorus_server.chunk_store.objects.discarded import PACK_KEY
from tensorus_server.chunk_store.objects.listing import list_packs
from tensorus_server.chunk_store.objects.names import pack_name
from tensorus_server.chunk_store.objects.packs import (
    END_BYTES,
    PackError,
    directory_bytes,
    pack_bytes,
    parse_directory,
)
from tensorus_server.limits import PACK_BYTES_MAX
from tensorus_server.payload_keys import PackedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tensorus_server.chunk_store.abc import PackedPart, StoredPack, WriteLog
    from tensorus_server.chunk_store.objects.client import ObjectClient
    from tensorus_server.chunk_store.objects.discarded import Discarded
    from tensorus_server.chunk_store.objects.packer import Packer

__all__ = ["ObjectPacks"]

_TAIL_BYTES = 64 * 1024
"""Bytes at the end of a pack that are fetched for its directory: enough for a thousand payloads."""

_GAP_BYTES_MAX = 1024 * 1024
"""Bytes between two payloads that are fetched with them, since another request takes longer: 13 ms at 80 MB/s."""


class ObjectPacks(PackStore):
    """See `PackStore`. Of one pack at a time, everything that is copied is in memory."""

    def __init__(self, client: ObjectClient, writes: WriteLog, packer: Packer, discarded: Discarded) -> None:
        """Use the store of `client`, and names of packs from `packer`."""
        self._client = client
        self._writes = writes
        self._packer = packer
        self._discarded = discarded

    def packs(self) -> Iterator[StoredPack]:
        """See `PackStore`. One request for each thousand."""
        return list_packs(self._client)

    def parts(self, pack: str) -> list[PackedPart]:
        """See `PackStore`. Two requests, or three if the pack has more than a thousand payloads."""
        try:
            return self._parts(pack)
        except PackError as error:
            raise PayloadUnreadableError(f"pack {pack}: {error}") from error
        except PayloadMissingError as error:
            raise PayloadMissingError(f"there is no pack {pack}: {error}") from error

    def copy_to_new_pack(self, keys: Sequence[str]) -> list[str]:
        """See `PackStore`."""
        wanted = [_packed(key) for key in keys]
        known = {pack: {part.key: part for part in self.parts(pack)} for pack in {key.pack for key in wanted}}
        copied: list[str] = []
        made: list[str] = []
        try:
            for group in _groups(wanted):
                pack = self._packer.new_pack()
                made.append(pack)
                found = self._read_all(group, known)
                payloads = [(key.payload_key, found[key]) for key in group]
                data, parts = pack_bytes(pack, payloads)
                self._client.put(pack_name(pack), data)
                copied += [part.key for part in parts]
        except BaseException:
            for pack in made:
                self._discarded.discard(PACK_KEY + pack)
            raise
        return copied

    def drop_pack(self, pack: str) -> None:
        """See `PackStore`."""
        self._discarded.discard(PACK_KEY + pack)

    def delete_pack(self, pack: str) -> None:
        """See `PackStore`."""
        self._client.delete([pack_name(pack)])
        self._writes.forget([PACK_KEY + pack])

    def _parts(self, pack: str) -> list[PackedPart]:
        name = pack_name(pack)
        size = self._client.size(name)
        fetched = min(size, _TAIL_BYTES)
        if fetched < END_BYTES:
            raise PackError(f"the object has {size} bytes, too few for a directory")
        tail = self._client.get(name, size - fetched, fetched)
        if tail.nbytes != fetched:
            raise PackError(f"the object has fewer than {size} bytes")
        length = directory_bytes(tail[-END_BYTES:])
        if length > size:
            raise PackError(f"the directory has {length} bytes, the object {size}")
        if length > fetched:
            tail = self._client.get(name, size - length, length)
        return parse_directory(pack, bytes(tail[-length:]), size)

    def _read_all(
        self, group: Sequence[PackedKey], known: dict[str, dict[str, PackedPart]]
    ) -> dict[PackedKey, memoryview]:
        """Return payloads, those that are near each other by one request."""
        for key in group:
            if str(key) not in known[key.pack]:
                raise PayloadMissingError(f"no payload has the key {key}: its pack does not list it")
        found: dict[PackedKey, memoryview] = {}
        for run in _runs(group):
            first, last = run[0], run[-1]
            data = self._client.get(pack_name(first.pack), first.offset, last.offset + last.length - first.offset)
            for key in run:
                start = key.offset - first.offset
                found[key] = _checked(known[key.pack][str(key)], data[start : start + key.length])
        return found


def _checked(part: PackedPart, payload: memoryview) -> memoryview:
    found = crc32c(payload)
    if payload.nbytes != part.length or found != part.crc32c:
        raise PayloadUnreadableError(f"CRC32C of payload {part.key} is {found:#010x}, expected {part.crc32c:#010x}")
    return payload


def _packed(key: str) -> PackedKey:
    parsed = parse_key(key)
    if not isinstance(parsed, PackedKey):
        raise PayloadMissingError(f"no payload in a pack has the key {key}")
    return parsed


def _runs(keys: Sequence[PackedKey]) -> Iterator[list[PackedKey]]:
    """Divide payloads into those that one request fetches, in the order of their places."""
    run: list[PackedKey] = []
    for key in sorted(set(keys), key=lambda key: (key.pack, key.offset)):
        if run and (key.pack != run[-1].pack or key.offset - run[-1].offset - run[-1].length > _GAP_BYTES_MAX):
            yield run
            run = []
        run.append(key)
    if run:
        yield run


def _groups(keys: Sequence[PackedKey]) -> Iterator[list[PackedKey]]:
    """Divide payloads into packs."""
    group: list[PackedKey] = []
    size = 0
    for key in keys:
        if group and size + key.length > PACK_BYTES_MAX:
            yield group
            group, size = [], 0
        group.append(key)
        size += key.length
    if group:
        yield group
