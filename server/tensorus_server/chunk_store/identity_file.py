"""The identity of a store, in a file beside its payloads: `chunks/store`.

Two places in the file hold one line each, at bytes 0 and 512; the rest is blank. They take turns, so that a write that is torn
leaves the line before. The line with the higher epoch counts, among those whose checksum is right:

    tensorus-store 1 <id, 32 hex digits> <epoch, 20 digits> <CRC32C of what is before it, 8 hex digits>

The length never changes, so that no space is needed to raise the epoch on a full disk.
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

__all__ = ["IdentityFile"]

_PLACE_BYTES = 512
"""A sector: what a disk writes as a whole."""

_LINE = re.compile(rb"(tensorus-store 1 ([0-9a-f]{32}) (\d{20})) ([0-9a-f]{8})\n")


class IdentityFile:
    """One file; its users take turns."""

    def __init__(self, folder: Path, files: Files) -> None:
        """Use the file `store` in `folder`."""
        self._path = folder / "store"
        self._files = files

    def read(self) -> StoreIdentity | None:
        """Return the identity; None: there is no file.

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
        """Replace the identity, durably; a crash leaves this one or the one before.

        Raises:
            OSError: as the system says.
        """
        lines = self._read_lines()
        before = None if lines is None else lines[_newest(lines)]
        if lines is None or before is None or before.id != identity.id:
            self._make(identity)
            return
        descriptor = self._files.open_to_change(self._path)
        try:
            self._files.write_at(descriptor, _line(identity), (1 - _newest(lines)) * _PLACE_BYTES)
            self._files.sync_data(descriptor)
        finally:
            os.close(descriptor)

    def _read_lines(self) -> list[StoreIdentity | None] | None:
        """Return what both places say; None for one that is blank or damaged, and None where there is no file."""
        try:
            descriptor = self._files.open_to_read(self._path)
        except FileNotFoundError:
            return None
        try:
            content = self._files.read(descriptor, 0, 2 * _PLACE_BYTES)
        finally:
            os.close(descriptor)
        return [_parse(content[at : at + _PLACE_BYTES]) for at in (0, _PLACE_BYTES)]

    def _make(self, identity: StoreIdentity) -> None:
        made = self._path.with_name("store.new")
        made.unlink(missing_ok=True)
        descriptor = self._files.create(made)
        try:
            line = _line(identity)
            self._files.write_all(descriptor, [line, b" " * (2 * _PLACE_BYTES - len(line) - 1), b"\n"])
            self._files.sync_data(descriptor)
        finally:
            os.close(descriptor)
        self._files.rename(made, self._path)
        self._files.sync_folder(self._path.parent)


def _newest(lines: list[StoreIdentity | None]) -> int:
    """Return which place counts."""
    return max((0, 1), key=lambda place: line.epoch if (line := lines[place]) else 0)


def _line(identity: StoreIdentity) -> bytes:
    text = f"tensorus-store 1 {identity.id} {identity.epoch:020d}".encode()
    return text + f" {crc32c(text):08x}\n".encode()


def _parse(place: bytes) -> StoreIdentity | None:
    """Return what a place says; None: nothing, or nothing whole."""
    found = _LINE.match(place)
    if found is None or crc32c(found[1]) != int(found[4], 16):
        return None
    return StoreIdentity(found[2].decode(), int(found[3]))
