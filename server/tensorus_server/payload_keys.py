"""Names of payloads, and their keys in an object store, which say where the bytes are, so that opening one needs no listing.

    s<generation>-<offset>-<bytes>/<payload key>    segments of its own; the last one starts at `offset` of the payload
    p<pack>-<offset>-<bytes>/<payload key>          a part of a pack

A local store's keys are "<shard>/<payload key>". Numbers are decimal. A pack has a name like a payload key: 32 hex digits. All
keys of one pack are adjacent in the order of code points, so an index finds the payloads in a pack.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass

__all__ = [
    "PACK_PREFIX",
    "PackedKey",
    "SegmentedKey",
    "begun_of_key",
    "is_of_object_store",
    "key_of_begun",
    "keys_of_pack",
    "new_payload_key",
    "parse_key",
]

PACK_PREFIX = "pack/"
"""Before the name of a pack where keys of packs and of payloads are together: what is being written, what is to be deleted."""

_SEGMENTED = re.compile(r"s(\d+)-(\d+)-(\d+)/([0-9a-f]{32})")
_PACKED = re.compile(r"p([0-9a-f]{32})-(\d+)-(\d+)/([0-9a-f]{32})")


@dataclass(frozen=True)
class SegmentedKey:
    """A payload in objects of its own."""

    generation: int
    """Of the writer that completed it: raised whenever another writer goes on."""
    tail_offset: int
    """Where the last segment starts in the payload, in bytes; 0: it is the only one."""
    tail_bytes: int
    """Size of the last segment's object."""
    payload_key: str

    def __str__(self) -> str:
        """Return the key."""
        return f"s{self.generation}-{self.tail_offset}-{self.tail_bytes}/{self.payload_key}"


@dataclass(frozen=True)
class PackedKey:
    """A payload that is a part of a pack."""

    pack: str
    offset: int
    """Of the payload in the pack's object, in bytes."""
    length: int
    """In bytes."""
    payload_key: str

    def __str__(self) -> str:
        """Return the key."""
        return f"p{self.pack}-{self.offset}-{self.length}/{self.payload_key}"


def parse_key(key: str) -> SegmentedKey | PackedKey | None:
    """Return what a key says; None if it is not one of an object store."""
    if found := _SEGMENTED.fullmatch(key):
        return SegmentedKey(int(found[1]), int(found[2]), int(found[3]), found[4])
    if found := _PACKED.fullmatch(key):
        return PackedKey(found[1], int(found[2]), int(found[3]), found[4])
    return None


def is_of_object_store(key: str) -> bool:
    """Return whether a key in a row is one of an object store; those of a local store begin with a hexadecimal digit."""
    return key[:1] > "f"


def key_of_begun(begun: str) -> str:
    """Return the key under which an object that was begun, and is not committed, is deleted.

    A payload in segments is deleted by its payload key alone, so the key has no more than that. A pack keeps its name,
    "pack/<32 hex digits>": all of it is deleted.
    """
    return begun if "/" in begun else str(SegmentedKey(0, 0, 0, begun))


def begun_of_key(key: str) -> str:
    """Return the name under which the object of a published payload was begun: its payload key, or its pack's."""
    parsed = parse_key(key)
    return f"pack/{parsed.pack}" if isinstance(parsed, PackedKey) else key.rpartition("/")[2]


def keys_of_pack(pack: str) -> tuple[str, str]:
    """Return bounds of the keys of a pack's payloads: not below the first, and below the second."""
    return f"p{pack}-", f"p{pack}."


class _KeyMaker:
    """Makes random names of 128 bits, many at a time, because each system call releases the GIL and has to reacquire it."""

    _AT_ONCE = 512

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: list[str] = []
        # A forked child must not use the names of its parent.
        os.register_at_fork(after_in_child=self._keys.clear)

    def make(self) -> str:
        with self._lock:
            if not self._keys:
                digits = os.urandom(16 * self._AT_ONCE).hex()
                self._keys.extend(digits[start : start + 32] for start in range(0, len(digits), 32))
            return self._keys.pop()


_key_maker = _KeyMaker()


def new_payload_key() -> str:
    """Return a random name: 128 bits, 32 hex digits."""
    return _key_maker.make()
