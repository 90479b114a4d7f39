"""The chunk index in memory: packed as it is stored, 8 bytes a chunk, whatever is done with it.

    ChunkIndex   grows chunk by chunk while a tensor is written
    RecordPlaces says where each record of a payload lies
    IndexCache   keeps the places of large payloads that were read last

As Python's tuples, the index of a tensor of 1 TiB took 124 MiB; packed, it has 8.
"""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from tensorus_server.limits import INDEX_CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

__all__ = ["ENTRY_BYTES", "ChunkIndex", "IndexCache", "RecordPlaces"]

_ENTRY = struct.Struct("<II")

ENTRY_BYTES = _ENTRY.size
"""Of the chunk index, per chunk."""

_WORD = np.dtype("<u4")

_BLOCK = 64
"""Chunks from one known place to the next: a place in between is a sum of so many lengths at most."""

_CACHED_BYTES_MIN = 4096
"""Of an index, packed. A smaller one is read faster than it is looked up and kept."""


class ChunkIndex:
    """Of each chunk, in order, its record's stored bytes and seeded CRC32C."""

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

    def packed(self) -> bytes:
        """Return the index as it is stored."""
        return bytes(self._packed)

    def since(self, chunk: int) -> ChunkIndex:
        """Return the entries from this chunk on."""
        return ChunkIndex(self._packed[chunk * ENTRY_BYTES :])

    @property
    def stored_bytes(self) -> int:
        """Of all records together."""
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
        """Say how long it is."""
        return f"<ChunkIndex of {len(self)} chunks>"


class RecordPlaces:
    """Where each record of a payload lies. Safe in many threads."""

    def __init__(self, packed: bytes) -> None:
        """Take over the index as it is stored; its CRC32C has been checked."""
        words = np.frombuffer(packed, _WORD)
        self._lengths, self._crcs = words[::2], words[1::2]
        blocks = range(0, self._lengths.size, _BLOCK)
        lengths = np.add.reduceat(self._lengths, blocks, dtype=np.int64) if blocks else np.empty(0, np.int64)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])

    @property
    def stored_bytes(self) -> int:
        """Of all records together."""
        return int(self._starts[-1])

    def place(self, chunk: int) -> tuple[int, int, int]:
        """Return a record's first byte, counted from the payload's, its length, and its seeded CRC32C."""
        block = chunk // _BLOCK
        before = self._lengths[block * _BLOCK : chunk].sum(dtype=np.int64)
        return int(self._starts[block] + before), int(self._lengths[chunk]), int(self._crcs[chunk])


class IndexCache:
    """The places of large payloads that were read last: slices of one tensor need not read its index again and again."""

    def __init__(self, bytes_max: int = INDEX_CACHE_BYTES) -> None:
        """Keep so many bytes of indexes, packed, at most."""
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[RecordPlaces, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, size: int, load: Callable[[], RecordPlaces]) -> RecordPlaces:
        """Return what is kept under `key`, or what `load` returns.

        Args:
            key: of one payload and its index; they never change.
            size: of the index, packed.
            load: reads the index and checks it; what it raises is passed on, and nothing is kept.
        """
        if not _CACHED_BYTES_MIN <= size <= self._bytes_max:
            return load()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        # Two threads may load one index at a time: no reader waits for the disk of another.
        places = load()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = (places, size)
                self._bytes += size
            while self._bytes > self._bytes_max:
                _, (_, dropped) = self._kept.popitem(last=False)
                self._bytes -= dropped
        return places
