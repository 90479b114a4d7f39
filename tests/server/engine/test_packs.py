"""The sweep of packs in an engine: what it frees, what it moves, and what it leaves alone; and recovery from packs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import random_bits
from support.engine import find, insert, pieces_of, read, set_aside_now
from support.packs import CatalogueLog
from support.seaweed import ACCESS_KEY, SECRET_KEY, shared_seaweed
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import packed_key
from tensorus_server.catalogue.sql.packs import SqlPackTable
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.objects.names import pack_name
from tensorus_server.chunk_store.objects.packs import pack_bytes
from tensorus_server.chunk_store.objects.store import ObjectChunkStore
from tensorus_server.engine.codec_pool import CodecPool
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.recover import Recovery, recover
from tensorus_server.engine.recovery_sources import ObjectSource
from tensorus_server.errors import StoreBusyError, StoreUnavailableError, TensorNotFoundError
from tensorus_server.model import Schema, Tensor
from tensorus_server.payload_keys import PACK_PREFIX

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")


class Store:
    """An engine on a catalogue in a folder, and on objects that outlive it."""

    def __init__(self, folder: Path, url: str, objects: Any = None) -> None:
        folder.mkdir(exist_ok=True)
        self.url = url
        self.catalogue = SqliteCatalogue(folder)
        self.chunks = ObjectChunkStore(url, writes=CatalogueLog(self.catalogue))
        self.chunks.client._opened()
        # `Any`: the library's store. Objects in memory belong to one client.
        client: Any = self.chunks.client
        client._store = objects or client._store
        self.objects = client._store
        self.engine = Engine(self.catalogue, self.chunks, CodecPool(2), sweeps=False)
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def beside(self, folder: Path) -> Store:
        """Return an engine on the same objects, with a catalogue in another folder."""
        return Store(folder, self.url, self.objects)

    def insert(self, *ids: str) -> list[Tensor]:
        """Insert tensors that are too large for a row, all in one pack."""
        if not self.catalogue.datasets.page(0, 1).datasets:
            self.catalogue.datasets.create("dataset", StoragePolicy(), Schema())
        stream_of: list[Tensor] = []
        for tensor_id in ids:
            self.arrays[tensor_id] = random_bits("uint8", (100_000,), seed=int.from_bytes(tensor_id.encode(), "big"))
            stream_of.append(insert(self.engine, "dataset", tensor_id, self.arrays[tensor_id]))
        return stream_of

    def delete(self, *ids: str) -> None:
        self.catalogue.tensors.delete("dataset", ids)
        for tensor_id in ids:
            del self.arrays[tensor_id]

    def pack(self, *ids: str) -> str:
        """Insert tensors, move them to one pack, and return its name."""
        rows = self.insert(*ids)
        keys = [row.locator.key for row in rows]
        new = self.chunks.packs.copy_to_new_pack(keys)
        self.catalogue.packs.repoint(list(zip(keys, new, strict=True)))
        self.engine.sweep(in_grace=True)
        return packed_key(new[0]).pack

    def stored(self) -> set[str]:
        return {found.pack for found in self.chunks.packs.packs()}

    def check(self) -> None:
        for tensor_id, array in self.arrays.items():
            np.testing.assert_array_equal(read(self.engine, "dataset", tensor_id), array)


@pytest.fixture(params=["memory", "SeaweedFS"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    opened = Store(tmp_path / "store", "memory://test" if request.param == "memory" else shared_seaweed().url())
    yield opened
    opened.engine.close()


def recovered(store: Store) -> Recovery:
    return recover(ObjectSource(store.chunks, store.chunks, store.chunks.packs), store.catalogue)


class TestSweep:
    """What is freed, and when."""

    def test_a_pack_that_is_mostly_garbage_is_emptied_and_its_object_deleted_after_the_grace(
        self, store: Store
    ) -> None:
        old = store.pack("a", "b", "c")
        other = store.pack("d", "e")
        store.delete("a", "c")
        store.catalogue.garbage.delete(store.catalogue.garbage.due(10, in_grace=True))
        swept = store.engine.sweep()
        assert (swept.emptied, swept.moved, swept.packs) == (1, 1, 0)
        assert 100_000 < swept.moved_bytes < 110_000
        assert packed_key(find(store.engine, "dataset", "b").locator.key).pack not in {old, other}
        assert {old, other} < store.stored()
        store.check()
        assert store.engine.sweep().packs == 0
        assert store.engine.sweep(in_grace=True).packs == 1
        assert old not in store.stored()
        assert other in store.stored()
        store.check()

    def test_one_that_is_mostly_needed_stays(self, store: Store) -> None:
        pack = store.pack("a", "b", "c")
        store.delete("a")
        swept = store.engine.sweep(in_grace=True)
        assert (swept.deleted, swept.emptied, swept.packs) == (1, 0, 0)
        assert pack in store.stored()

    def test_the_garbage_in_packs_is_told(self, store: Store) -> None:
        store.pack("a", "b", "c")
        assert store.engine.store_stats().garbage_bytes == 0
        size = find(store.engine, "dataset", "a").locator.length
        store.delete("a")
        stats = store.engine.store_stats()
        assert size < stats.garbage_bytes < size + 1000
        assert not stats.garbage_bytes_estimated
        store.engine.sweep(in_grace=True)
        assert size < store.engine.store_stats().garbage_bytes < size + 1000

    def test_several_are_emptied_into_one(self, store: Store) -> None:
        for number in range(3):
            store.pack(*(f"{number}{letter}" for letter in "abc"))
        for number in range(3):
            store.delete(f"{number}a", f"{number}b")
        swept = store.engine.sweep(in_grace=True)
        assert (swept.emptied, swept.moved, swept.packs) == (3, 3, 3)
        assert len(store.stored()) == 1
        store.check()

    def test_payloads_that_are_near_each_other_are_fetched_by_one_request(self, store: Store) -> None:
        store.pack(*"abcdefgh")
        store.delete(*"acdfh")
        before = store.chunks.client.requests.copy()
        assert store.engine.sweep(in_grace=True).moved == 3
        made = store.chunks.client.requests - before
        # One more for the directory.
        assert (made["get"], made["put"]) == (2, 1)
        store.check()

    def test_one_with_a_damaged_payload_stays_and_the_others_are_emptied(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        packs = [store.pack(*(f"{number}{letter}" for letter in "abc")) for number in range(3)]
        key = packed_key(find(store.engine, "dataset", "1a").locator.key)
        name = pack_name(packs[1])
        data = bytearray(store.chunks.client.get_all(name))
        data[key.offset + 1000] ^= 1
        store.chunks.client.put(name, bytes(data))
        store.delete(*(f"{number}{letter}" for number in range(3) for letter in "bc"))
        swept = store.engine.sweep(in_grace=True)
        assert (swept.emptied, swept.moved) == (2, 2)
        assert store.stored() & set(packs) == {packs[1]}
        assert f"pack {packs[1]} stays as it is" in caplog.text
        del store.arrays["1a"]
        store.check()

    def test_copies_that_cannot_be_committed_are_deleted_and_the_next_sweep_repeats_it(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.pack("a", "b", "c")
        store.delete("a", "b")
        before = store.stored()
        with monkeypatch.context() as patched:

            def busy(*_: object) -> list[str]:
                raise StoreBusyError("other writers keep the catalogue locked")

            patched.setattr(SqlPackTable, "repoint", busy)
            with pytest.raises(StoreBusyError):
                store.engine.sweep(in_grace=True)
        assert store.stored() == before
        assert store.engine.sweep(in_grace=True).emptied == 1
        store.check()

    def test_copies_whose_commit_has_an_unknown_outcome_stay_if_they_are_in_use(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.pack("a", "b", "c")
        store.delete("a", "b")
        repoint = SqlPackTable.repoint

        def lost(table: SqlPackTable, moves: Sequence[tuple[str, str]]) -> list[str]:
            repoint(table, moves)
            raise StoreUnavailableError("the connection was lost during the commit")

        with monkeypatch.context() as patched:
            patched.setattr(SqlPackTable, "repoint", lost)
            with pytest.raises(StoreUnavailableError):
                store.engine.sweep(in_grace=True)
        store.check()
        assert store.engine.sweep(in_grace=True).packs == 1
        assert len(store.stored()) == 1
        store.check()

    def test_a_read_that_began_before_the_move_goes_on_after_the_old_pack_is_gone(self, store: Store) -> None:
        store.pack("a", "b", "c")
        early = find(store.engine, "dataset", "b")
        store.delete("a", "c")
        assert store.engine.sweep(in_grace=True).packs == 1
        pieces = pieces_of(store.engine, early)
        assert b"".join(bytes(piece.data) for piece in pieces) == store.arrays["b"].tobytes()

    def test_a_read_of_a_snapshot_that_began_before_the_move_goes_on_too(self, store: Store) -> None:
        store.pack("a", "b", "c")
        array = store.arrays["b"].tobytes()
        store.delete("a", "c")
        store.catalogue.snapshots.create("dataset", "s")
        early = find(store.engine, "dataset", "b")
        store.delete("b")
        assert store.engine.sweep(in_grace=True).moved == 1
        assert b"".join(bytes(piece.data) for piece in pieces_of(store.engine, early)) == array
        store.catalogue.snapshots.drop("dataset", "s")
        assert store.engine.sweep(in_grace=True).packs == 1
        with pytest.raises(TensorNotFoundError, match="the tensor was deleted"):
            list(pieces_of(store.engine, early))


class TestListing:
    """Packs that the catalogue does not know."""

    def test_a_pack_that_no_row_names_goes_to_quarantine_and_others_stay(self, store: Store) -> None:
        known = store.pack("a", "b", "c")
        begun = store.chunks._packer.new_pack()
        retired = store.pack("d")
        store.delete("d")
        store.catalogue.garbage.delete(store.catalogue.garbage.due(10, in_grace=True))
        store.engine.sweep()
        stray = new_payload_key()
        for pack in (stray, begun):
            data, _ = pack_bytes(pack, [(new_payload_key(), b"x" * 100)])
            store.chunks.client.put(pack_name(pack), data)
        assert store.stored() == {known, begun, retired, stray}
        assert set_aside_now(store.engine) == 1
        assert store.stored() == {known, begun, retired}
        (entry,) = store.engine.quarantine.entries()
        assert entry.key == PACK_PREFIX + stray
        store.engine.quarantine.restore(entry)
        assert stray in store.stored()
        assert set_aside_now(store.engine) == 1
        assert store.engine.empty_quarantine() == 1
        names = {found.name for found in store.chunks.client.objects("p")}
        assert names == {pack_name(pack) for pack in (known, begun, retired)}
        store.check()


class TestRecovery:
    """Rows come back from the footers of payloads in packs."""

    def test_without_a_catalogue_all_packed_tensors_come_back(self, store: Store, tmp_path: Path) -> None:
        store.pack("a", "b", "c")
        store.insert("d")
        again = store.beside(tmp_path / "empty")
        again.arrays = store.arrays
        recovery = recovered(again)
        assert {finding.id: finding.outcome for finding in recovery.findings} == dict.fromkeys("abcd", "recovered")
        assert recovery.is_complete
        again.check()
        assert (recovered(again).findings, recovered(again).known) == ([], 4)
        assert again.engine.sweep(in_grace=True).packs == 0
        again.delete("a", "b")
        assert again.engine.sweep(in_grace=True).emptied == 1
        again.check()
        again.engine.close()

    def test_a_copy_of_a_payload_in_an_old_pack_is_no_second_tensor(self, store: Store, tmp_path: Path) -> None:
        old = store.pack("a", "b", "c")
        store.delete("b", "c")
        store.catalogue.garbage.delete(store.catalogue.garbage.due(10, in_grace=True))
        assert store.engine.sweep().emptied == 1
        again = store.beside(tmp_path / "empty")
        again.arrays = store.arrays
        outcomes = sorted((finding.id, finding.outcome) for finding in recovered(again).findings)
        # The deletions are lost with the catalogue.
        assert outcomes == [(letter, "recovered") for letter in "abc"]
        again.check()
        assert old in again.stored()
        again.engine.close()

    def test_rows_of_an_older_catalogue_find_payloads_that_were_moved_since(self, store: Store, tmp_path: Path) -> None:
        store.pack("a", "b", "c")
        arrays = store.arrays
        store.engine.close()
        shutil.copytree(tmp_path / "store", tmp_path / "older")
        store = store.beside(tmp_path / "store")
        store.arrays = dict(arrays)
        store.delete("b", "c")
        assert store.engine.sweep(in_grace=True).packs == 1
        store.engine.close()
        older = store.beside(tmp_path / "older")
        recovery = recovered(older)
        assert recovery.repaired == 1
        assert recovery.findings == []
        np.testing.assert_array_equal(read(older.engine, "dataset", "a"), arrays["a"])
        older.engine.close()

    def test_a_pack_with_a_payload_that_cannot_be_read_is_never_deleted(self, store: Store, tmp_path: Path) -> None:
        pack = store.pack("a", "b", "c")
        key = packed_key(find(store.engine, "dataset", "a").locator.key)
        name = pack_name(pack)
        data = bytearray(store.chunks.client.get_all(name))
        data[key.offset + key.length - 100] ^= 1
        store.chunks.client.put(name, bytes(data))
        again = store.beside(tmp_path / "empty")
        recovery = recovered(again)
        assert sorted((finding.id, finding.outcome) for finding in recovery.findings) == [
            ("", "failed"),
            ("b", "recovered"),
            ("c", "recovered"),
        ]
        again.arrays = {"b": store.arrays["b"], "c": store.arrays["c"]}
        again.check()
        again.delete("b", "c")
        again.engine.sweep(in_grace=True)
        again.engine.sweep(in_grace=True)
        assert pack in again.stored()
        again.engine.close()

    def test_a_pack_with_a_damaged_directory_is_reported(self, store: Store, tmp_path: Path) -> None:
        pack = store.pack("a", "b")
        data = bytearray(store.chunks.client.get_all(pack_name(pack)))
        data[-40] ^= 1
        store.chunks.client.put(pack_name(pack), bytes(data))
        again = store.beside(tmp_path / "empty")
        (finding,) = recovered(again).findings
        assert (finding.file, finding.outcome) == (f"pack {pack}", "failed")
        again.engine.sweep(in_grace=True)
        assert again.stored() == {pack}
        again.engine.close()
