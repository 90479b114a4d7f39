"""The bytes of a pack: many small payloads in one object.

    the payloads, one after the other
    the directory, 60 bytes for each payload, in order
    the end, 24 bytes

Little-endian, no padding. An entry of the directory:

     at  size  field
      0    32  payload key, in ASCII
     32     8  offset of the payload in the object
     40     8  length of the payload
     48     4  CRC32C of the payload
     52     8  reserved, zero

The end:

     at  size  field
      0     8  length of the directory
      8     4  version, 1
     12     4  CRC32C of the directory and of the end before this field
     16     8  "tensopak"

Each payload ends with a footer that describes its tensor (`engine/footer.py`), so the rows of a lost catalogue can be rebuilt
from packs alone.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.chunk_store.abc import PackedPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Buffer

__all__ = ["END_BYTES", "PackError", "directory_bytes", "pack_bytes", "parse_directory"]

VERSION = 1

_ENTRY = struct.Struct("<32sQQI8x")
_END = struct.Struct("<QII8s")
_CHECKED = struct.Struct("<QI")
_MAGIC = b"tensopak"
_PAYLOAD_KEY = re.compile(rb"[0-9a-f]{32}")

END_BYTES = _END.size
_DIRECTORY_BYTES_MAX = 64 * 1024 * 1024


class PackError(Exception):
    """A pack has no directory, or it is damaged."""


def pack_bytes(pack: str, payloads: Sequence[tuple[str, Buffer]]) -> tuple[bytes, list[PackedPart]]:
    """Return the bytes of a pack, and its parts.

    Args:
        pack: the pack's name.
        payloads: the payload keys and the payloads.
    """
    parts: list[PackedPart] = []
    offset = 0
    for payload_key, payload in payloads:
        length = memoryview(payload).nbytes
        parts.append(PackedPart(pack, payload_key, offset, length, crc32c(payload)))
        offset += length
    directory = b"".join(
        _ENTRY.pack(part.payload_key.encode(), part.offset, part.length, part.crc32c) for part in parts
    )
    checked = _CHECKED.pack(len(directory), VERSION)
    end = checked + struct.pack("<I", crc32c(directory + checked)) + _MAGIC
    return b"".join([*(payload for _, payload in payloads), directory, end]), parts


def directory_bytes(end: Buffer) -> int:
    """Return the size of the directory and the end together, of a pack whose last `END_BYTES` bytes are `end`.

    Raises:
        PackError: the object is not a pack, or a newer version wrote it.
    """
    length, version, _, magic = _END.unpack(end)
    if magic != _MAGIC:
        raise PackError("the object ends without the directory of a pack")
    if version != VERSION:
        raise PackError(f"the pack has version {version}, this version of Tensorus knows {VERSION}")
    if length % _ENTRY.size or length > _DIRECTORY_BYTES_MAX:
        raise PackError(f"the directory of the pack is {length} bytes, which is no possible size")
    return int(length) + END_BYTES


def parse_directory(pack: str, stored: bytes, stored_bytes: int) -> list[PackedPart]:
    """Return the parts of a pack.

    Args:
        stored: the directory and the end, as `directory_bytes` says.
        stored_bytes: size of the pack's object.

    Raises:
        PackError: the directory is damaged.
    """
    directory, end = stored[:-END_BYTES], stored[-END_BYTES:]
    _, _, checksum, _ = _END.unpack(end)
    if (found := crc32c(directory + end[: _CHECKED.size])) != checksum:
        raise PackError(f"CRC32C of the pack's directory is {found:#010x}, expected {checksum:#010x}")
    parts: list[PackedPart] = []
    offset = 0
    for payload_key, begin, length, payload_crc32c in _ENTRY.iter_unpack(directory):
        if begin != offset or not _PAYLOAD_KEY.fullmatch(payload_key):
            raise PackError("the payloads of the pack's directory do not follow each other")
        parts.append(PackedPart(pack, payload_key.decode(), begin, length, payload_crc32c))
        offset += length
    if offset + len(stored) != stored_bytes:
        raise PackError(f"the pack has {stored_bytes} bytes, its directory says {offset + len(stored)}")
    return parts
