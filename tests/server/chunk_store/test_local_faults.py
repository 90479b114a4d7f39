"""The disk fails, at every call in turn: the right error, no file, no descriptor, and a store that goes on."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.chunk_store_contract import content, published, staged
from contract.chunk_store_raw import RawFolder
from support.faults import FaultyFiles, open_descriptors
from tensorus_server.chunk_store import local
from tensorus_server.chunk_store.abc import ChunkStore, new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.errors import StorageFullError, StoreUnavailableError


class Failure(NamedTuple):
    """What the system says, and what the store makes of it."""

    error_number: int
    error: type[Exception]
    message: str


FAILURES = [
    pytest.param(Failure(errno.ENOSPC, StorageFullError, "no space is left on the disk to"), id="no space"),
    pytest.param(Failure(errno.EDQUOT, StorageFullError, "no space is left on the disk to"), id="over quota"),
    pytest.param(Failure(errno.EIO, StoreUnavailableError, "could not"), id="broken disk"),
    pytest.param(Failure(errno.EROFS, StoreUnavailableError, "could not"), id="read-only"),
]


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def store(tmp_path: Path, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalChunkStore]:
    monkeypatch.setattr(local, "SYNC_EVERY_BYTES", 100)
    opened = LocalChunkStore(tmp_path, files=files)
    files.calls.clear()
    yield opened
    files.heal()
    # Whatever failed, the store takes payloads again.
    assert content(opened, published(opened, b"after"), 5) == b"after"
    opened.close()
    assert open_descriptors(tmp_path) == []


def write(store: ChunkStore) -> str:
    """Write a payload in five pieces, two of which reach a sync, and return its key."""
    writer = store.begin(new_payload_key())
    for _ in range(5):
        writer.append([bytes(50)])
    (key,) = store.publish([writer.finish()])
    return key


def calls_of_a_write(tmp_path: Path) -> dict[str, int]:
    """Return how often a payload that is written calls each method."""
    files = FaultyFiles()
    folder = tmp_path / "counted"
    folder.mkdir()
    store = LocalChunkStore(folder, files=files)
    files.calls.clear()
    write(store)
    store.close()
    methods = [method for method, _ in files.calls]
    return {method: methods.count(method) for method in dict.fromkeys(methods)}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_of_any_call_fails_the_payload_and_leaves_nothing_under_way(
    store: LocalChunkStore, files: FaultyFiles, tmp_path: Path, failure: Failure
) -> None:
    calls = calls_of_a_write(tmp_path)
    assert calls == {"create": 1, "write_all": 5, "sync_data": 3, "rename": 1, "sync_folder": 1}
    own = open_descriptors(tmp_path)
    raw = RawFolder(tmp_path)
    what = {"create": "begin a payload", "rename": "publish payloads", "sync_folder": "publish payloads"}
    for method, times in calls.items():
        for skip in range(times):
            files.fail(method, failure.error_number, skip=skip)
            with pytest.raises(failure.error, match=f"{failure.message} {what.get(method, 'write a payload')}"):
                write(store)
            assert open_descriptors(tmp_path) == own
            # What was finished and not published waits for `drop`; everything else is gone already.
            assert raw.unfinished() == (1 if method == "rename" else 0)
            for path in store._leases.own_folder.iterdir():
                path.unlink()


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_nothing_is_synced_again_after_a_sync_has_failed(
    store: LocalChunkStore, files: FaultyFiles, failing: int
) -> None:
    # Linux reports a loss once, and then calls the lost pages clean: a second sync would succeed and lie.
    files.fail("sync_data", errno.EIO, skip=failing)
    with pytest.raises(StoreUnavailableError):
        write(store)
    assert [method for method, _ in files.calls].count("sync_data") == failing + 1


def test_a_failed_sync_in_the_background_is_reported_by_finish(store: LocalChunkStore, files: FaultyFiles) -> None:
    files.fail("sync_data", errno.EIO)
    writer = store.begin(new_payload_key())
    writer.append([bytes(100)])
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        writer.finish()


def test_a_failed_sync_in_the_background_is_reported_by_the_next_one(
    store: LocalChunkStore, files: FaultyFiles
) -> None:
    files.fail("sync_data", errno.EIO)
    writer = store.begin(new_payload_key())
    writer.append([bytes(100)])
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        writer.append([bytes(100)])


def test_a_payload_that_failed_takes_no_more(store: LocalChunkStore, files: FaultyFiles) -> None:
    files.fail("write_all", errno.EIO)
    writer = store.begin(new_payload_key())
    with pytest.raises(StoreUnavailableError):
        writer.append([b"x"])
    with pytest.raises(ValueError, match="finished, parked or dropped"):
        writer.finish()
    writer.drop()


def test_the_file_of_a_failed_payload_that_cannot_be_removed_is_left_to_the_sweep(
    store: LocalChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    files.fail("write_all", errno.ENOSPC)
    files.fail("unlink", errno.EIO)
    writer = store.begin(new_payload_key())
    with pytest.raises(StorageFullError):
        writer.append([b"x"])
    assert RawFolder(tmp_path).unfinished() == 1


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_rename_that_fails_publishes_none_of_the_group(
    store: LocalChunkStore, files: FaultyFiles, tmp_path: Path, failing: int
) -> None:
    group = [staged(store, b"payload %d" % number) for number in range(3)]
    files.calls.clear()
    files.fail("rename", errno.EIO, skip=failing)
    with pytest.raises(StoreUnavailableError, match="could not publish payloads"):
        store.publish(group)
    # No sync that would make a part of the group durable on purpose; what was renamed is unknown, and so swept.
    assert [method for method, _ in files.calls] == ["rename"] * (failing + 1)
    assert len(list(store.published())) == failing
    for payload in group:
        store.drop(payload)
    assert RawFolder(tmp_path).unfinished() == 0


def test_a_deletion_that_fails_says_so_and_can_be_repeated(
    store: LocalChunkStore, files: FaultyFiles, tmp_path: Path
) -> None:
    key = published(store, b"x")
    files.fail("unlink", errno.EIO)
    with pytest.raises(StoreUnavailableError, match="could not delete a payload: Input/output error"):
        store.delete(key)
    assert key in RawFolder(tmp_path).published()
    store.delete(key)
    assert key not in RawFolder(tmp_path).published()


def test_a_new_store_whose_folders_cannot_be_synced_does_not_open(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail("sync_folder", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        LocalChunkStore(tmp_path, files=files)
    assert open_descriptors(tmp_path) == []
