"""What lies in a store of objects, seen past the store: names and bytes as the format says, by the library alone."""

from __future__ import annotations

import re
import struct
from typing import Any

import obstore

from support.write_log import SharedLog
from tensorus_server.payload_keys import PackedKey, SegmentedKey, parse_key

_SEGMENT = re.compile(r"t/[0-9a-f]{2}/([0-9a-f]{32})/(\d+)-(\d{16})(-end)?")
_PACK = re.compile(r"p/[0-9a-f]{2}/([0-9a-f]{32})")


class RawObjects:
    """The objects behind a store, and the log of what is written to it."""

    def __init__(self, library_store: Any, log: SharedLog) -> None:
        """Look below the prefix that `library_store` has."""
        self._store = library_store
        self._log = log

    def objects(self) -> dict[str, bytes]:
        """Return every object by name."""
        names = [entry["path"] for page in obstore.list(self._store) for entry in page]
        return {name: bytes(obstore.get(self._store, name).bytes()) for name in names}

    def put(self, name: str, data: bytes) -> None:
        """Store an object."""
        obstore.put(self._store, name, data, use_multipart=False)

    def published(self) -> dict[str, bytes]:
        """Return every complete payload whose key is not in the log, and what the packs hold."""
        objects = self.objects()
        found = {}
        for name, data in objects.items():
            if match := _SEGMENT.fullmatch(name):
                if match[4] and match[1] not in self._log.begun and match[2] == _newest(match[1], objects):
                    key = SegmentedKey(int(match[2]), int(match[3]), len(data), match[1])
                    found[str(key)] = _segmented(key, objects)
            elif match := _PACK.fullmatch(name):
                found |= _packed(match[1], data)
        return found

    def unfinished(self) -> int:
        """Return how many payloads have objects although nobody keeps or publishes them."""
        known = set(self.kept()) | {key.rpartition("/")[2] for key in self.published()}
        names = [match[1] for name in self.objects() if (match := _SEGMENT.fullmatch(name))]
        return len(set(names) - known)

    def kept(self) -> dict[str, bytes]:
        """Return what is stored of every payload whose key is in the log: segments that follow each other."""
        found: dict[str, bytes] = {}
        objects = self.objects()
        for payload_key in self._log.begun:
            parts = {
                int(match[3]): data
                for name, data in sorted(objects.items())
                if (match := _SEGMENT.fullmatch(name)) and match[1] == payload_key and not match[4]
            }
            if parts:
                payload = b""
                while (part := parts.get(len(payload))) is not None and part:
                    payload += part
                found[payload_key] = payload
        return found

    def plant(self, key: str, payload: bytes) -> None:
        """Put a payload where a published one would be."""
        parsed = parse_key(key)
        if isinstance(parsed, PackedKey):
            self.put(f"p/{parsed.pack[:2]}/{parsed.pack}", bytes(parsed.offset) + payload)
        else:
            assert isinstance(parsed, SegmentedKey)
            folder = f"t/{parsed.payload_key[:2]}/{parsed.payload_key}/{parsed.generation}"
            if parsed.tail_offset:
                # The payload with zeros behind it, as long as the old one: the key says how long that is.
                self.put(f"{folder}-{0:016d}", payload[: parsed.tail_offset])
                old = self.objects()[f"{folder}-{parsed.tail_offset:016d}-end"]
                end = payload[parsed.tail_offset :]
                payload = end + bytes(len(old) - 24 - 2 * 12 - len(end)) + old[-24 - 2 * 12 :]
            self.put(f"{folder}-{parsed.tail_offset:016d}-end", payload)


def _newest(payload_key: str, objects: dict[str, bytes]) -> str:
    """Return the latest generation that has written a payload: its end is the one that was committed."""
    found = (match for name in objects if (match := _SEGMENT.fullmatch(name)) and match[1] == payload_key)
    return max((match[2] for match in found), key=int)


def _segmented(key: SegmentedKey, objects: dict[str, bytes]) -> bytes:
    folder = f"t/{key.payload_key[:2]}/{key.payload_key}"
    last = objects[f"{folder}/{key.generation}-{key.tail_offset:016d}-end"]
    if key.tail_offset == 0:
        return last
    length, count, _, magic = struct.unpack("<QII8s", last[-24:])
    assert magic == b"tensoseg"
    directory = last[-24 - 12 * count : -24]
    entries = list(struct.iter_unpack("<IQ", directory))
    parts = [objects[f"{folder}/{generation}-{offset:016d}"] for generation, offset in entries[:-1]]
    payload = b"".join(parts) + last[: -24 - 12 * count]
    assert len(payload) == length
    return payload


def _packed(pack: str, data: bytes) -> dict[str, bytes]:
    length, version, _, magic = struct.unpack("<QII8s", data[-24:])
    assert (version, magic) == (1, b"tensopak")
    found = {}
    for payload_key, offset, size, _ in struct.iter_unpack("<32sQQI8x", data[-24 - length : -24]):
        key = PackedKey(pack, offset, size, payload_key.decode())
        found[str(key)] = data[offset : offset + size]
    return found
