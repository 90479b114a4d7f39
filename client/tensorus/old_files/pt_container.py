r"""The container that `torch.save` writes: a ZIP archive, its members stored, all of them in one folder.

    <folder>/data.pkl     the pickle: everything but the numbers of tensors
    <folder>/data/<key>   a storage each: the numbers
    <folder>/version      "3\n"
    <folder>/byteorder    "little" or "big"; little where it is not there
    <folder>/...          others say nothing about the values

The folder is the file's stem, or `archive` where there was no file. The file is only ever read. A member's CRC32 is verified
before, or while, a byte of it is used for the first time; a file whose CRC32s are all 0 was written without any, which torch
can be told to do.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from tensorus.old_files.errors import OldFileError
from tensorus.old_files.zip_directory import data_offset, read_directory, read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from tensorus.old_files.zip_directory import Member

__all__ = ["BLOCK_BYTES", "PtContainer"]

BLOCK_BYTES = 256 * 1024
"""What is read at once where a member is streamed: large enough that the disk, and not Python, sets the pace."""

_VERSION = b"3"
"""What every torch since 1.6 writes."""

_LEGACY_BEGINNINGS = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80")
"""A pickle of torch's magic number; any pickle. Source: `torch.serialization.MAGIC_NUMBER`."""

_SMALL_BYTES_MAX = 64
"""Of `version` and `byteorder`: they have a few."""


class PtContainer:
    """One container, over a file that the caller opens and closes. Not for several threads at once."""

    def __init__(self, file: BinaryIO) -> None:
        """Read its directory.

        Raises:
            OldFileError: it is no container of torch, or a damaged one.
        """
        self._file = file
        try:
            members = read_directory(file)
        except OldFileError as error:
            raise _with_kind(file, error) from error
        folders = {member.name.partition("/")[0] for member in members}
        if len(folders) != 1:
            raise OldFileError(f"its members are in {len(folders)} folders; torch.save makes one")
        (folder,) = folders
        self._members = {member.name[len(folder) + 1 :]: member for member in members}
        self._unverified = {member.name for member in members} if any(member.crc32 for member in members) else set()
        version = self._small("version", b"none")
        if version != _VERSION:
            raise OldFileError(f"its version is {version.decode(errors='replace')!r}, must be '3'")
        byteorder = self._small("byteorder", b"little")
        if byteorder not in {b"little", b"big"}:
            raise OldFileError(f"its byteorder is {byteorder.decode(errors='replace')!r}, must be 'little' or 'big'")
        self.big_endian: bool = byteorder == b"big"
        """Whether the numbers in its storages are."""

    def length(self, name: str) -> int:
        """Return how many bytes a member has.

        Args:
            name: without the folder.

        Raises:
            OldFileError: there is no such member.
        """
        return self._member(name).length

    def read_into(self, name: str, start: int, out: memoryview) -> None:
        """Fill `out` with a member's bytes from `start` on.

        Raises:
            OldFileError: there is no such member, it is shorter, or damaged.
        """
        member = self._member(name)
        self._require_range(member, start, out.nbytes)
        whole = out.nbytes == member.length
        if not whole:
            self._verify(member)
        self._file.seek(data_offset(self._file, member) + start)
        filled = 0
        while filled < out.nbytes:
            found = self._file.readinto(out[filled : filled + BLOCK_BYTES])  # type: ignore[attr-defined]  # of every open file
            if not found:
                raise OldFileError(f"the file ends inside member {member.name!r}")
            filled += found
        if whole and member.name in self._unverified:
            self._accept(member, zlib.crc32(out))

    def blocks(self, name: str, start: int, length: int) -> Iterator[bytes]:
        """Yield a member's bytes from `start` on, in blocks of at most `BLOCK_BYTES`. Raises as `read_into`."""
        member = self._member(name)
        self._require_range(member, start, length)
        self._verify(member)
        begin = data_offset(self._file, member) + start
        for offset in range(begin, begin + length, BLOCK_BYTES):
            yield read_exactly(self._file, offset, min(BLOCK_BYTES, begin + length - offset))

    def _member(self, name: str) -> Member:
        member = self._members.get(name)
        if member is None:
            raise OldFileError(f"it has no member {name!r}")
        return member

    def _small(self, name: str, default: bytes) -> bytes:
        """Return a member's text without the blanks around it."""
        if name not in self._members:
            return default
        length = min(self.length(name), _SMALL_BYTES_MAX)
        return b"".join(self.blocks(name, 0, length)).strip()

    def _verify(self, member: Member) -> None:
        if member.name not in self._unverified:
            return
        begin, crc32 = data_offset(self._file, member), 0
        for offset in range(begin, begin + member.length, BLOCK_BYTES):
            crc32 = zlib.crc32(
                read_exactly(self._file, offset, min(BLOCK_BYTES, begin + member.length - offset)), crc32
            )
        self._accept(member, crc32)

    def _accept(self, member: Member, crc32: int) -> None:
        if crc32 != member.crc32:
            raise OldFileError(
                f"member {member.name!r} is damaged: its CRC32 is {crc32:08x}, was written as {member.crc32:08x}"
            )
        self._unverified.discard(member.name)

    @staticmethod
    def _require_range(member: Member, start: int, length: int) -> None:
        if not 0 <= start <= start + length <= member.length:
            raise OldFileError(
                f"member {member.name!r} has {member.length} bytes, bytes {start} to {start + length} are needed"
            )


def _with_kind(file: BinaryIO, error: OldFileError) -> OldFileError:
    """Return the error that also says what the file seems to be instead."""
    file.seek(0)
    beginning = file.read(265)
    if beginning.startswith(_LEGACY_BEGINNINGS) or beginning[257:262] == b"ustar":
        return OldFileError(
            "it is of the format of torch before 1.6, or a bare pickle, and is not loaded: "
            "load it and save it again with torch 1.6 or newer"
        )
    return error if beginning.startswith(b"PK") else OldFileError(f"it is no file of torch.save: {error}")
