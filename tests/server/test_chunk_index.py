"""The packed chunk index says what a list of pairs says, and places are what their sums say."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from support.cases import each
from tensorus_server.chunk_index import ENTRY_BYTES, ChunkIndex, IndexCache, RecordPlaces

COUNTS = [0, 1, 2, 63, 64, 65, 128, 1000]


def entries_of(count: int) -> list[tuple[int, int]]:
    """Return entries of this many chunks; their lengths are as large as they may be on average."""
    source = random.Random(count)
    return [(source.randrange(2**32), source.randrange(2**32)) for _ in range(count)]


class TestChunkIndex:
    """As a list of pairs, in 8 bytes each."""

    def test_it_is_little_endian_pairs_of_length_and_crc(self) -> None:
        assert ChunkIndex.of([(1, 0x01020304), (0x0A0B, 5)]).packed().hex() == "01000000040302010b0a000005000000"
        assert ChunkIndex().packed() == b""

    @each("count", COUNTS)
    def test_it_says_what_a_list_says(self, count: int) -> None:
        entries = entries_of(count)
        index = ChunkIndex()
        for entry in entries:
            index.append(entry)
        assert list(index) == entries
        assert [index[chunk] for chunk in range(count)] == entries
        assert len(index) == count
        assert len(index.packed()) == ENTRY_BYTES * count
        assert index.stored_bytes == sum(stored_bytes for stored_bytes, _ in entries)
        assert list(ChunkIndex(index.packed())) == list(ChunkIndex.of(entries)) == entries
        for chunk in {0, count // 2, count}:
            assert list(index.since(chunk)) == entries[chunk:]

    def test_what_was_taken_of_it_stays_as_it_was(self) -> None:
        index = ChunkIndex.of([(1, 1)])
        packed, since = index.packed(), index.since(0)
        index.append((2, 2))
        assert (packed, list(since)) == (ChunkIndex.of([(1, 1)]).packed(), [(1, 1)])


class TestRecordPlaces:
    """Sums over blocks, with the rest added up when it is asked for."""

    @each("count", COUNTS)
    def test_places_are_what_the_sums_say(self, count: int) -> None:
        entries = entries_of(count)
        places = RecordPlaces(ChunkIndex.of(entries).packed())
        begins = [0, *itertools.accumulate(stored_bytes for stored_bytes, _ in entries)]
        assert [places.place(chunk) for chunk in range(count)] == [
            (begin, *entry) for begin, entry in zip(begins, entries, strict=False)
        ]
        assert places.stored_bytes == begins[-1]


class TestIndexCache:
    """Large indexes that were read last are read once."""

    SIZE = 8192

    def loads(self, cache: IndexCache, keys: str, size: int = SIZE) -> str:
        """Look each key up, and return those whose index had to be read."""
        read: list[str] = []

        def load(key: str) -> RecordPlaces:
            read.append(key)
            return RecordPlaces(ChunkIndex.of([(ord(key), 0)]).packed())

        for key in keys:
            assert cache.get(key, size, lambda key=key: load(key)).stored_bytes == ord(key)  # type: ignore[misc]
        return "".join(read)

    def test_an_index_is_read_once(self) -> None:
        assert self.loads(IndexCache(), "aabab") == "ab"

    def test_the_one_that_was_asked_for_longest_ago_makes_room(self) -> None:
        assert self.loads(IndexCache(2 * self.SIZE), "abacabcb") == "abcbc"

    @each("size", [8, 4095, 16 * 1024 * 1024 + 1])
    def test_neither_small_ones_nor_what_is_larger_than_the_cache_are_kept(self, size: int) -> None:
        assert self.loads(IndexCache(), "aa", size) == "aa"

    def test_what_cannot_be_read_is_not_kept(self) -> None:
        cache = IndexCache()

        def broken() -> RecordPlaces:
            raise OSError("broken")

        with pytest.raises(OSError, match="broken"):
            cache.get("a", self.SIZE, broken)
        assert self.loads(cache, "aa") == "a"

    def test_threads_share_it(self) -> None:
        cache = IndexCache(3 * self.SIZE)
        failures: list[BaseException] = []

        def look() -> None:
            try:
                self.loads(cache, "abcdef" * 200)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

        threads = [threading.Thread(target=look) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert failures == []
        assert cache._bytes == 3 * self.SIZE
