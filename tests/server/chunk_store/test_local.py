"""The chunk store on files keeps the contract, and what only files do: syncs in order, a reserve, other processes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from contract.chunk_store_contract import ChunkStoreContract, SingleHostContract, content, published, staged
from contract.chunk_store_identity import IdentityHolderContract
from contract.chunk_store_kept import KEPT, KeptPayloadContract, kept_writer, parked
from contract.chunk_store_leases import LeasesContract
from contract.chunk_store_listing import PayloadListingContract, QuarantineContract
from contract.chunk_store_payloads import PayloadStoreContract
from contract.chunk_store_raw import RawFolder
from contract.chunk_store_staging import StagingContract
from support.faults import RecordingFiles, open_descriptors
from tensorus_server.chunk_store import local
from tensorus_server.chunk_store.abc import Leases, PayloadBusyError, new_payload_key
from tensorus_server.chunk_store.files import Files
from tensorus_server.chunk_store.local import LocalChunkStore


@pytest.fixture
def leases(store: LocalChunkStore) -> Leases:
    return store.leases


class TestLocalPayloads(PayloadStoreContract):
    """The contract; what only files do stands below."""


class TestLocalStaging(StagingContract):
    """Likewise."""


class TestLocalKept(KeptPayloadContract):
    """Likewise."""


class TestLocalLeases(LeasesContract):
    """Likewise; `test_local_processes.py` has several processes."""


class TestLocalListing(PayloadListingContract):
    """Likewise."""


class TestLocalQuarantine(QuarantineContract):
    """Likewise."""


class TestLocalIdentity(IdentityHolderContract):
    """Likewise."""


class TestLocalChunkStore(ChunkStoreContract, SingleHostContract):
    """Likewise."""


def test_folders_and_files_belong_to_their_owner_alone(store: LocalChunkStore, tmp_path: Path) -> None:
    key = published(store, b"x")
    folders = [tmp_path / "tmp", store._leases.own_folder, tmp_path / "chunks", tmp_path / "chunks" / "00"]
    assert {oct(folder.stat().st_mode & 0o777) for folder in folders} == {oct(0o700)}
    assert oct((tmp_path / "chunks" / key).stat().st_mode & 0o777) == oct(0o600)


def test_a_payload_is_synced_renamed_and_then_its_folder_is_synced(
    store: LocalChunkStore, files: RecordingFiles
) -> None:
    payload = staged(store, b"bytes")
    name = payload.payload_key
    (key,) = store.publish([payload])
    assert files.calls == [
        ("create", name),
        ("write_all", name),
        ("sync_data", name),
        ("rename", name),
        ("sync_folder", key.partition("/")[0]),
    ]


def test_finish_syncs_what_was_appended_last(store: LocalChunkStore, files: RecordingFiles) -> None:
    writer = store.begin(new_payload_key())
    writer.append([b"a"])
    writer.append([b"b"])
    payload = writer.finish()
    assert files.methods(payload.payload_key) == ["create", "write_all", "write_all", "sync_data"]


def test_a_group_costs_one_sync_of_one_folder(store: LocalChunkStore, files: RecordingFiles) -> None:
    group = [staged(store, b"x") for _ in range(10)]
    files.calls.clear()
    keys = store.publish(group)
    shards = {key.partition("/")[0] for key in keys}
    assert len(shards) == 1
    # The folder last: a name that comes after the sync would not be durable.
    assert [method for method, _ in files.calls] == ["rename"] * 10 + ["sync_folder"]


def test_publishing_nothing_touches_no_file(store: LocalChunkStore, files: RecordingFiles) -> None:
    store.publish([])
    assert files.calls == []


def test_a_growing_payload_is_synced_now_and_then(
    store: LocalChunkStore, files: RecordingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SYNC_EVERY_BYTES", 100)
    writer = store.begin(new_payload_key())
    for _ in range(10):
        writer.append([bytes(30)])
    payload = writer.finish()
    # Three after 120 bytes each, of which the last one's bytes wait, and the one of the end.
    assert files.methods(payload.payload_key).count("sync_data") == 3
    assert files.methods(payload.payload_key)[-1] == "sync_data"


@pytest.mark.parametrize(("appended", "syncs"), [(99, 1), (100, 2), (101, 2), (199, 2)])
def test_the_sync_comes_as_soon_as_enough_bytes_wait(
    store: LocalChunkStore, files: RecordingFiles, monkeypatch: pytest.MonkeyPatch, appended: int, syncs: int
) -> None:
    monkeypatch.setattr(local, "SYNC_EVERY_BYTES", 100)
    writer = store.begin(new_payload_key())
    writer.append([bytes(appended)])
    assert files.methods(writer.finish().payload_key).count("sync_data") == syncs


def test_a_dropped_payload_waits_for_its_sync_and_closes_its_file(
    store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "SYNC_EVERY_BYTES", 1)
    writer = store.begin(new_payload_key())
    writer.append([bytes(1000)])
    writer.drop()
    assert open_descriptors(tmp_path / "tmp" / store._leases.own_folder.name) == []


def test_a_payload_that_has_ended_takes_no_more(store: LocalChunkStore) -> None:
    finished, dropped = store.begin(new_payload_key()), store.begin(new_payload_key())
    finished.finish()
    dropped.drop()
    for writer in (finished, dropped):
        with pytest.raises(ValueError, match="finished, parked or dropped"):
            writer.append([b"x"])
        with pytest.raises(ValueError, match="finished, parked or dropped"):
            writer.finish()


def test_a_closed_reader_reads_no_other_file(store: LocalChunkStore) -> None:
    reader = store.open(published(store, b"x"))
    reader.close()
    # Its descriptor's number may be another file's by now.
    with pytest.raises(ValueError, match="closed"):
        reader.read(0, 1)


def test_descriptors_are_closed_when_their_work_is_done(store: LocalChunkStore, tmp_path: Path) -> None:
    own = open_descriptors(tmp_path)
    key = published(store, b"x")
    content(store, key, 1)
    assert open_descriptors(tmp_path) == own


def test_short_writes_are_continued(store: LocalChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = local.os.writev

    def write_a_little(descriptor: int, buffers: list[memoryview]) -> int:
        return write(descriptor, [buffers[0][:7]])

    monkeypatch.setattr("tensorus_server.chunk_store.files.os.writev", write_a_little)
    buffers = [bytes([number]) * (number % 23) for number in range(60)]
    payload = staged(store, *buffers)
    assert payload.length == sum(map(len, buffers))
    (key,) = store.publish([payload])
    assert content(store, key, payload.length) == b"".join(buffers)


def test_a_write_that_ends_within_a_later_buffer_is_continued_there(
    store: LocalChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = local.os.writev

    def write_two_and_a_half(descriptor: int, buffers: list[memoryview]) -> int:
        return write(descriptor, [*buffers[:2], *(view[: view.nbytes // 2] for view in buffers[2:3])])

    monkeypatch.setattr("tensorus_server.chunk_store.files.os.writev", write_two_and_a_half)
    buffers = [bytes(range(number, number + 9)) for number in range(40)]
    payload = staged(store, *buffers)
    (key,) = store.publish([payload])
    assert content(store, key, payload.length) == b"".join(buffers)


def test_short_reads_are_continued(store: LocalChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = published(store, bytes(range(256)))
    read = local.os.pread
    monkeypatch.setattr(
        "tensorus_server.chunk_store.files.os.pread",
        lambda descriptor, length, offset: read(descriptor, min(length, 7), offset),
    )
    assert content(store, key, 256) == bytes(range(256))


def test_files_read_fewer_bytes_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    files = Files()
    descriptor = files.open_to_read(path)
    try:
        assert [files.read(descriptor, 8, 5), files.read(descriptor, 10, 5), files.read(descriptor, 20, 5)] == [
            b"89",
            b"",
            b"",
        ]
    finally:
        os.close(descriptor)


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"there")
    with pytest.raises(FileExistsError):
        Files().create(path)
    assert path.read_bytes() == b"there"


def test_a_store_whose_folders_cannot_be_made_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "tmp").write_bytes(b"a file, where a folder should be")
    with pytest.raises(OSError, match=r"File exists|Not a directory") as caught:
        LocalChunkStore(tmp_path)
    assert caught.value.errno in {errno.EEXIST, errno.ENOTDIR}


def test_the_first_keep_makes_bytes_and_then_the_name_durable_and_later_ones_bytes(
    store: LocalChunkStore, files: RecordingFiles
) -> None:
    payload_key = new_payload_key()
    writer = kept_writer(store, payload_key)
    writer.append([b"more"])
    writer.keep().result()
    assert files.calls == [
        ("create", payload_key),
        ("write_all", payload_key),
        ("sync_data", payload_key),
        ("rename", payload_key),
        ("sync_folder", "uploads"),
        ("write_all", payload_key),
        ("sync_data", payload_key),
    ]
    writer.drop()


def test_a_kept_payload_is_there_for_another_process_once_its_own_is_dead(
    store: LocalChunkStore, tmp_path: Path
) -> None:
    payload_key = new_payload_key()
    writer = kept_writer(store, payload_key)
    other = LocalChunkStore(tmp_path)
    with pytest.raises(PayloadBusyError):
        other.resume(payload_key, len(KEPT))
    # What a kill does: the locks go with their descriptor, and nothing else happens.
    store._leases._locks.close()
    resumed, reader = other.resume(payload_key, len(KEPT))
    reader.close()
    third = LocalChunkStore(tmp_path)
    with pytest.raises(PayloadBusyError):
        third.drop_kept(payload_key)
    third.close()
    resumed.append([b"!"])
    (key,) = other.publish([resumed.finish()])
    assert content(store, key, len(KEPT) + 1) == KEPT + b"!"
    other.close()
    writer.park()


def test_what_is_kept_outlives_its_store(store: LocalChunkStore, tmp_path: Path) -> None:
    other = LocalChunkStore(tmp_path)
    payload_key = parked(other)
    other.close()
    assert [stored.key for stored in store.kept()] == [payload_key]


def test_a_payload_that_is_being_resumed_cannot_be_dropped(store: LocalChunkStore, tmp_path: Path) -> None:
    payload_key = parked(store)
    other = LocalChunkStore(tmp_path)
    open_to_write = store._files.open_to_write

    def drop_first(path: Path) -> int:
        with pytest.raises(PayloadBusyError):
            other.drop_kept(payload_key)
        return open_to_write(path)

    store._files.open_to_write = drop_first  # type: ignore[method-assign]
    writer, reader = store.resume(payload_key, len(KEPT))
    reader.close()
    writer.park()
    other.close()


def test_finished_payloads_that_were_kept_hold_no_descriptor(store: LocalChunkStore, tmp_path: Path) -> None:
    before = len(open_descriptors(tmp_path))
    staged = [kept_writer(store, new_payload_key()).finish() for _ in range(20)]
    assert len(open_descriptors(tmp_path)) == before
    other = LocalChunkStore(tmp_path)
    for payload in staged:
        with pytest.raises(PayloadBusyError):
            other.resume(payload.payload_key, len(KEPT))
        store.drop(payload)
    other.close()


def test_a_quarantine_that_an_older_store_lacks_is_made_durably(tmp_path: Path, files: RecordingFiles) -> None:
    LocalChunkStore(tmp_path).close()
    (tmp_path / "quarantine").rmdir()
    LocalChunkStore(tmp_path, files=files).close()
    assert ("sync_folder", tmp_path.name) in files.calls


def test_a_payload_is_in_quarantine_durably_before_its_old_name_is_gone_for_good(
    store: LocalChunkStore, files: RecordingFiles
) -> None:
    key = published(store, b"x")
    files.calls.clear()
    store.quarantine.put(key, until_s=2e9)
    shard, _, name = key.partition("/")
    assert files.calls == [
        ("rename", name),
        ("sync_folder", "quarantine"),
        ("sync_folder", shard),
    ]


def test_a_file_in_quarantine_that_is_not_ours_stays(store: LocalChunkStore, tmp_path: Path) -> None:
    (tmp_path / "quarantine" / "notes.txt").write_bytes(b"")
    assert store.quarantine.entries() == []


@pytest.mark.parametrize("length", [10, 4, 0])
def test_a_kept_file_is_cut_where_it_is_resumed(store: LocalChunkStore, raw: RawFolder, length: int) -> None:
    payload_key = parked(store)
    writer, reader = store.resume(payload_key, length)
    reader.close()
    assert raw.kept() == {payload_key: KEPT[:length]}
    writer.drop()
