"""Brings payloads from one folder to another one: by hard links if both are on one file system, otherwise as copies.

Payloads never change, so a link is as good as a copy, unless the disk itself fails. A copy gets its name only once it is
durable.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tensorus_server.backup.errors import BackupError
from tensorus_server.chunk_store.files import Files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["Brought", "bring_payloads", "remove_others"]

_THREADS = 4
"""Copies at a time. They wait for the disk."""

_QUEUED_MAX = 64

_PART = ".part"

_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})
"""Errors of links that a copy gets around: another file system, one without links, too many links, files of another user."""


@dataclass
class Brought:
    """How many payloads were brought in which way."""

    linked: int = 0
    copied: int = 0
    present: int = 0
    """Payloads that were there already."""
    copied_bytes: int = 0
    payload_bytes: int = 0
    """Size of all of them."""

    @property
    def payloads(self) -> int:
        """Number of all of them."""
        return self.linked + self.copied + self.present


class _MissingError(Exception):
    """The source does not have a payload, or not all of it."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(what)
        self.key = key
        self.what = what


def bring_payloads(
    source: Path,
    target: Path,
    needed: Iterable[tuple[str, int]],
    *,
    links: bool,
    advice: str,
    on_bytes: Callable[[int], None],
) -> Brought:
    """Bring payloads, durably.

    Args:
        source: the folder `chunks` of a store or backup.
        target: the same of the other one; must exist.
        needed: the keys, sorted, each with the bytes that the payload must have at least.
        links: link payloads where that is possible. False: copies only, also in place of existing links.
        advice: what to do about a payload that the source lacks, for the message.
        on_bytes: called with the size of each payload that is there.

    Raises:
        BackupError: the source lacks a payload.
        OSError: a system call failed.
    """
    brought = Brought()
    files = Files()
    shard = ""
    waiting: deque[_Task] = deque()

    def settle(left_max: int) -> None:
        while len(waiting) > left_max:
            how, size = waiting.popleft().result()
            setattr(brought, how, getattr(brought, how) + 1)
            brought.payload_bytes += size
            brought.copied_bytes += size if how == "copied" else 0
            on_bytes(size)

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="tensorus-backup") as pool:
        try:
            for key, least_bytes in needed:
                if key[:2] != shard:
                    settle(0)
                    if shard:
                        files.sync_folder(target / shard)
                    shard = key[:2]
                    (target / shard).mkdir(mode=0o700, exist_ok=True)
                settle(_QUEUED_MAX)
                waiting.append(pool.submit(_bring, source / key, target / key, key, least_bytes, links))
            settle(0)
        except _MissingError as error:
            raise BackupError(
                f"the payload chunks/{error.key} {error.what}, so nothing was completed. {advice}"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
    if shard:
        files.sync_folder(target / shard)
    files.sync_folder(target)
    return brought


if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import TypeAlias

    _Task: TypeAlias = Future[tuple[str, int]]


def _bring(source: Path, target: Path, key: str, least_bytes: int, links: bool) -> tuple[str, int]:  # noqa: FBT001
    """Bring one payload, and return how, and its size."""
    try:
        found = source.stat()
        if found.st_size < least_bytes:
            raise _MissingError(key, f"has {found.st_size} bytes, its row says {least_bytes}")
        if _is_there(target, found, links=links):
            return "present", found.st_size
        if links and _link(source, target):
            return "linked", found.st_size
        _copy(source, target)
    except FileNotFoundError as error:
        raise _MissingError(key, "is missing") from error
    return "copied", found.st_size


def _is_there(target: Path, source: os.stat_result, *, links: bool) -> bool:
    """Return whether the payload is there as it is wanted; if it is there otherwise, remove it."""
    try:
        there = target.stat()
    except FileNotFoundError:
        return False
    is_link = (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)
    if there.st_size == source.st_size and (links or not is_link):
        return True
    target.unlink()
    return False


def _link(source: Path, target: Path) -> bool:
    """Link a payload; return False if that is not possible."""
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    part = target.with_name(target.name + _PART)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with source.open("rb") as reading, os.fdopen(descriptor, "wb", closefd=False) as writing:
            shutil.copyfileobj(reading, writing, 1024 * 1024)
        Files().sync_data(descriptor)
    finally:
        os.close(descriptor)
    part.rename(target)


def remove_others(target: Path, is_needed: Callable[[str], bool]) -> int:
    """Remove the payloads that are not needed, and return their number; also what an interrupted copy has left."""
    removed = 0
    for key in _keys(target):
        if not is_needed(key):
            (target / key).unlink(missing_ok=True)
            removed += not key.endswith(_PART)
    return removed


def _keys(folder: Path) -> Iterator[str]:
    for shard in sorted(path for path in folder.iterdir() if path.is_dir()):
        for path in sorted(shard.iterdir()):
            yield f"{shard.name}/{path.name}"
