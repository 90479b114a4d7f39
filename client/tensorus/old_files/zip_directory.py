r"""The directory of a ZIP archive whose members are stored as they are: where each one lies, and nothing else.

Written here, and not left to `zipfile`, because the file may be anyone's: every number is held against the file before it is
used, and no two members may share a byte. All numbers are little-endian; n, x and c are lengths that stand before them.

    local header     "PK\3\4"  26 bytes, of which the last 4 are n and x    name (n)  extra (x)  then the member's bytes
    directory entry  "PK\1\2"  42 bytes: `_ENTRY`, in its order             name (n)  extra (x)  comment (c)
    Zip64 end        "PK\6\6"  52 bytes: `_END64`: counts and places of 64 bits
    Zip64 locator    "PK\6\7"  16 bytes: where the Zip64 end is; right before the end
    end              "PK\5\6"  18 bytes: `_END`; the last bytes of the file

A length or place of 0xFFFFFFFF in an entry stands in its extra field 1, 8 bytes each. A local header may leave lengths 0 and
say them after the bytes, as torch does; the directory is what counts.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3 and 4.5.3.
"""

from __future__ import annotations

import itertools
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus.old_files.errors import OldFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["Member", "data_offset", "read_directory", "read_exactly"]

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")

_STORED = 0
"""The only compression method here: none."""
_ENCRYPTED = 1
"""Bit 0 of the flags."""
_IN_EXTRA = 0xFFFFFFFF
_EXTRA_ZIP64 = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive."""

    name: str
    header_offset: int
    """Of its local header, in bytes from the start of the file."""
    length: int
    """Bytes."""
    crc32: int
    """Of its bytes, as the directory says."""
    end_max: int
    """Where its bytes end at the latest: the next member's header, or the directory."""


def read_directory(file: BinaryIO) -> list[Member]:
    """Return the members in the order of their places. Memory: a few times the directory's.

    Raises:
        OldFileError: no archive, a torn one, members that are compressed, encrypted or share bytes.
    """
    file_bytes = file.seek(0, os.SEEK_END)
    count, directory_bytes, offset = _find_directory(file, file_bytes)
    entries = list(_entries(read_exactly(file, offset, directory_bytes)))
    if len(entries) != count:
        raise OldFileError(f"its directory has {len(entries)} members, {count} are announced")
    entries.sort(key=lambda entry: entry.header_offset)
    ends = [entry.header_offset for entry in entries[1:]] + [offset]
    members = [
        Member(entry.name, entry.header_offset, entry.length, entry.crc32, end)
        for entry, end in zip(entries, ends, strict=False)
    ]
    for member in members:
        head_bytes = _LOCAL.size + len(member.name.encode("utf-8", "surrogateescape"))
        if member.header_offset + head_bytes + member.length > member.end_max:
            raise OldFileError(
                f"member {member.name!r} has {member.length} bytes from byte {member.header_offset} on, "
                f"but something else begins at byte {member.end_max}"
            )
    for one, other in itertools.pairwise(sorted(member.name for member in members)):
        if one == other:
            raise OldFileError(f"there are two members called {one!r}")
    return members


def data_offset(file: BinaryIO, member: Member) -> int:
    """Return where a member's bytes begin, from its local header.

    Raises:
        OldFileError: the header is not there, contradicts the directory, or leaves too little room.
    """
    header = read_exactly(file, member.header_offset, _LOCAL.size)
    signature, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(header)
    if signature != b"PK\x03\x04" or method != _STORED or flags & _ENCRYPTED:
        raise OldFileError(f"member {member.name!r} has no proper header at byte {member.header_offset}")
    name = read_exactly(file, member.header_offset + _LOCAL.size, name_bytes)
    if _text(name) != member.name:
        raise OldFileError(f"member {member.name!r} calls itself {_text(name)!r} at byte {member.header_offset}")
    begin = member.header_offset + _LOCAL.size + int(name_bytes) + int(extra_bytes)
    if begin + member.length > member.end_max:
        raise OldFileError(
            f"member {member.name!r} has {member.length} bytes from byte {begin} on, "
            f"but something else begins at byte {member.end_max}"
        )
    return begin


def read_exactly(file: BinaryIO, offset: int, length: int) -> bytes:
    """Return `length` bytes from `offset` on.

    Raises:
        OldFileError: the file ends before.
    """
    file.seek(offset)
    found = file.read(length)
    if len(found) != length:
        raise OldFileError(
            f"the file ends at byte {offset + len(found)}, {length} bytes from byte {offset} on are needed"
        )
    return found


def _find_directory(file: BinaryIO, file_bytes: int) -> tuple[int, int, int]:
    """Return how many entries the directory has, its length and its place."""
    end_offset = file_bytes - _END.size
    if end_offset < 0:
        raise OldFileError(f"the file has {file_bytes} bytes, an archive has at least {_END.size}")
    signature, disk, directory_disk, here, count, length, offset, comment_bytes = _END.unpack(
        read_exactly(file, end_offset, _END.size)
    )
    if signature != b"PK\x05\x06" or comment_bytes:
        raise OldFileError("the file does not end with the directory of an archive: it is torn, or of another kind")
    directory_end = end_offset
    locator_offset = end_offset - _LOCATOR.size
    if locator_offset >= 0:
        signature, _, end64_offset, _ = _LOCATOR.unpack(read_exactly(file, locator_offset, _LOCATOR.size))
        if signature == b"PK\x06\x07":
            if end64_offset + _END64.size > locator_offset:
                raise OldFileError(f"its Zip64 end would be at byte {end64_offset}, beyond the locator of it")
            directory_end = end64_offset
            signature, _, _, _, disk, directory_disk, here, count, length, offset = _END64.unpack(
                read_exactly(file, end64_offset, _END64.size)
            )
            if signature != b"PK\x06\x06":
                raise OldFileError(f"there is no Zip64 end at byte {end64_offset}")
    if disk or directory_disk or here != count:
        raise OldFileError("the archive has several parts, of which this is one")
    if offset + length > directory_end:
        raise OldFileError(
            f"its directory would be bytes {offset} to {offset + length}, but it ends at byte {directory_end}"
        )
    return count, length, offset


def _entries(directory: bytes) -> Iterator[Member]:
    """Yield the members of a directory; how far each may go is not known yet."""
    position = 0
    while position < len(directory):
        if len(directory) - position < _ENTRY.size:
            raise OldFileError(f"its directory ends inside an entry, at byte {len(directory)} of it")
        entry = _ENTRY.unpack_from(directory, position)
        signature, _, _, flags, method, _, _, crc32, compressed_bytes, length = entry[:10]
        name_bytes, extra_bytes, comment_bytes, _, _, _, header_offset = entry[10:]
        begin = position + _ENTRY.size
        position = begin + name_bytes + extra_bytes + comment_bytes
        if signature != b"PK\x01\x02" or position > len(directory):
            raise OldFileError(f"its directory is damaged at byte {begin - _ENTRY.size} of it")
        name = _text(directory[begin : begin + name_bytes])
        extra = directory[begin + name_bytes : begin + name_bytes + extra_bytes]
        length, compressed_bytes, header_offset = _widened(name, extra, [length, compressed_bytes, header_offset])
        if method != _STORED or compressed_bytes != length:
            raise OldFileError(f"member {name!r} is compressed (method {method}), which torch.save never does")
        if flags & _ENCRYPTED:
            raise OldFileError(f"member {name!r} is encrypted")
        yield Member(name, header_offset, length, crc32, end_max=0)


def _widened(name: str, extra: bytes, numbers: list[int]) -> list[int]:
    """Return the numbers, those that are in extra field 1 taken from there, one after the other."""
    if _IN_EXTRA not in numbers:
        return numbers
    position = 0
    while len(extra) - position >= 4:
        kind, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if kind == _EXTRA_ZIP64:
            body = extra[position : position + length]
            wide = [number for (number,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            if len(wide) < numbers.count(_IN_EXTRA):
                break
            return [wide.pop(0) if number == _IN_EXTRA else number for number in numbers]
        position += length
    raise OldFileError(f"member {name!r} has no Zip64 lengths, which its entry refers to")


def _text(name: bytes) -> str:
    # What is no UTF-8 stays apart, too: names are compared, and shown with `repr`.
    return name.decode("utf-8", "surrogateescape")
