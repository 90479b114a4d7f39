"""The chunk index in memory, always packed as it is stored, with 8 bytes per chunk.

    ChunkIndex   grows chunk by chunk while a tensor is written
    RecordPlaces finds each record in a payload
    IndexCache   caches the large indexes and chunk tables of payloads

As Python tuples, the index of a tensor of 1 TiB took 124 MiB; packed, it takes 8 MiB.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tensorus_server.limits import INDEX_CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

__all__ = ["ENTRY_BYTES", "ChunkIndex", "IndexCache", "RecordPlaces"]

T = TypeVar("T")

_ENTRY = struct.Struct("<II")

ENTRY_BYTES = _ENTRY.size
"""Size of the index per chunk."""

_WORD = np.dtype("<u4")

_BLOCK = 64
"""Chunks between two precomputed places. Finding a place in between adds up at most this many lengths."""

_CACHED_BYTES_MIN = 4096
"""Smallest index or table that is cached. Reading a smaller one is faster than using the cache."""


class ChunkIndex:
    """The stored bytes and the seeded CRC32C of each chunk's record, in order."""

    def __init__(self, packed: bytes | bytearray = b"") -> None:
        """Start with the entries in `packed`."""
        self._packed = bytearray(packed)

    @classmethod
    def of(cls, entries: Iterable[tuple[int, int]]) -> ChunkIndex:
        """Return the index of these entries."""
        return cls(b"".join(_ENTRY.pack(*entry) for entry in entries))

    def append(self, entry: tuple[int, int]) -> None:
        """Add the entry of the next chunk."""
        self._packed += _ENTRY.pack(*entry)

    def extend(self, other: ChunkIndex) -> None:
        """Add the entries of the next chunks."""
        self._packed += other._packed

    def packed(self) -> bytes:
        """Return the index as it is stored."""
        return bytes(self._packed)

    def since(self, chunk: int) -> ChunkIndex:
        """Return the entries from this chunk on."""
        return ChunkIndex(self._packed[chunk * ENTRY_BYTES :])

    @property
    def stored_bytes(self) -> int:
        """Size of all records together."""
        return int(np.frombuffer(self._packed, _WORD)[::2].sum(dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of chunks."""
        return len(self._packed) // ENTRY_BYTES

    def __getitem__(self, chunk: int) -> tuple[int, int]:
        """Return the entry of a chunk."""
        stored_bytes, seeded_crc32c = _ENTRY.unpack_from(self._packed, chunk * ENTRY_BYTES)
        return stored_bytes, seeded_crc32c

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the entries in order."""
        return (self[chunk] for chunk in range(len(self)))

    def __repr__(self) -> str:
        """Return a text with the number of chunks."""
        return f"<ChunkIndex of {len(self)} chunks>"


class RecordPlaces:
    """The places of all records of a payload. Thread-safe."""

    def __init__(self, packed: bytes) -> None:
        """Use the index as it is stored; the caller has checked its CRC32C."""
        words = np.frombuffer(packed, _WORD)
        self._lengths, self._crcs = words[::2], words[1::2]
        blocks = range(0, self._lengths.size, _BLOCK)
        lengths = np.add.reduceat(self._lengths, blocks, dtype=np.int64) if blocks else np.empty(0, np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    @property
    def stored_bytes(self) -> int:
        """Size of all records together."""
        return int(self._starts[-1])

    @property
    def lengths(self) -> list[int]:
        """The length of each record."""
        return [int(length) for length in self._lengths]

    def place(self, chunk: int) -> tuple[int, int, int]:
        """Return a record's offset from the start of the payload, its length, and its seeded CRC32C."""
        block = chunk // _BLOCK
        before = self._lengths[block * _BLOCK : chunk].sum(dtype=np.int64)
        return int(self._starts[block] + before), int(self._lengths[chunk]), int(self._crcs[chunk])


class IndexCache:
    """An LRU cache of parsed indexes and chunk tables, so that many slices of one large tensor read them once. Thread-safe."""

    def __init__(self, bytes_max: int = INDEX_CACHE_BYTES) -> None:
        """Cache at most `bytes_max` bytes, as stored."""
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        # `Any`: what `load` of the same key returns.
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, size: int, load: Callable[[], T]) -> T:
        """Return what is cached for `key`, or load it.

        Args:
            key: identifies a payload and a part of it, which never change.
            size: bytes of this part, as stored.
            load: reads and checks the part; if it raises, the error is passed on and nothing is cached.
        """
        if not _CACHED_BYTES_MIN <= size <= self._bytes_max:
            return load()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                kept: T = self._kept[key][0]
                return kept
        # Loaded without the lock, so that no reader waits for another's disk access. Two threads may load the same index.
        loaded = load()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (loaded, size)
                self._bytes += size
            while self._bytes > self._bytes_max:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped
        return loaded
