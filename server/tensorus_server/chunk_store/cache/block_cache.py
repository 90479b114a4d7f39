"""The blocks on the cache's disk: the least recently used ones go when there is no more room.

Nothing here ever fails. What the disk cannot do is logged, and the block is missing: whoever asks reads it from the store
below.

A thread finds the blocks that an earlier process left. Until it has, blocks are read, but none are written, because it is not
known how much room is left. If several processes share the folder, the thread stays, to give room back.

Locks: `_writing`, which only writers and those that remove blocks take, is held while files are written and removed; then
`_lock`, which is held for no I/O. A wait for `_writing` is limited, so that a disk that hangs stops no read that needs nothing
from it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from array import array
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tensorus_server.background import Watched
from tensorus_server.chunk_store.cache.block_files import (
    UNIT_BYTES,
    BlockFiles,
    RottenBlockError,
    units_of,
)
from tensorus_server.chunk_store.cache.lru import BlockIndex
from tensorus_server.chunk_store.cache.shares import Shares
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.os_errors import as_store_errors

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tensorus_server.chunk_store.cache.block_files import Block

__all__ = ["BlockCache", "CacheStatistics"]

_TYPICAL_UNITS_MIN = 16
"""Payloads in a chunk store have more than 64 KiB (`INLINE_BYTES_MAX`), and no block of a larger one has less than half of
`BLOCK_BYTES`. Room for more entries would never be used."""
_ENTRIES_MIN = 1024
_TURN_S = 1.0
"""How often a process tries to get a share, and looks whether others need room."""
_SHED_PARTS = 64
"""The part of the limit that a process gives back in one turn."""
_WRITE_WAIT_S = 1.0
"""How long a read waits for its turn to write: several times what a disk needs for a block."""
_PAUSE_S = 10.0
"""For how long nothing is written after the disk refused."""
_FULL_DISK_UNITS = 4096
"""What is given up if the disk is full although the limit is not reached: 16 MiB, so that a disk that others fill gets it
back."""
_LOG_EVERY_S = 60.0
_NOT_OF_THE_FILE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say nothing about the block that was to be read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheStatistics:
    """What a cache has done since its process started. Hits and misses count blocks."""

    hits: int = 0
    misses: int = 0
    hit_bytes: int = 0
    """That were asked for."""
    miss_bytes: int = 0
    """Of the blocks that were read from the store below."""
    written_bytes: int = 0
    evictions: int = 0
    rotten: int = 0
    """Blocks on the disk that were damaged, dropped, and read from the store below."""
    faults: int = 0
    """Operations that the disk refused."""
    stored_blocks: int = 0
    """In the share of this process; likewise the next one."""
    stored_bytes: int = 0


class BlockCache:
    """Blocks on disk, by their identity. Thread-safe."""

    def __init__(self, folder: Path, size_bytes: int, *, processes: int = 1, files: Files | None = None) -> None:
        """Use the folder, or create it, and start to look what it holds. Arguments and errors as of `CachedPayloads`."""
        units_max = size_bytes // UNIT_BYTES
        self._folder = folder
        self._files = files or Files()
        self._units_max = units_max
        self._shares = Shares(folder, processes, units_max)
        self._index = BlockIndex(max(units_max // _TYPICAL_UNITS_MIN, _ENTRIES_MIN))
        self._own: BlockFiles | None = None
        self._all = [BlockFiles(folder / str(share), self._files) for share in range(processes)]
        self._is_ready = False
        self._paused_until_s = 0.0
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._counts = dict.fromkeys(("hits", "misses", "hit_bytes", "miss_bytes", "written_bytes", "evictions"), 0)
        self._faults = _Faults(folder)
        self._closing = threading.Event()
        with as_store_errors(f"use the cache's folder {folder}"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_share()
        self._thread = Watched("cache", self._run, self._failed)

    @property
    def statistics(self) -> CacheStatistics:
        """What it has done so far."""
        with self._lock:
            return CacheStatistics(
                **self._counts,
                rotten=self._faults.rotten,
                faults=self._faults.faults,
                stored_blocks=len(self._index),
                stored_bytes=self._index.units * UNIT_BYTES,
            )

    @property
    def is_ready(self) -> bool:
        """Whether it is known what the folder holds, so that blocks are written."""
        return self._is_ready

    def get(self, block: Block, begin: int, into: memoryview) -> bool:
        """Fill `into` with the bytes of a block from `begin` of it on; return whether it is there, and can be read."""
        for files in self._places(block.name):
            try:
                files.read(block, begin, into)
            except FileNotFoundError:
                self._forget(files, block.name)
            except RottenBlockError as error:
                self._faults.note_rotten(files.path(block.name), error)
                self._remove(files, block.name)
            except OSError as error:
                self._faults.note("read", error)
                if error.errno not in _NOT_OF_THE_FILE:
                    self._remove(files, block.name)
            else:
                return True
        return False

    def has(self, block: Block) -> bool:
        """Return whether the block seems to be there; `get` may still not find it."""
        with suppress(OSError):
            return any(files.path(block.name).exists() for files in self._places(block.name))
        return False

    def put(self, block: Block, data: memoryview) -> None:
        """Keep the bytes of a block."""
        if not self._is_ready or time.monotonic() < self._paused_until_s:
            return
        if not self._writing.acquire(timeout=_WRITE_WAIT_S):
            self._paused_until_s = time.monotonic() + _PAUSE_S
            return
        try:
            self._put(block, data)
        except OSError as error:
            self._refused(error)
        finally:
            self._writing.release()

    def count(self, **more: int) -> None:
        """Add to the statistics."""
        with self._lock:
            for name, number in more.items():
                self._counts[name] += number

    def drop(self, block: Block) -> None:
        """Remove a block, wherever it is."""
        for files in self._places(block.name):
            self._remove(files, block.name)

    def close(self) -> None:
        """Stop. What is on the disk stays. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._thread.join(_PAUSE_S)
        self._is_ready = False
        if self._writing.acquire(timeout=_PAUSE_S):
            with suppress(OSError):
                self._shares.close()
            self._writing.release()
        found = self.statistics
        _log.info(
            "the cache %s had %d hits and %d misses of blocks (%d and %d bytes), evicted %d, and dropped %d that were damaged",
            self._folder,
            found.hits,
            found.misses,
            found.hit_bytes,
            found.miss_bytes,
            found.evictions,
            found.rotten,
        )

    def _places(self, name: int) -> Iterator[BlockFiles]:
        """Yield the shares in which a block may be: first that of this process, whose index says whether it is there."""
        own = self._own
        if own is not None:
            if not self._is_ready:
                yield own
            else:
                with self._lock:
                    is_here = self._index.touch(name)
                if is_here:
                    yield own
        if len(self._all) > 1 or own is None:
            yield from (files for files in self._all if files is not own)

    def _put(self, block: Block, data: memoryview) -> None:
        """Write a block, after as many others are removed as it takes. `_writing` is held."""
        own = self._own
        if own is None or self._closing.is_set():
            return
        units = units_of(block.file_bytes)
        with self._lock:
            if block.name in self._index:
                return
        if not self._make_room(own, units):
            return
        try:
            own.write(block, data)
        except BaseException:
            self._shares.declare(self._index.units)
            raise
        with self._lock:
            self._index.add(block.name, units)
            self._counts["written_bytes"] += block.length

    def _make_room(self, own: BlockFiles, units: int) -> bool:
        """Remove the least recently used blocks until there is room; return whether there is. `_writing` is held."""
        while self._index.is_full or self._shares.declare(self._index.units + units) > self._units_max:
            if not self._evict(own):
                # The rest is others', who give it back after a while.
                self._shares.declare(self._index.units)
                return False
        return True

    def _evict(self, own: BlockFiles) -> bool:
        """Remove the least recently used block; return whether there was one. `_writing` is held."""
        with self._lock:
            name = self._index.oldest()
        if name is None:
            return False
        own.remove(name)
        with self._lock:
            self._index.remove(name)
            self._counts["evictions"] += 1
        return True

    def _forget(self, files: BlockFiles, name: int) -> None:
        """Note that a block of this process is no longer there."""
        if files is self._own:
            with self._lock:
                self._index.remove(name)

    def _remove(self, files: BlockFiles, name: int) -> None:
        """Remove a block that is not wanted. If another process counts it, that one finds out when it looks for it."""
        if not self._writing.acquire(timeout=_WRITE_WAIT_S):
            return
        try:
            files.remove(name)
        except OSError as error:
            self._faults.note("remove", error)
        else:
            self._forget(files, name)
        finally:
            self._writing.release()

    def _refused(self, error: OSError) -> None:
        """Write nothing for a while, because the disk refused. `_writing` is held."""
        self._faults.note("write", error)
        self._paused_until_s = time.monotonic() + _PAUSE_S
        if error.errno in {errno.ENOSPC, errno.EDQUOT} and self._own is not None:
            kept = max(self._index.units - _FULL_DISK_UNITS, 0)
            with suppress(OSError):
                while self._index.units > kept and self._evict(self._own):
                    pass
                self._shares.declare(self._index.units)

    def _run(self) -> None:
        """Take a share, find what it holds, and, if others have shares, too, give them room when they need it."""
        while not self._closing.is_set():
            try:
                if self._take_share():
                    if not self._is_ready:
                        self._find_blocks()
                    elif self._shares.count == 1:
                        return
                    else:
                        self._shed()
            except OSError as error:
                self._faults.note("look into", error)
            self._closing.wait(_TURN_S)

    def _failed(self, error: BaseException) -> None:
        """Go on without writing: what a thread that ended would have known is not known."""
        self._is_ready = False
        _log.error("the cache %s writes nothing any more, since its thread ended", self._folder, exc_info=error)

    def _take_share(self) -> bool:
        if self._own is None and self._shares.take():
            self._own = BlockFiles(self._folder / str(self._shares.own), self._files)
            self._all = [self._own if files.folder == self._own.folder else files for files in self._all]
        elif self._own is None:
            self._faults.log("share", "the cache %s is only read: other processes have all shares of it", self._folder)
        return self._own is not None

    def _find_blocks(self) -> None:
        """Fill the index with what is in the share, in the order in which it was used last."""
        own = self._own
        if own is None:
            return
        began_s = time.monotonic()
        own.clean()
        for share in self._shares.leftover():
            own.adopt(BlockFiles(self._folder / str(share), self._files))
        names, units, used = array("Q"), array("H"), array("d")
        for name, file_bytes, used_s in own.entries():
            names.append(name)
            units.append(min(units_of(file_bytes), np.iinfo(np.uint16).max))
            used.append(used_s)
            if self._closing.is_set():
                return
        with self._writing:
            for place in np.argsort(np.frombuffer(used), kind="stable").tolist():
                while self._index.is_full or self._index.units + units[place] > self._units_max:
                    if not self._evict(own):
                        break
                with self._lock:
                    self._index.add(names[place], units[place])
            while self._shares.declare(self._index.units) > self._units_max and self._evict(own):
                pass
            self._is_ready = True
        _log.info(
            "the cache %s has %d blocks, %d bytes, found in %.1f s",
            own.folder,
            len(self._index),
            self._index.units * UNIT_BYTES,
            time.monotonic() - began_s,
        )

    def _shed(self) -> None:
        """Give room back, if all is used, and this process has more than its fair part."""
        part = self._units_max // _SHED_PARTS
        own = self._own
        if own is None or not self._writing.acquire(timeout=_WRITE_WAIT_S):
            return
        try:
            if self._shares.declare(self._index.units) > self._units_max - part:
                kept = max(self._shares.fair_units, self._index.units - part)
                while self._index.units > kept and self._evict(own):
                    pass
                self._shares.declare(self._index.units)
        finally:
            self._writing.release()


class _Faults:
    """Counts and logs what goes wrong: each kind at most once a minute. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._logged_s: dict[str, float] = {}
        self.faults = 0
        self.rotten = 0

    def note(self, what: str, error: OSError) -> None:
        """Note that the disk refused."""
        with self._lock:
            self.faults += 1
        self.log(
            what, "could not %s the cache %s, so reads use the store below: %s", what, self._folder, error.strerror
        )

    def note_rotten(self, path: Path, error: RottenBlockError) -> None:
        """Note that a block is damaged."""
        with self._lock:
            self.rotten += 1
        self.log("rotten", "the block %s of the cache %s; it is dropped, and read from the store below", path, error)

    def log(self, kind: str, text: str, *arguments: object) -> None:
        """Log a line, unless one of its kind was logged within the last minute."""
        now_s = time.monotonic()
        with self._lock:
            if now_s - self._logged_s.get(kind, -_LOG_EVERY_S) < _LOG_EVERY_S:
                return
            self._logged_s[kind] = now_s
        _log.warning(text, *arguments)
