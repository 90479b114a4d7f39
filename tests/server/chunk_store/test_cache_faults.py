"""Nothing that happens to the disk of a cache reaches a read."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from support.caches import BLOCKS, FILE_BYTES, PAYLOAD, CountingStore, block_files, cache_of, read_all
from support.faults import FaultyFiles
from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.chunk_store.cache import CachedPayloads
from tensorus_server.chunk_store.cache.block_files import BLOCK_BYTES
from tensorus_server.errors import StoreUnavailableError


def test_bytes_that_nobody_asked_for_may_be_unreadable(below: CountingStore, folder: Path) -> None:
    key = below.keep(PAYLOAD)
    with cache_of(below, folder) as cached, cached.open(key) as reader:
        real = below.below.open(key)
        below.below._published[key] = (PAYLOAD[: BLOCK_BYTES + 100], 0.0)  # type: ignore[attr-defined]
        real.close()
        with cached.open(key) as shorter:
            shorter._length = len(PAYLOAD)  # type: ignore[attr-defined]  # as its key says
            assert shorter.read(BLOCK_BYTES, 100) == PAYLOAD[BLOCK_BYTES : BLOCK_BYTES + 100]
            with pytest.raises(PayloadMissingError):
                shorter.read(BLOCK_BYTES, 101)
        assert reader.read(0, 10) == PAYLOAD[:10]


@pytest.mark.parametrize("method", ["open_to_read", "read_into", "create", "write_all", "rename", "unlink"])
@pytest.mark.parametrize("error_number", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS])
def test_no_error_of_the_disk_reaches_a_read(
    below: CountingStore, folder: Path, method: str, error_number: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = FaultyFiles()
    keys = [below.keep(PAYLOAD[: number * 100_000 + 1]) for number in range(6)]
    with cache_of(below, folder, 3 * FILE_BYTES, files=files) as cached:
        read_all(cached, keys[0])
        files.fail(method, error_number, times=None)
        for _ in range(3):
            for number, key in enumerate(keys):
                assert read_all(cached, key) == PAYLOAD[: number * 100_000 + 1]
            cached._cache._paused_until_s = 0.0
        cached.delete(keys[5])
        files.heal()
        cached._cache._paused_until_s = 0.0
        below.reads.clear()
        assert read_all(cached, keys[0]) == read_all(cached, keys[0]) == PAYLOAD[:1]
        assert len(below.reads) <= 1
        assert cached.statistics.stored_bytes <= 3 * FILE_BYTES
        assert cached.statistics.faults > 0
    messages = [record.getMessage() for record in caplog.records if "could not" in record.getMessage()]
    assert 1 <= len(messages) <= 3, messages
    assert len(set(messages)) == len(messages)


def test_a_lack_of_descriptors_costs_no_block(below: CountingStore, folder: Path) -> None:
    files = FaultyFiles()
    key = below.keep(PAYLOAD)
    with cache_of(below, folder, files=files) as cached:
        read_all(cached, key)
        files.fail("open_to_read", errno.EMFILE, times=None)
        assert read_all(cached, key) == PAYLOAD
        files.heal()
        below.reads.clear()
        assert read_all(cached, key) == PAYLOAD
        assert below.reads == []


def test_after_a_refusal_the_disk_is_left_alone_for_a_while(below: CountingStore, folder: Path) -> None:
    files = FaultyFiles()
    with cache_of(below, folder, files=files) as cached:
        files.fail("create", errno.EIO, times=None)
        for _ in range(5):
            read_all(cached, below.keep(b"x"))
        assert [method for method, _ in files.calls].count("create") == 1


def test_a_full_disk_is_given_room_back(tmp_path: Path, below: CountingStore) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        keys = [below.keep(PAYLOAD) for _ in range(6)]
        with cache_of(below, disk / "cache") as cached:
            for _ in range(3):
                for key in keys:
                    assert read_all(cached, key) == PAYLOAD
                cached._cache._paused_until_s = 0.0
            assert cached.statistics.faults > 0
            assert cached.statistics.evictions > 0
            below.reads.clear()
            cached._cache._paused_until_s = 0.0
            assert read_all(cached, keys[0]) == read_all(cached, keys[0]) == PAYLOAD
            assert len(below.reads) <= 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("removed", ["the cache", "the share", "the blocks"])
def test_a_folder_that_is_removed_stops_no_read(below: CountingStore, folder: Path, removed: str) -> None:
    key, other = below.keep(PAYLOAD), below.keep(b"other")
    with cache_of(below, folder) as cached:
        read_all(cached, key)
        for found in {"the cache": [folder], "the share": [folder / "0"], "the blocks": list(folder.glob("0/*"))}[
            removed
        ]:
            shutil.rmtree(found)
        for _ in range(2):
            assert read_all(cached, key) == PAYLOAD
            assert read_all(cached, other) == b"other"
        assert cached.statistics.stored_blocks == len(block_files(folder))
        if removed == "the cache":
            # It may be where a disk was mounted.
            assert not folder.exists()
        else:
            assert len(block_files(folder)) == BLOCKS + 1


def test_nobody_else_can_read_the_files(below: CountingStore, folder: Path) -> None:
    before = os.umask(0)
    try:
        with cache_of(below, folder) as cached:
            read_all(cached, below.keep(PAYLOAD))
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert len(modes) > BLOCKS
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


def test_a_folder_that_cannot_be_used_is_refused_at_once(tmp_path: Path, below: CountingStore) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError, match=r"could not use the cache's folder .*file"):
        CachedPayloads(below, tmp_path / "file" / "cache", 2**30)
