"""The file `chunks/store`, which holds the identity of a store next to its payloads.

The file has two lines, at bytes 0 and 512; the rest is blank. Writes alternate between the lines, so that a torn write leaves
the previous line intact. Of the lines with a valid checksum, the one with the higher epoch counts:

    tensorus-store 1 <id, 32 hex digits> <epoch, 20 digits> <CRC32C of the line before this space, 8 hex digits>

The file's length never changes, so the epoch can be raised on a full disk.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from tensorus_codecs.checksum import crc32c
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import StoreIdentity

if TYPE_CHECKING:
    from pathlib import Path

    from tensorus_server.chunk_store.files import Files

__all__ = ["IdentityFile", "identity_line", "parse_identity"]

_PLACE_BYTES = 512
"""Size of a sector, which a disk writes as a whole."""

_LINE = re.compile(rb"(tensorus-store 1 ([0-9a-f]{32}) (\d{20})) ([0-9a-f]{8})\n")


class IdentityFile:
    """One identity file. Only one process at a time may write it."""

    def __init__(self, folder: Path, files: Files) -> None:
        """Use the file `store` in `folder`."""
        self._path = folder / "store"
        self._files = files

    def read(self) -> StoreIdentity | None:
        """Return the identity; None: the file does not exist.

        Raises:
            StoreUnavailableError: the file is damaged.
        """
        lines = self._read_lines()
        if lines is None:
            return None
        if not any(lines):
            raise StoreUnavailableError(
                f"{self._path}, which says which store its payloads are of, is damaged; put back a copy of the file"
            )
        return lines[_newest(lines)]

    def write(self, identity: StoreIdentity) -> None:
        """Replace the identity, durably; after a crash, either the new or the old one is there.

        Raises:
            OSError: a system call failed.
        """
        lines = self._read_lines()
        before = None if lines is None else lines[_newest(lines)]
        if lines is None or before is None or before.id != identity.id:
            self._make(identity)
            return
        descriptor = self._files.open_to_change(self._path)
        try:
            self._files.write_at(descriptor, identity_line(identity), (1 - _newest(lines)) * _PLACE_BYTES)
            self._files.sync_data(descriptor)
        finally:
            os.close(descriptor)

    def _read_lines(self) -> list[StoreIdentity | None] | None:
        """Return the identities in both lines, None for a blank or damaged line; return None if the file does not exist."""
        try:
            descriptor = self._files.open_to_read(self._path)
        except FileNotFoundError:
            return None
        try:
            content = self._files.read(descriptor, 0, 2 * _PLACE_BYTES)
        finally:
            os.close(descriptor)
        return [parse_identity(content[at : at + _PLACE_BYTES]) for at in (0, _PLACE_BYTES)]

    def _make(self, identity: StoreIdentity) -> None:
        made = self._path.with_name("store.new")
        made.unlink(missing_ok=True)
        descriptor = self._files.create(made)
        try:
            line = identity_line(identity)
            self._files.write_all(descriptor, [line, b" " * (2 * _PLACE_BYTES - len(line) - 1), b"\n"])
            self._files.sync_data(descriptor)
        finally:
            os.close(descriptor)
        self._files.rename(made, self._path)
        self._files.sync_folder(self._path.parent)


def _newest(lines: list[StoreIdentity | None]) -> int:
    """Return which of the two lines counts."""
    return max((0, 1), key=lambda place: line.epoch if (line := lines[place]) else 0)


def identity_line(identity: StoreIdentity) -> bytes:
    """Return the line that holds an identity, with its end."""
    text = f"tensorus-store 1 {identity.id} {identity.epoch:020d}".encode()
    return text + f" {crc32c(text):08x}\n".encode()


def parse_identity(place: bytes) -> StoreIdentity | None:
    """Return the identity in a line; None if it is blank or damaged."""
    found = _LINE.match(place)
    if found is None or crc32c(found[1]) != int(found[4], 16):
        return None
    return StoreIdentity(found[2].decode(), int(found[3]))
