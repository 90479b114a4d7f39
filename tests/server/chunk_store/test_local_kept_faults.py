"""The disk fails while payloads are kept and resumed: what was called durable is, and nothing stays that no sweep finds."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from contract.chunk_store_contract import content
from contract.chunk_store_kept import KEPT, kept_writer, parked
from contract.chunk_store_raw import RawFolder
from support.faults import FaultyFiles, open_descriptors
from tensorus_server.chunk_store.abc import PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.errors import EngineError, StorageFullError, StoreUnavailableError

KINDS = [
    pytest.param((errno.ENOSPC, StorageFullError), id="no space"),
    pytest.param((errno.EIO, StoreUnavailableError), id="broken disk"),
]
Kind = tuple[int, type[Exception]]

FIRST_KEEP = ["sync_data", "rename", "sync_folder"]
RESUME = ["open_to_write", "open_to_read", "cut"]


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def store(tmp_path: Path, files: FaultyFiles) -> Iterator[LocalChunkStore]:
    opened = LocalChunkStore(tmp_path, files=files)
    files.calls.clear()
    own = open_descriptors(tmp_path)
    yield opened
    files.heal()
    assert open_descriptors(tmp_path) == own
    # Whatever failed, the store takes payloads again, and everything left is where a sweep looks.
    (key,) = opened.publish([kept_writer(opened, new_payload_key()).finish()])
    assert content(opened, key, len(KEPT)) == KEPT
    sweep(opened)
    raw = RawFolder(tmp_path)
    assert (raw.kept(), raw.unfinished()) == ({}, 0)
    opened.close()


def sweep(store: LocalChunkStore) -> None:
    """Drop what no upload knows: here, everything."""
    for stored in store.kept():
        store.drop_kept(stored.key)


def crashed(tmp_path: Path, into: Path) -> LocalChunkStore:
    """Return the store as another process finds it after a crash."""
    shutil.copytree(tmp_path, into, ignore=shutil.ignore_patterns(into.name))
    return LocalChunkStore(into)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", FIRST_KEEP)
@pytest.mark.parametrize("then", ["append and finish", "keep", "park", "drop"])
def test_a_first_keep_that_fails_is_never_called_done(
    store: LocalChunkStore, raw: RawFolder, files: FaultyFiles, *, method: str, kind: Kind, then: str
) -> None:
    error_number, error = kind
    writer = store.begin(new_payload_key())
    writer.append([KEPT])
    files.fail(method, error_number)
    with pytest.raises(error, match="keep a payload"):
        writer.keep().result()
    if then in {"append and finish", "keep"}:
        # The failure may be found here as well as in the future, and ends the payload.
        with pytest.raises(error):
            writer.keep() if then == "keep" else writer.finish()
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
    elif then == "drop":
        writer.drop()
        assert (raw.kept(), raw.unfinished()) == ({}, 0)
    else:
        writer.park()
        assert raw.unfinished() == 0
        # Its name may be there, though not for sure: a sweep takes it, since no mark was saved.
        assert len(raw.kept()) == (method == "sync_folder")


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_kept_before_a_keep_that_fails_can_be_resumed(
    store: LocalChunkStore, files: FaultyFiles, kind: Kind
) -> None:
    error_number, error = kind
    payload_key = new_payload_key()
    writer = kept_writer(store, payload_key)
    writer.append([b"lost"])
    files.fail("sync_data", error_number)
    with pytest.raises(error, match="keep a payload"):
        writer.keep().result()
    writer.park()
    writer, reader = store.resume(payload_key, len(KEPT))
    with reader:
        assert reader.read(0, len(KEPT)) == KEPT
    writer.append([b"again"])
    (key,) = store.publish([writer.finish()])
    assert content(store, key, len(KEPT) + 5) == KEPT + b"again"


def test_nothing_is_synced_again_after_a_keep_has_failed(store: LocalChunkStore, files: FaultyFiles) -> None:
    payload_key = new_payload_key()
    writer = kept_writer(store, payload_key)
    writer.append([b"lost"])
    files.fail("sync_data", errno.EIO)
    failed = writer.keep()
    with pytest.raises(StoreUnavailableError):
        writer.finish()
    assert failed.exception() is not None
    assert files.methods(payload_key).count("sync_data") == 2
    with pytest.raises(PayloadMissingError):
        store.resume(payload_key, len(KEPT))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", RESUME)
def test_a_resume_that_fails_leaves_what_was_kept_for_the_next(
    store: LocalChunkStore, files: FaultyFiles, method: str, kind: Kind
) -> None:
    error_number, error = kind
    payload_key = parked(store)
    files.fail(method, error_number)
    with pytest.raises(error, match="resume a payload"):
        store.resume(payload_key, len(KEPT))
    writer, reader = store.resume(payload_key, len(KEPT))
    with reader:
        assert reader.read(0, len(KEPT)) == KEPT
    writer.park()


@pytest.mark.parametrize("method", ["write_all", "sync_data"])
def test_a_resumed_payload_that_fails_is_gone(
    store: LocalChunkStore, raw: RawFolder, files: FaultyFiles, method: str
) -> None:
    writer, reader = store.resume(parked(store), len(KEPT))
    reader.close()
    files.fail(method, errno.ENOSPC)

    def go_on() -> None:
        writer.append([b"more"])
        writer.finish()

    with pytest.raises(StorageFullError, match="write a payload"):
        go_on()
    assert raw.kept() == {}


def test_a_kept_payload_that_cannot_be_published_can_still_be_parked(
    store: LocalChunkStore, raw: RawFolder, files: FaultyFiles
) -> None:
    payload_key = new_payload_key()
    staged = kept_writer(store, payload_key).finish()
    files.fail("rename", errno.EIO)
    with pytest.raises(StoreUnavailableError, match="publish payloads"):
        store.publish([staged])
    assert raw.published() == {}
    store.park(staged)
    writer, reader = store.resume(payload_key, len(KEPT))
    reader.close()
    writer.drop()


def test_a_drop_that_fails_says_so_and_can_be_repeated(
    store: LocalChunkStore, raw: RawFolder, files: FaultyFiles
) -> None:
    payload_key = parked(store)
    files.fail("unlink", errno.EIO)
    with pytest.raises(StoreUnavailableError, match="could not drop a payload: Input/output error"):
        store.drop_kept(payload_key)
    assert list(raw.kept()) == [payload_key]
    store.drop_kept(payload_key)
    assert raw.kept() == {}


@pytest.mark.parametrize("calls", range(8))
def test_after_a_crash_at_any_call_what_was_called_kept_is_there(
    store: LocalChunkStore, files: FaultyFiles, tmp_path: Path, calls: int
) -> None:
    # Every call from some point on fails, which is all that a dead process does.
    durable = 0
    payload_key = new_payload_key()
    methods = ["create", "write_all", "sync_data", "rename", "sync_folder", "write_all", "sync_data", "write_all"]
    for method in {*methods, "unlink"}:
        files.fail(method, errno.EIO, skip=methods[:calls].count(method), times=None)
    with suppress(EngineError):
        writer = store.begin(payload_key)
        for _ in range(3):
            writer.append([KEPT])
            writer.keep().result()
            durable += len(KEPT)
    # Two parts, and a third of which nothing was synced.
    assert durable == len(KEPT) * ((calls >= 5) + (calls >= 7))
    found = crashed(tmp_path, tmp_path / "crashed")
    files.heal()
    if calls:
        writer.drop()
    for path in store._leases.own_folder.iterdir():
        path.unlink()
    if durable:
        resumed, reader = found.resume(payload_key, durable)
        with reader:
            assert reader.read(0, durable) == (KEPT * 3)[:durable]
        resumed.drop()
    sweep(found)
    found.sweep_unfinished()
    raw = RawFolder(tmp_path / "crashed")
    assert (raw.kept(), raw.unfinished()) == ({}, 0)
    found.close()
