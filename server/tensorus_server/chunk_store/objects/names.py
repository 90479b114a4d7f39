"""Names of objects, below the store's prefix.

    t/<2 hex>/<32 hex>/<generation>-<offset>            a segment of a payload; <offset> has 16 digits, both are decimal
    t/<2 hex>/<32 hex>/<generation>-<offset>-end        the last one of a complete payload
    p/<2 hex>/<32 hex>                                  a pack
    quarantine/<until>.<bytes>.<key, "/" as ".">        an orphan that may be deleted after <until>, such as 20260130T235959Z
    quarantine/restored.<key, "/" as ".">               an orphan that was in quarantine, and counts as new since then
    store                                               the identity of the store

The 2 hex digits are the first of the 32, so that services that divide buckets by names spread the load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["IDENTITY", "PACKS", "QUARANTINE", "SEGMENTS", "Segment", "pack_name", "parse_pack", "payload_folder"]

SEGMENTS = "t"
PACKS = "p"
QUARANTINE = "quarantine"
IDENTITY = "store"

_SEGMENT = re.compile(r"t/([0-9a-f]{2})/(\1[0-9a-f]{30})/(\d+)-(\d{16})(-end)?")
_PACK = re.compile(r"p/([0-9a-f]{2})/(\1[0-9a-f]{30})")


@dataclass(frozen=True)
class Segment:
    """A part of a payload, in an object of its own."""

    payload_key: str
    generation: int
    """Of its writer."""
    offset: int
    """Where it starts in the payload, in bytes."""
    is_end: bool = False

    @property
    def name(self) -> str:
        """The name of its object."""
        end = "-end" if self.is_end else ""
        return f"{payload_folder(self.payload_key)}/{self.generation}-{self.offset:016d}{end}"

    @classmethod
    def parse(cls, name: str) -> Segment | None:
        """Return what the name of an object says; None if it is not a segment's."""
        found = _SEGMENT.fullmatch(name)
        return None if found is None else cls(found[2], int(found[3]), int(found[4]), bool(found[5]))


def payload_folder(payload_key: str) -> str:
    """Return what the names of all segments of a payload begin with, before a slash."""
    return f"{SEGMENTS}/{payload_key[:2]}/{payload_key}"


def pack_name(pack: str) -> str:
    """Return the name of a pack's object."""
    return f"{PACKS}/{pack[:2]}/{pack}"


def parse_pack(name: str) -> str | None:
    """Return the pack whose object has this name; None if it is not a pack's."""
    found = _PACK.fullmatch(name)
    return None if found is None else found[2]
