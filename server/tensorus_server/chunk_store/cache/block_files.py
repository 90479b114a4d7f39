"""One file for each block of the cache, below a folder of the process that wrote it.

    <folder>/<share>/<2 hex>/<13 hex>    a block; the hex digits are its name
    <folder>/<share>/new                 a block that is being written

Little-endian, no padding:

     at  size  field
      0     4  magic     "TSC1"
      4     4  crc32c    of the rest of the header
      8    16  identity  which bytes of which payload these are
     24   4*n  pages     CRC32C of each page of the bytes
              the bytes, in n pages of 32 KiB, of which the last may be shorter

Only the pages that are asked for are read. Nothing is synced. After a crash a file may be empty or hold anything, and its
checksums tell.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_codecs.plain_dataclass import plain_dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tensorus_server.chunk_store.files import Files

__all__ = [
    "BLOCK_BYTES",
    "UNIT_BYTES",
    "Block",
    "BlockFiles",
    "RottenBlockError",
    "blocks_of",
    "length_of",
    "units_of",
]

BLOCK_BYTES = 512 * 1024
"""Size of a block. Measured with records of 0.3 to 1 MB from the page cache, in processor time: 1.5, 1.95, 2.2 and 2.5 GB/s
with 128 KiB, 256 KiB, 512 KiB and 1 MiB. A larger block reads more from the store below that nobody asked for: half a block at
either end of a record that is read alone."""

UNIT_BYTES = 4096
"""In which sizes are counted: a block of file systems."""

_PAGE_BYTES = 32 * 1024
"""What is read and checked at once. Measured: coarse reads are 1.5 times as fast as with blocks that are read whole, and reads
of 4 KiB twice as fast; pages of 64 KiB are a little slower."""

_HEADER = struct.Struct("<4sI16s")
_MAGIC = b"TSC1"
_NAME_DIGITS = 15
_USED_EVERY_S = 60.0
"""How exact the time of a block's last use is, which is the file's modification time: noting it writes to the disk."""


class RottenBlockError(Exception):
    """A file has not the bytes that were written to it."""


@plain_dataclass
class Block:
    """A part of a payload, as the cache keeps it."""

    offset: int
    """In the payload, in bytes."""
    length: int
    identity: bytes
    """16 bytes; of the payload's key, offset and length."""
    name: int
    """The first 60 bits of the identity."""

    @property
    def end(self) -> int:
        """The offset after it."""
        return self.offset + self.length

    @property
    def page_count(self) -> int:
        """Number of its pages."""
        return -(-self.length // _PAGE_BYTES)

    @property
    def header_bytes(self) -> int:
        """Size of the header of its file."""
        return _HEADER.size + 4 * self.page_count

    @property
    def file_bytes(self) -> int:
        """Size of its file."""
        return self.header_bytes + self.length


def blocks_of(payload_key: str, payload_bytes: int, begin: int, end: int) -> list[Block]:
    """Return the blocks with the bytes from `begin` to `end` of a payload, in order.

    All blocks have `BLOCK_BYTES` but the last one, to which a rest of less than half of that is added, so that no file is tiny.

    Args:
        payload_key: its name: whatever key the payload has, its bytes never change.
        begin, end: not empty, and within the payload.
    """
    last = max(1, (payload_bytes + BLOCK_BYTES // 2) // BLOCK_BYTES) - 1
    found = []
    for number in range(min(begin // BLOCK_BYTES, last), min((end - 1) // BLOCK_BYTES, last) + 1):
        offset = number * BLOCK_BYTES
        length = payload_bytes - offset if number == last else BLOCK_BYTES
        found.append(_block(f"{payload_key} {offset} {length}", offset, length))
    return found


def length_of(payload_key: str) -> Block:
    """Return the block that says how long a payload is, for payloads whose keys do not: 8 bytes, little-endian."""
    return _block(f"{payload_key} length", 0, 8)


def _block(what: str, offset: int, length: int) -> Block:
    identity = hashlib.blake2b(what.encode(), digest_size=16).digest()
    return Block(offset, length, identity, int.from_bytes(identity[:8], "big") >> 4)


def units_of(file_bytes: int) -> int:
    """Return the size of a file in units."""
    return -(-file_bytes // UNIT_BYTES)


class BlockFiles:
    """The files of one share of a cache. Every method but those that say otherwise raises the `OSError` of its system call."""

    def __init__(self, folder: Path, files: Files) -> None:
        """Use `folder`, which need not exist."""
        self.folder = folder
        self._files = files
        self._prefix = f"{folder}{os.sep}"
        self._new = folder / "new"

    def path(self, name: int) -> Path:
        """Return the path of a block's file."""
        digits = f"{name:015x}"
        # From a text: joining paths takes three times as long.
        return Path(f"{self._prefix}{digits[:2]}{os.sep}{digits[2:]}")

    def read(self, block: Block, begin: int, into: memoryview) -> None:
        """Read bytes of a block.

        Args:
            begin: from the block's start.
            into: filled with the bytes from there on; not empty. After an error it holds anything.

        Raises:
            FileNotFoundError: there is no such block.
            RottenBlockError: its file is damaged.
        """
        first, end = begin // _PAGE_BYTES, begin + len(into)
        # Pages are checked as a whole, so what comes before and after in the outer ones is read, too.
        lead = memoryview(bytearray(begin - first * _PAGE_BYTES))
        tail = memoryview(bytearray(min(-(-end // _PAGE_BYTES) * _PAGE_BYTES, block.length) - end))
        header = memoryview(bytearray(block.header_bytes))
        wanted = len(header) + len(lead) + len(into) + len(tail)
        descriptor = self._files.open_to_read(self.path(block.name))
        try:
            found = os.fstat(descriptor)
            if found.st_size != block.file_bytes:
                raise RottenBlockError(f"has {found.st_size} bytes, expected {block.file_bytes}")
            if first == 0:
                filled = self._files.read_into(descriptor, [header, lead, into, tail], 0)
            else:
                filled = self._files.read_into(descriptor, [header], 0)
                filled += self._files.read_into(descriptor, [lead, into, tail], len(header) + first * _PAGE_BYTES)
            if time.time() - found.st_mtime > _USED_EVERY_S:
                # Only the order after a restart depends on it.
                with suppress(OSError):
                    os.utime(descriptor)
        finally:
            os.close(descriptor)
        if filled != wanted:
            raise RottenBlockError(f"gave {filled} bytes of {wanted}")
        _check(block, header, first, (lead, into, tail))

    def write(self, block: Block, data: memoryview) -> None:
        """Write a block, in place of one that is there. Only one thread of the process that has the share may write at a time.

        Raises:
            FileNotFoundError: the folder that holds all shares is missing.
        """
        header = _header(block, data)
        path = self.path(block.name)
        try:
            descriptor = self._create()
            try:
                self._files.write_all(descriptor, [header, data])
            finally:
                os.close(descriptor)
            try:
                self._files.rename(self._new, path)
            except FileNotFoundError:
                path.parent.mkdir(mode=0o700, exist_ok=True)
                self._files.rename(self._new, path)
        except BaseException:
            with suppress(OSError):
                self._new.unlink()
            raise

    def remove(self, name: int) -> None:
        """Remove a block, if there is one."""
        with suppress(FileNotFoundError):
            self._files.unlink(self.path(name))

    def clean(self) -> None:
        """Remove what a process that was killed was writing."""
        with suppress(FileNotFoundError):
            self._files.unlink(self._new)

    def entries(self) -> Iterator[tuple[int, int, float]]:
        """Yield name, size in bytes and time of the last use of every block. Others' files are left alone."""
        with suppress(FileNotFoundError):
            for folder in sorted(entry.name for entry in os.scandir(self.folder) if len(entry.name) == 2):
                with os.scandir(self.folder / folder) as files:
                    for entry in files:
                        name = _parse_name(folder + entry.name)
                        with suppress(FileNotFoundError):
                            if name is not None:
                                found = entry.stat(follow_symlinks=False)
                                yield name, found.st_size, found.st_mtime

    def adopt(self, other: BlockFiles) -> None:
        """Take over the blocks of another share, which no process has."""
        other.clean()
        for name, _, _ in list(other.entries()):
            path = self.path(name)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                # Not `Files.rename`, which would say that the block was used now.
                other.path(name).rename(path)

    def _create(self) -> int:
        try:
            return self._files.create(self._new)
        except FileNotFoundError:
            # The folder of all shares is not made again: it may be where a disk was mounted.
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            self._files.unlink(self._new)
        return self._files.create(self._new)


def _header(block: Block, data: memoryview) -> bytes:
    """Return the header of a block's file."""
    crcs = [crc32c(data[begin : begin + _PAGE_BYTES]) for begin in range(0, block.length, _PAGE_BYTES)]
    rest = struct.pack(f"<{len(crcs)}I", *crcs)
    return _HEADER.pack(_MAGIC, crc32c(rest, crc32c(block.identity)), block.identity) + rest


def _check(block: Block, header: memoryview, first: int, parts: tuple[memoryview, memoryview, memoryview]) -> None:
    """Check the header of a block's file, and pages from number `first` on.

    Args:
        parts: the bytes of the pages. The first part is shorter than a page, and so is the last.

    Raises:
        RottenBlockError: they are not as they were written.
    """
    magic, expected, identity = _HEADER.unpack_from(header)
    if magic != _MAGIC or identity != block.identity:
        raise RottenBlockError("has another block")
    if crc32c(header[8:]) != expected:
        raise RottenBlockError(f"has a header whose CRC32C is not {expected:#010x}")
    crcs = struct.unpack_from(f"<{block.page_count}I", header, _HEADER.size)
    lead, middle, tail = parts
    begin = -len(lead)
    for number in range(first, block.page_count):
        end = begin + min(_PAGE_BYTES, block.length - number * _PAGE_BYTES)
        found = crc32c(lead) if begin < 0 else 0
        found = crc32c(middle[max(begin, 0) : end], found)
        if end > len(middle):
            found = crc32c(tail, found)
        if found != crcs[number]:
            raise RottenBlockError(f"has a page whose CRC32C is {found:#010x}, expected {crcs[number]:#010x}")
        begin = end
        if begin >= len(middle):
            return


def _parse_name(digits: str) -> int | None:
    try:
        return int(digits, 16) if len(digits) == _NAME_DIGITS else None
    except ValueError:
        return None
