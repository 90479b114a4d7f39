"""A cache's folder that several processes use: each has a share, all read everything, and together they keep the limit."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.caches import CountingStore, block_files, cache_of, read_all, wait_for
from tensorus_server.chunk_store.cache import CachedPayloads
from tensorus_server.chunk_store.cache import block_cache as block_cache_module
from tensorus_server.chunk_store.cache.block_files import BLOCK_BYTES

PAYLOAD = random.Random(2).randbytes(BLOCK_BYTES)
FILE_BYTES = BLOCK_BYTES + 4096

READER = """
import sys
from pathlib import Path

from support.caches import CountingStore, cache_of, read_all

payloads = {f"{number:032x}": number.to_bytes(4, "big") * 50_000 for number in range(40)}
below = CountingStore()
below.below._published.update((key, (payload, 0.0)) for key, payload in payloads.items())
with cache_of(below, Path(sys.argv[1]), int(sys.argv[2]), processes=2) as cached:
    print("ready", flush=True)
    while True:
        for key, payload in payloads.items():
            assert read_all(cached, key) == payload
"""


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait a second for a share, or for room."""
    monkeypatch.setattr(block_cache_module, "_TURN_S", 0.02)


@contextmanager
def reading_process(folder: Path, size_bytes: int) -> Iterator[subprocess.Popen[bytes]]:
    tests = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(folder), str(size_bytes)], cwd=tests, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def stored_bytes(folder: Path) -> int:
    total = 0
    for file in block_files(folder):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def test_what_one_process_has_read_another_need_not(below: CountingStore, tmp_path: Path) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, tmp_path, processes=2) as first, cache_of(below, tmp_path, processes=2) as second:
        assert read_all(first, key) == PAYLOAD
        assert read_all(second, key) == PAYLOAD
        assert len(below.reads) == 1
        assert (first.statistics.stored_blocks, second.statistics.stored_blocks) == (1, 0)
        # Deleted through one, it is gone for both.
        second.delete(key)
        assert block_files(tmp_path) == []


def test_a_process_may_use_the_room_that_others_do_not_and_gives_it_back(below: CountingStore, tmp_path: Path) -> None:
    limit = 8 * FILE_BYTES
    keys = [below.keep(bytes([number]) * BLOCK_BYTES) for number in range(16)]
    with (
        cache_of(below, tmp_path, limit, processes=2) as first,
        cache_of(below, tmp_path, limit, processes=2) as second,
    ):
        for key in keys[:8]:
            read_all(first, key)
        assert first.statistics.stored_blocks >= 7

        def second_has_its_part() -> bool:
            for key in keys[8:12]:
                read_all(second, key)
            assert stored_bytes(tmp_path) <= limit
            return second.statistics.stored_blocks >= 3

        wait_for(second_has_its_part)
        assert first.statistics.stored_blocks >= 4
        assert first.statistics.stored_blocks + second.statistics.stored_blocks <= 8


def test_without_a_share_blocks_are_read_and_a_share_that_is_given_up_is_taken(
    below: CountingStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, other = below.keep(PAYLOAD), below.keep(PAYLOAD)
    with cache_of(below, tmp_path) as first:
        read_all(first, key)
        second = CachedPayloads(below, tmp_path, 2**30)
        assert read_all(second, key) == PAYLOAD
        assert len(below.reads) == 1
        read_all(second, other)
        assert len(block_files(tmp_path)) == 1
        assert "is only read: other processes have all shares of it" in caplog.text
    wait_for(lambda: second._cache.is_ready)
    read_all(second, other)
    assert len(block_files(tmp_path)) == 2
    assert second.statistics.stored_blocks == 2
    second.close()


def test_fewer_processes_take_over_what_more_have_left(below: CountingStore, tmp_path: Path) -> None:
    keys = [below.keep(bytes([number]) * 100) for number in range(3)]
    caches = [CachedPayloads(below, tmp_path, 2**30, processes=3) for _ in range(3)]
    for cached, key in zip(caches, keys, strict=True):
        wait_for(lambda cached=cached: cached._cache.is_ready)  # type: ignore[misc]
        read_all(cached, key)
    assert len({file.parts[-3] for file in block_files(tmp_path)}) == 3
    for cached in caches:
        cached.close()
    below.reads.clear()
    with cache_of(below, tmp_path) as cached:
        for key in keys:
            read_all(cached, key)
        assert below.reads == []
        assert cached.statistics.stored_blocks == 3
        assert {file.parts[-3] for file in block_files(tmp_path)} == {"0"}


def test_two_processes_keep_the_limit_and_killing_one_leaves_nothing_behind(tmp_path: Path) -> None:
    limit = 3_000_000
    with reading_process(tmp_path, limit) as first, reading_process(tmp_path, limit) as second:
        end_s = time.monotonic() + 1.5
        largest = 0
        while time.monotonic() < end_s:
            largest = max(largest, stored_bytes(tmp_path))
        assert first.poll() is second.poll() is None
        first.kill()
        first.wait()
        with reading_process(tmp_path, limit) as third:
            time.sleep(0.3)
            largest = max(largest, stored_bytes(tmp_path))
            assert second.poll() is third.poll() is None
    # A sum of files that come and go may count one that has gone beside the one that came for it, and `new` is no block yet.
    assert limit / 2 < largest <= limit + 4 * 204_800
    with cache_of(CountingStore(), tmp_path, limit) as cached:
        assert not list(tmp_path.glob("*/new"))
        assert cached.statistics.stored_bytes <= limit
        assert cached.statistics.rotten == 0


@pytest.mark.parametrize("content", [b"", b"\xff" * 2048, b"short"], ids=["empty", "nonsense", "cut"])
def test_what_processes_say_of_their_room_may_be_damaged(below: CountingStore, tmp_path: Path, content: bytes) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, tmp_path, processes=2) as first, cache_of(below, tmp_path, processes=2) as second:
        (tmp_path / "used").write_bytes(content)

        def both_write() -> bool:
            read_all(first, key)
            return first.statistics.stored_blocks == 1

        wait_for(both_write)
        assert second.statistics.stored_blocks == 0
