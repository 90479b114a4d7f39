"""Reads payloads through a cache on local disk. For a store to which each read is a request over the network.

Payloads never change, so nothing in the cache is ever out of date. They are kept in blocks (`block_files.py`), whatever ranges
are read: chunk records, whole or in part, indexes and footers share them. What is missing of a range is read from the store
below, each gap in one piece, by one thread: others that need the same block wait for it.

New payloads are not written to the cache. Most inserts come from machines that do not read their tensors soon, or read them
through other replicas, and would push out what is in use; the first read of a payload keeps it.

No error of the cache reaches a read. Blocks that are there are also read while the store below is away.
"""

from __future__ import annotations

import io
import struct
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from tensorus_server.chunk_store.abc import ChunkReader, ChunkStoreError, PayloadStore, PayloadUnreadableError
from tensorus_server.chunk_store.cache.block_cache import BlockCache
from tensorus_server.chunk_store.cache.block_files import blocks_of, length_of
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.payload_keys import PackedKey, SegmentedKey, parse_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tensorus_server.chunk_store.abc import PresignedRange
    from tensorus_server.chunk_store.cache.block_cache import CacheStatistics
    from tensorus_server.chunk_store.cache.block_files import Block
    from tensorus_server.chunk_store.files import Files

__all__ = ["CachedPayloads"]

_LENGTH = struct.Struct("<Q")

_FLIGHT_WAIT_S = 60.0
"""How long a thread waits for another one to read a block: longer than a request to an object store with its retries."""


class CachedPayloads(PayloadStore):
    """The payloads of another store, whose bytes are kept on local disk once they were read. Thread-safe."""

    def __init__(
        self, below: PayloadStore, folder: Path, size_bytes: int, *, processes: int = 1, files: Files | None = None
    ) -> None:
        """Cache what is read from `below`.

        Args:
            folder: on a local disk; it is created if it is missing. What an earlier process left in it is used.
            size_bytes: how much the blocks may take, of all processes that use the folder together.
            processes: how many use the folder at once: each takes a share.
            files: the file operations; None: those of the operating system.

        Raises:
            StoreUnavailableError, StorageFullError: the folder cannot be used.
        """
        self._below = below
        self._cache = BlockCache(folder, size_bytes, processes=processes, files=files)
        self._flights = _Flights()

    @property
    def statistics(self) -> CacheStatistics:
        """What the cache has done so far, in this process."""
        return self._cache.statistics

    def open(self, key: str) -> ChunkReader:
        """See `PayloadStore`. A payload whose end, which is read first, is cached is opened below only for a missing block."""
        length = self._length_of(key)
        if length is not None and self._has_end(key, length):
            return _CachedReader(self, key, length)
        try:
            below = self._below.open(key)
        except StoreUnavailableError:
            if length is None:
                raise
            return _CachedReader(self, key, length)
        try:
            length = below.length
        except PayloadUnreadableError:
            return below
        except BaseException:
            below.close()
            raise
        if _is_in_several_segments(key):
            self._cache.put(length_of(_name_of(key)), memoryview(_LENGTH.pack(length)))
        return _CachedReader(self, key, length, below)

    @property
    def fetches_ahead(self) -> bool:
        """See `PayloadStore`."""
        return self._below.fetches_ahead

    def fetch_ahead(self, keys: Sequence[str]) -> Callable[[], None]:
        """See `PayloadStore`: those are fetched that are opened below."""
        lengths = ((key, self._length_of(key)) for key in keys)
        return self._below.fetch_ahead(
            [key for key, length in lengths if length is None or not self._has_end(key, length)]
        )

    def delete(self, key: str) -> None:
        """See `PayloadStore`. What other processes keep of it goes when it is the least recently used."""
        length = self._length_of(key)
        if length is None:
            try:
                with self._below.open(key) as reader:
                    length = reader.length
            except (ChunkStoreError, StoreUnavailableError):
                length = 0
        self._below.delete(key)
        if length:
            for block in (*blocks_of(_name_of(key), length, 0, length), length_of(_name_of(key))):
                self._cache.drop(block)

    def presign(
        self, key: str, ranges: Sequence[tuple[int, int]], expires_s: float
    ) -> list[list[PresignedRange]] | None:
        """See `PayloadStore`: what is fetched past the server is not cached."""
        return self._below.presign(key, ranges, expires_s)

    def sweeping(self) -> AbstractContextManager[bool]:
        """See `PayloadStore`."""
        return self._below.sweeping()

    def _has_end(self, key: str, length: int) -> bool:
        """Return whether the end of a payload, which is read first, is cached."""
        return length > 0 and self._cache.has(blocks_of(_name_of(key), length, length - 1, length)[0])

    def _length_of(self, key: str) -> int | None:
        """Return the length of a payload in bytes, as far as its key or the cache says it."""
        parsed = parse_key(key)
        if isinstance(parsed, PackedKey):
            return parsed.length
        if isinstance(parsed, SegmentedKey):
            if not parsed.tail_offset:
                return parsed.tail_bytes
            said = memoryview(bytearray(_LENGTH.size))
            if self._cache.get(length_of(parsed.payload_key), 0, said):
                (length,) = _LENGTH.unpack(said)
                return int(length)
        return None

    def close(self, timeout_s: float = 0.0) -> bool:  # noqa: ARG002 - nothing waits for its thread
        """Stop caching, and return True; the store below stays open. Idempotent."""
        self._cache.close()
        return True


class _CachedReader(ChunkReader):
    """An open payload."""

    # The store and its readers share their state.
    # ruff: noqa: SLF001

    fetches_ahead: ClassVar[bool] = True

    def __init__(self, store: CachedPayloads, key: str, length: int, below: ChunkReader | None = None) -> None:
        self._store = store
        self._cache = store._cache
        self._flights = store._flights
        self._key = key
        self._name = _name_of(key)
        self._length = length
        self._below = below
        self._lock = threading.Lock()
        self._closed = False

    @property
    def length(self) -> int:
        if self._closed:
            raise ValueError("the payload is closed")
        return self._length

    def read(self, offset: int, length: int) -> bytes:
        if self._closed:
            raise ValueError("the payload is closed")
        if length <= 0 or offset + length > self._length:
            # The store below says what is wrong.
            return self._opened().read(offset, length)
        # Its memory becomes the result, without a copy, as soon as no view of it is left.
        result = io.BytesIO()
        result.seek(length - 1)
        result.write(b"\0")
        with result.getbuffer() as view:
            blocks, missing = blocks_of(self._name, self._length, offset, offset + length), []
            for block in blocks:
                begin, target = _overlap(block, offset, view)
                with target:
                    if not self._cache.get(block, begin, target):
                        missing.append(block)
            hit_bytes = length - sum(len(_overlap(block, offset, view)[1]) for block in missing)
            self._cache.count(hits=len(blocks) - len(missing), hit_bytes=hit_bytes)
            if missing:
                try:
                    found = self._read_below(missing)
                except ChunkStoreError:
                    # A block has bytes that nobody asked for, and perhaps only those cannot be read.
                    return self._opened().read(offset, length)
                for block in missing:
                    begin, target = _overlap(block, offset, view)
                    with target:
                        target[:] = found[block.name][begin : begin + len(target)]
        return result.getvalue()

    def prefetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        known: set[int] = set()
        wanted = []
        for offset, length in ranges:
            end = min(offset + length, self._length)
            if 0 <= offset < end:
                blocks = blocks_of(self._name, self._length, offset, end)
                missing = [block for block in blocks if block.name not in known and not self._cache.has(block)]
                known.update(block.name for block in blocks)
                wanted += [(gap[0].offset, gap[-1].end - gap[0].offset) for gap in _gaps(missing)]
        if wanted:
            # Whether the store below is away, the reads will tell.
            with suppress(ChunkStoreError, StoreUnavailableError):
                self._opened().prefetch(wanted)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            below, self._below = self._below, None
        if below is not None:
            below.close()

    def _read_below(self, missing: Sequence[Block]) -> dict[int, memoryview]:
        """Return the bytes of blocks that are not in the cache, and keep them there."""
        led, followed = self._flights.join(missing)
        found: dict[int, memoryview] = {}
        try:
            # Another thread may have put them there since they were looked for.
            for block in led:
                whole = memoryview(bytearray(block.length))
                if self._cache.get(block, 0, whole):
                    found[block.name] = whole
                    self._flights.arrived(block, whole)
            for gap in _gaps([block for block in led if block.name not in found]):
                found |= self._fetch(gap)
        finally:
            self._flights.end(led)
        for block, flight in followed:
            data = _outcome(flight)
            if data is None:
                # The thread that was to read it failed; its error was of its own read.
                found |= self._fetch([block])
            else:
                found[block.name] = data
        return found

    def _fetch(self, gap: Sequence[Block]) -> dict[int, memoryview]:
        """Read adjacent blocks from the store below."""
        begin = gap[0].offset
        raw = memoryview(self._opened().read(begin, gap[-1].end - begin))
        self._cache.count(misses=len(gap), miss_bytes=len(raw))
        found = {block.name: raw[block.offset - begin : block.end - begin] for block in gap}
        for block in gap:
            # First for those who wait.
            self._flights.arrived(block, found[block.name])
        for block in gap:
            self._cache.put(block, found[block.name])
        return found

    def _opened(self) -> ChunkReader:
        """Return the payload in the store below, which was perhaps away when this was opened."""
        with self._lock:
            if self._closed:
                raise ValueError("the payload is closed")
            if self._below is None:
                self._below = self._store._below.open(self._key)
            return self._below


class _Flights:
    """Which blocks are being read from the store below. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[int, Future[memoryview]] = {}

    def join(self, blocks: Sequence[Block]) -> tuple[list[Block], list[tuple[Block, Future[memoryview]]]]:
        """Return the blocks that the caller is to read, which it must `end`, and those that others are reading."""
        led, followed = [], []
        with self._lock:
            for block in blocks:
                flight = self._flights.get(block.name)
                if flight is None:
                    self._flights[block.name] = Future()
                    led.append(block)
                else:
                    followed.append((block, flight))
        return led, followed

    def arrived(self, block: Block, data: memoryview) -> None:
        """Give a block to those who wait for it."""
        with self._lock:
            flight = self._flights.get(block.name)
            if flight is not None and not flight.done():
                flight.set_result(data)

    def end(self, blocks: Sequence[Block]) -> None:
        """End the caller's flights; those who wait for one that did not arrive are told."""
        with self._lock:
            flights = [self._flights.pop(block.name) for block in blocks]
        for flight in flights:
            if not flight.done():
                flight.cancel()


def _overlap(block: Block, offset: int, view: memoryview) -> tuple[int, memoryview]:
    """Return where in a block the bytes of a read begin, and the part of the result that they fill.

    Args:
        offset: of the read in the payload.
        view: its whole result.
    """
    begin = max(offset - block.offset, 0)
    return begin, view[max(block.offset - offset, 0) : block.end - offset]


def _outcome(flight: Future[memoryview]) -> memoryview | None:
    """Wait for a block that another thread reads; None: it failed, or takes too long."""
    try:
        return flight.result(_FLIGHT_WAIT_S)
    except (CancelledError, TimeoutError):
        return None


def _gaps(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Yield runs of adjacent blocks."""
    gap: list[Block] = []
    for block in blocks:
        if gap and gap[-1].end != block.offset:
            yield gap
            gap = []
        gap.append(block)
    if gap:
        yield gap


def _name_of(key: str) -> str:
    """Return the name of a payload: its bytes are the same wherever it lies."""
    return key.rpartition("/")[2]


def _is_in_several_segments(key: str) -> bool:
    """Return whether a payload's key does not say its length: the last object has a directory of the others, too."""
    parsed = parse_key(key)
    return isinstance(parsed, SegmentedKey) and parsed.tail_offset > 0
