"""Which segments make up a payload: by their names while it is written, by its directory once it is complete.

The object of the last segment of a payload with several ends with the segment directory. Little-endian, no padding; `n` is the
number of segments.

     at           size  field
      0          12 * n  for each segment, in order: generation (4), offset in the payload (8)
     12 n             8  length of the payload in bytes
     12 n + 8         4  n
     12 n + 12        4  CRC32C of all of the directory before it
     12 n + 16        8  "tensoseg"

A segment ends where the next one starts. A payload with a single segment has no directory.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.chunk_store.objects.names import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from typing_extensions import Buffer

__all__ = ["END_BYTES", "DirectoryError", "directory_bytes", "pack_directory", "parse_directory", "segments_before"]

_ENTRY = struct.Struct("<IQ")
_END = struct.Struct("<QII8s")
_MAGIC = b"tensoseg"

END_BYTES = _END.size
"""Size of the directory's end, which says how long it is."""

_SEGMENTS_MAX = 1 << 22
"""A terabyte in segments of 256 KiB."""


class DirectoryError(Exception):
    """A directory is damaged."""


def pack_directory(segments: Sequence[Segment], length: int) -> bytes:
    """Return the directory of a payload.

    Args:
        segments: in order; the last one is in the same object.
        length: of the payload, in bytes.
    """
    entries = b"".join(_ENTRY.pack(segment.generation, segment.offset) for segment in segments)
    checked = entries + struct.pack("<QI", length, len(segments))
    return checked + struct.pack("<I", crc32c(checked)) + _MAGIC


def directory_bytes(end: Buffer) -> int:
    """Return the size of the directory whose last `END_BYTES` bytes are `end`.

    Raises:
        DirectoryError: there is no directory.
    """
    _, count, _, magic = _END.unpack(end)
    if magic != _MAGIC or not 0 < count <= _SEGMENTS_MAX:
        raise DirectoryError("the last segment ends without a segment directory")
    return int(count) * _ENTRY.size + END_BYTES


def parse_directory(payload_key: str, directory: bytes) -> tuple[list[Segment], int]:
    """Return the segments of a payload, in order, and its length in bytes.

    Raises:
        DirectoryError: the directory is damaged.
    """
    entries_bytes = len(directory) - END_BYTES
    length, count, checksum, magic = _END.unpack_from(directory, entries_bytes)
    checked = directory[: entries_bytes + 12]
    if magic != _MAGIC or count * _ENTRY.size != entries_bytes:
        raise DirectoryError("the segment directory is cut")
    if (found := crc32c(checked)) != checksum:
        raise DirectoryError(f"CRC32C of the segment directory is {found:#010x}, expected {checksum:#010x}")
    places = list(_ENTRY.iter_unpack(directory[:entries_bytes]))
    offsets = [offset for _, offset in places]
    if offsets[0] != 0 or offsets[-1] > length or any(begin >= end for begin, end in pairwise(offsets)):
        raise DirectoryError("the segments of the segment directory do not follow each other")
    last = len(places) - 1
    segments = [
        Segment(payload_key, generation, offset, number == last) for number, (generation, offset) in enumerate(places)
    ]
    return segments, int(length)


def segments_before(stored: Iterable[tuple[Segment, int]], length: int) -> tuple[list[Segment], int]:
    """Return which of a payload's segments hold its first `length` bytes.

    A writer of a later generation decided where it goes on. Whatever an earlier one stored from there on does not count, even
    if it arrives later: it belongs to another continuation. Nor does the end of a payload, which no keep ended.

    Args:
        stored: segments and the sizes of their objects, in any order.

    Returns:
        The segments, in order, each with a start below `length`; and where the last one ends, which is below `length` if bytes
        are missing.
    """
    by_generation: dict[int, list[tuple[Segment, int]]] = {}
    for segment, size in stored:
        by_generation.setdefault(segment.generation, []).append((segment, size))
    counting: dict[int, tuple[Segment, int]] = {}
    limit: float = float("inf")
    for generation in sorted(by_generation, reverse=True):
        entries = by_generation[generation]
        for segment, size in entries:
            if segment.offset < limit and not segment.is_end:
                counting[segment.offset] = (segment, size)
        limit = min(limit, *(segment.offset for segment, _ in entries))
    found: list[Segment] = []
    end = 0
    while end < length and end in counting:
        segment, size = counting[end]
        if size == 0:
            break
        found.append(segment)
        end += size
    return found, end
