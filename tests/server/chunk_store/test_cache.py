"""What the cache keeps, what it reads from the store below, and what is read while that store is away."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.chunk_store_contract import published
from support.caches import BLOCKS, FILE_BYTES, PAYLOAD, CountingStore, block_files, cache_of, read_all, wait_for
from support.faults import FaultyFiles
from tensorus_server.chunk_store.abc import (
    PayloadMissingError,
    PayloadUnreadableError,
    PresignedRange,
    StagedPayload,
)
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.chunk_store.cache import CachedPayloads
from tensorus_server.chunk_store.cache import block_cache as block_cache_module
from tensorus_server.chunk_store.cache.block_files import BLOCK_BYTES, blocks_of
from tensorus_server.chunk_store.memory import MemoryChunkStore
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.payload_keys import PackedKey, SegmentedKey


class ObjectKeys(MemoryChunkStore):
    """A store whose keys are like those of an object store: one segment, several, or a part of a pack."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def publish(self, group: Sequence[StagedPayload]) -> list[str]:
        """Publish under other keys."""
        keys = []
        for staged, key in zip(group, super().publish(group), strict=True):
            name, length = staged.payload_key, staged.length
            named = {
                "one segment": SegmentedKey(3, 0, length, name),
                # The last object has a directory, too, so its size does not say how long the payload is.
                "segments": SegmentedKey(3, 1000, length - 1000 + 48, name),
                "a pack": PackedKey("0" * 32, 1000, length, name),
            }
            keys.append(str(named[self._kind]))
            self._published[keys[-1]] = self._published.pop(key)
        return keys

    def presign(
        self, key: str, ranges: Sequence[tuple[int, int]], expires_s: float
    ) -> list[list[PresignedRange]] | None:
        """Sign one range."""
        return [[PresignedRange(key, *place, expires_s)] for place in ranges]


KINDS = ["one segment", "segments", "a pack"]


def test_what_was_read_once_is_not_read_below_again(below: CountingStore, folder: Path) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, folder) as cached:
        assert read_all(cached, key) == PAYLOAD
        assert below.reads == [(0, len(PAYLOAD))]
        assert read_all(cached, key) == PAYLOAD
        with cached.open(key) as reader:
            assert reader.read(BLOCK_BYTES - 5, 10) == PAYLOAD[BLOCK_BYTES - 5 : BLOCK_BYTES + 5]
        assert len(below.reads) == 1
        found = cached.statistics
        assert (found.misses, found.miss_bytes, found.hits) == (BLOCKS, len(PAYLOAD), BLOCKS + 2)
        assert (found.stored_blocks, found.written_bytes, found.evictions) == (BLOCKS, len(PAYLOAD), 0)


def test_only_the_gaps_are_read_below_each_in_one_piece(below: CountingStore, folder: Path) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, folder) as cached, cached.open(key) as reader:
        reader.read(BLOCK_BYTES, 1)
        reader.read(1, len(PAYLOAD) - 2)
        assert below.reads == [(BLOCK_BYTES, BLOCK_BYTES), (0, BLOCK_BYTES), (2 * BLOCK_BYTES, 2 * BLOCK_BYTES)]


def test_a_hint_names_what_will_be_read_below(below: CountingStore, folder: Path) -> None:
    key = below.keep(PAYLOAD)
    ranges = [(10, 20), (BLOCK_BYTES - 1, 2), (BLOCK_BYTES + 5, BLOCK_BYTES), (2 * BLOCK_BYTES, 5)]
    with cache_of(below, folder) as cached, cached.open(key) as reader:
        reader.read(BLOCK_BYTES, 1)
        below.reads.clear()
        reader.prefetch(ranges)
        for offset, length in ranges:
            reader.read(offset, length)
        assert below.hints == below.reads == [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, BLOCK_BYTES)]
        below.hints.clear()
        reader.prefetch(ranges)
        assert below.hints == []


def test_a_payload_that_is_packed_elsewhere_keeps_its_blocks(below: CountingStore, folder: Path) -> None:
    name = "ab" * 16
    keys = [
        str(PackedKey("0" * 32, 0, 9, name)),
        str(PackedKey("1" * 32, 7, 9, name)),
        str(PackedKey("1" * 32, 7, 8, name)),
    ]
    for key in keys:
        below.below._published[key] = (b"123456789"[: 9 if key != keys[2] else 8], 0.0)  # type: ignore[attr-defined]
    with cache_of(below, folder) as cached:
        assert read_all(cached, keys[0]) == read_all(cached, keys[1]) == b"123456789"
        assert len(below.reads) == 1
        assert read_all(cached, keys[2]) == b"12345678"
        assert len(below.reads) == 2


def test_many_readers_of_a_block_cause_one_read(below: CountingStore, folder: Path) -> None:
    key = below.keep(PAYLOAD)
    below.gate = threading.Event()
    with cache_of(below, folder) as cached, ThreadPoolExecutor(8) as threads:
        reads = [threads.submit(read_all, cached, key) for _ in range(8)]
        below.arrived.acquire()
        # All others have joined it.
        wait_for(lambda: len([1 for flight in cached._flights._flights.values() if _waiters(flight) >= 7]) > 0)
        below.gate.set()
        assert all(read.result(30) == PAYLOAD for read in reads)
        assert below.reads == [(0, len(PAYLOAD))]
        assert cached._flights._flights == {}


def _waiters(flight: object) -> int:
    return len(flight._condition._waiters)  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [StoreUnavailableError("away"), PayloadUnreadableError("bad"), KeyboardInterrupt()])
def test_who_waits_for_a_read_that_fails_reads_itself(below: CountingStore, folder: Path, error: BaseException) -> None:
    key = below.keep(PAYLOAD[:BLOCK_BYTES])
    below.gate = threading.Event()
    below.read_errors = [error]
    with cache_of(below, folder) as cached, ThreadPoolExecutor(2) as threads:
        first = threads.submit(read_all, cached, key)
        below.arrived.acquire()
        second = threads.submit(read_all, cached, key)
        wait_for(lambda: any(_waiters(flight) for flight in cached._flights._flights.values()))
        below.gate.set()
        assert second.result(30) == PAYLOAD[:BLOCK_BYTES]
        if isinstance(error, PayloadUnreadableError):
            # It is read again without what nobody asked for, which is the same here.
            assert first.result(30) == PAYLOAD[:BLOCK_BYTES]
        else:
            with pytest.raises(type(error)):
                first.result(30)
        assert cached._flights._flights == {}


def test_a_wait_for_another_reader_ends(below: CountingStore, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tensorus_server.chunk_store.cache.payloads._FLIGHT_WAIT_S", 0.05)
    key = below.keep(b"0123")
    gate = below.gate = threading.Event()
    with cache_of(below, folder) as cached, ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(read_all, cached, key)
        below.arrived.acquire()
        below.gate = None
        assert read_all(cached, key) == b"0123"
        assert not stuck.done()
        gate.set()
        assert stuck.result(30) == b"0123"


@pytest.mark.parametrize(
    "damage", ["a bit", "the identity", "a page's checksum", "cut", "empty", "longer", "another block", "magic"]
)
def test_a_damaged_block_is_dropped_logged_once_and_read_again(
    below: CountingStore, folder: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, folder) as cached:
        read_all(cached, key)
        files = block_files(folder)
        whole = [file.read_bytes() for file in files]
        for file, raw in zip(files, whole, strict=True):
            flipped = bytearray(raw)
            flipped[{"magic": 0, "the identity": 9, "a page's checksum": 30}.get(damage, 150_000)] ^= 1
            others = {"cut": raw[:-1], "empty": b"", "longer": raw + b"x", "another block": whole[whole.index(raw) - 1]}
            file.write_bytes(others.get(damage, bytes(flipped)))
        below.reads.clear()
        assert read_all(cached, key) == PAYLOAD
        assert below.reads == [(0, len(PAYLOAD))]
        assert cached.statistics.rotten == BLOCKS
        assert [file.read_bytes() for file in files] == whole
        assert read_all(cached, key) == PAYLOAD
        assert len(below.reads) == 1
    assert [record.message.startswith("the block ") for record in caplog.records].count(True) == 1


def test_the_least_recently_used_blocks_go_first(below: CountingStore, folder: Path) -> None:
    keys = [below.keep(PAYLOAD[:BLOCK_BYTES]) for _ in range(4)]
    with cache_of(below, folder, 3 * FILE_BYTES) as cached:
        for number in (0, 1, 2, 0, 3):
            read_all(cached, keys[number])
        below.reads.clear()
        for number in (0, 2, 3):
            read_all(cached, keys[number])
        assert below.reads == []
        read_all(cached, keys[1])
        assert len(below.reads) == 1
        assert cached.statistics.evictions == 2


def test_the_limit_is_kept_at_every_moment(below: CountingStore, folder: Path) -> None:
    limit = 3 * FILE_BYTES + 1000
    sizes = []

    class Watching(FaultyFiles):
        def rename(self, source: Path, target: Path) -> None:
            super().rename(source, target)
            sizes.append(sum(file.stat().st_size for file in block_files(folder)))

    keys = [below.keep(random.Random(number).randbytes(number * 40_000 + 1)) for number in range(20)]
    with cache_of(below, folder, limit, files=Watching()) as cached, ThreadPoolExecutor(4) as threads:
        for _ in threads.map(lambda key: read_all(cached, key), keys * 3):
            pass
        assert cached.statistics.stored_bytes <= limit
    assert max(sizes) <= limit
    assert max(sizes) > limit - 2 * FILE_BYTES


def test_blocks_survive_a_restart_in_their_order_and_within_a_smaller_limit(below: CountingStore, folder: Path) -> None:
    keys = [below.keep(PAYLOAD[:BLOCK_BYTES]) for _ in range(4)]
    with cache_of(below, folder) as cached:
        for key in keys:
            read_all(cached, key)
    for age, file in enumerate(block_files(folder)):
        os.utime(file, (0, 1_000_000 - age))
    (folder / "0" / "new").write_bytes(b"half a block")
    oldest_first = block_files(folder)[::-1]
    below.reads.clear()
    with cache_of(below, folder, 2 * FILE_BYTES) as cached:
        assert set(block_files(folder)) == set(oldest_first[2:])
        assert not (folder / "0" / "new").exists()
        for key in keys:
            read_all(cached, key)
            read_all(cached, key)
        assert 2 <= len(below.reads) <= 4
        assert cached.statistics.stored_blocks == 2


def test_blocks_are_read_before_it_is_known_what_there_is(
    below: CountingStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = below.keep(PAYLOAD), below.keep(b"other")
    with cache_of(below, folder) as cached:
        read_all(cached, key)
    below.reads.clear()
    monkeypatch.setattr(block_cache_module.BlockCache, "_find_blocks", lambda _: None)
    cached = CachedPayloads(below, folder, 2**30)
    assert read_all(cached, key) == PAYLOAD
    assert below.reads == []
    assert read_all(cached, other) == b"other"
    assert len(block_files(folder)) == BLOCKS
    cached.close()


def test_a_thread_that_ends_stops_only_the_writing(
    below: CountingStore, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(block_cache_module.BlockCache, "_find_blocks", lambda _: 1 / 0)
    key = below.keep(PAYLOAD)
    cached = CachedPayloads(below, folder, 2**30)
    wait_for(lambda: "writes nothing any more" in caplog.text)
    assert read_all(cached, key) == read_all(cached, key) == PAYLOAD
    assert block_files(folder) == []
    cached.close()


def test_a_deleted_payload_leaves_nothing(below: CountingStore, folder: Path) -> None:
    key, other = below.keep(PAYLOAD), below.keep(b"stays")
    with cache_of(below, folder) as cached:
        read_all(cached, key)
        read_all(cached, other)
        cached.delete(key)
        assert len(block_files(folder)) == 1
        assert cached.statistics.stored_blocks == 1
        with pytest.raises(PayloadMissingError):
            cached.open(key)
        cached.delete(key)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cached_asks_nothing_of_the_store_below_also_after_a_restart(tmp_path: Path, kind: str) -> None:
    below = CountingStore(ObjectKeys(kind))
    key = below.keep(PAYLOAD)
    with cache_of(below, tmp_path) as cached:
        for _ in range(2):
            assert read_all(cached, key) == PAYLOAD
            assert below.opened == [key]
    with cache_of(below, tmp_path) as cached, cached.open(key) as reader:
        assert reader.length == len(PAYLOAD)
        reader.prefetch([(0, len(PAYLOAD))])
        assert reader.read(1, len(PAYLOAD) - 1) == PAYLOAD[1:]
        assert below.opened == [key]
        # A block that is missing is read below, which it takes to open the payload.
        cached._cache.drop(blocks_of(key.rpartition("/")[2], len(PAYLOAD), 0, 1)[0])
        assert reader.read(0, 5) == PAYLOAD[:5]
        assert below.opened == [key, key]


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_that_is_deleted_is_missing_at_once(tmp_path: Path, kind: str) -> None:
    below = CountingStore(ObjectKeys(kind))
    key = below.keep(PAYLOAD)
    with cache_of(below, tmp_path) as cached:
        read_all(cached, key)
        cached.delete(key)
        assert block_files(tmp_path) == []
        with pytest.raises(PayloadMissingError):
            cached.open(key)


@pytest.mark.parametrize("kind", KINDS)
def test_while_the_store_below_is_away_what_is_cached_is_read(tmp_path: Path, kind: str) -> None:
    below = CountingStore(ObjectKeys(kind))
    key, unread = below.keep(PAYLOAD), below.keep(PAYLOAD)
    with cache_of(below, tmp_path) as cached:
        read_all(cached, key)
        below.open_error = StoreUnavailableError("away")
        with cached.open(key) as reader:
            assert reader.length == len(PAYLOAD)
            assert reader.read(5, len(PAYLOAD) - 5) == PAYLOAD[5:]
        if kind == "segments":
            with pytest.raises(StoreUnavailableError, match="away"):
                cached.open(unread)
            return
        with cached.open(unread) as reader:
            reader.prefetch([(0, 1)])
            with pytest.raises(StoreUnavailableError, match="away"):
                reader.read(0, 1)
            below.open_error = None
            assert reader.read(0, 1) == PAYLOAD[:1]
        with pytest.raises(ValueError, match="closed"):
            reader.read(0, 1)


def test_a_payload_whose_length_cannot_be_read_is_read_without_the_cache(below: CountingStore, folder: Path) -> None:
    class Unreadable(BytesReader):
        @property
        def length(self) -> int:
            raise PayloadUnreadableError("the directory is damaged")

    with cache_of(below, folder) as cached:
        unreadable = Unreadable(b"")
        below.open = lambda _: unreadable  # type: ignore[method-assign]
        assert cached.open("key") is unreadable


def test_ranges_are_signed_by_the_store_below(tmp_path: Path) -> None:
    below = ObjectKeys("a pack")
    with cache_of(below, tmp_path) as cached:
        assert cached.presign("key", [(1, 2)], 60.0) == [[PresignedRange("key", 1, 2, 60.0)]]


def test_a_cache_that_closes_says_what_it_did(
    below: CountingStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with cache_of(below, folder) as cached:
        key = published(below.below, b"12")
        read_all(cached, key)
        read_all(cached, key)
    cached.close()
    (line,) = [record.getMessage() for record in caplog.records if "had" in record.getMessage()]
    assert "1 hits and 1 misses of blocks (2 and 2 bytes), evicted 0" in line
