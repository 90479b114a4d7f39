"""Payloads that no row knows go to quarantine, and only where nothing speaks against it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import apsw
import pytest

from contract.chunk_store_contract import staged
from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.engine import commit, create, engine_on, insert, read, set_aside_now, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue import sqlite
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.sql import garbage
from tensorus_server.catalogue.sql.garbage import SqlGarbageTable
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.chunk_store.local_quarantine import LocalQuarantine
from tensorus_server.engine import orphans as orphans_module
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.orphans import Listing, empty_quarantine, quarantine_all_orphans, quarantine_orphans
from tensorus_server.errors import DataCorruptError, EngineError, LimitExceededError
from tensorus_server.model import Tensor

pytestmark = pytest.mark.slow

AGE_S = 1000.0
QUARANTINE_S = 500.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalChunkStore]:
    opened = LocalChunkStore(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[SqliteCatalogue]:
    opened = SqliteCatalogue(tmp_path)
    create(opened)
    yield opened
    opened.close()


def planted(tmp_path: Path, age_s: float = 2 * AGE_S) -> str:
    """Return the key of a payload that was published so long ago, and that no row has."""
    key = f"02/{new_payload_key()}"
    RawFolder(tmp_path).plant(key, b"payload")
    published_s = time.time() - age_s
    os.utime(tmp_path / "chunks" / key, (published_s, published_s))
    return key


def known(catalogue: SqliteCatalogue, tmp_path: Path, *names: str) -> list[str]:
    """Return the keys of the payloads of tensors."""
    keys = [planted(tmp_path) for _ in names]
    dataset = catalogue.datasets.get("dataset")
    commit(catalogue, *(stored_tensor(dataset, name, key=key) for name, key in zip(names, keys, strict=True)))
    return keys


def run(
    catalogue: SqliteCatalogue, store: LocalChunkStore, uncommitted: Callable[[], frozenset[str]] = frozenset
) -> Listing:
    return quarantine_orphans(
        catalogue, store, store.quarantine, older_than_s=AGE_S, quarantine_s=QUARANTINE_S, uncommitted=uncommitted
    )


def test_an_old_payload_that_no_row_has_is_moved_and_deleted_after_its_time(
    catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays, orphan = *known(catalogue, tmp_path, "t"), planted(tmp_path)
    began_s = time.time()
    assert run(catalogue, store) == Listing(listed=2, moved=1, deleted=0)
    assert list(RawFolder(tmp_path).published()) == [stays]
    (entry,) = store.quarantine.entries()
    assert (entry.key, entry.stored_bytes) == (orphan, len(b"payload"))
    assert began_s + QUARANTINE_S - 1 <= entry.until_s <= time.time() + QUARANTINE_S
    assert run(catalogue, store) == Listing(listed=1, moved=0, deleted=0)
    monkeypatch.setattr(orphans_module.time, "time", lambda: began_s + QUARANTINE_S + 60)
    assert run(catalogue, store).deleted == 1
    assert store.quarantine.entries() == []


@pytest.mark.parametrize("age_s", [-60.0, 0.0, AGE_S - 60])
def test_a_young_payload_stays(
    catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, age_s: float
) -> None:
    planted(tmp_path, age_s)
    assert run(catalogue, store) == Listing(listed=1, moved=0, deleted=0)


def test_a_payload_counts_as_published_when_it_is_published(
    catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path
) -> None:
    # Of an insert of all or nothing: written long ago, and published only when the last of its tensors is there.
    other = LocalChunkStore(tmp_path)
    payload = staged(other, b"written long ago")
    os.utime(other._leases.own_folder / payload.payload_key, (1.0, 1.0))
    (key,) = other.publish([payload])
    assert run(catalogue, store).moved == 0
    assert key in RawFolder(tmp_path).published()
    other.close()


def test_a_payload_that_is_about_to_be_committed_stays(
    catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path
) -> None:
    key = planted(tmp_path)
    assert run(catalogue, store, lambda: frozenset([key.partition("/")[2]])).moved == 0
    assert run(catalogue, store).moved == 1


def test_payloads_whose_deletion_waits_stay(catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path) -> None:
    known(catalogue, tmp_path, "t")
    catalogue.tensors.delete("dataset", ["t"])
    assert run(catalogue, store) == Listing(listed=1, moved=0, deleted=0)


class Case(NamedTuple):
    """How many payloads belong to tensors, how many to nothing, and the limit that is named; None: they are moved."""

    tensors: int
    orphans: int
    limit: int | None


LIMITS = [
    pytest.param(Case(0, 10, None), id="ten of ten"),
    pytest.param(Case(0, 11, 5), id="eleven of eleven"),
    pytest.param(Case(11, 11, None), id="half of them"),
    pytest.param(Case(10, 11, 10), id="more than half of them"),
    pytest.param(Case(150, 100, None), id="a hundred"),
    pytest.param(Case(150, 101, 100), id="more than a hundred"),
]


class TestLimit:
    """Many unknown payloads mean that rows are missing, not that there is much garbage."""

    @pytest.mark.parametrize("case", LIMITS)
    def test_more_than_a_crash_leaves_are_not_moved(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, case: Case
    ) -> None:
        known(catalogue, tmp_path, *(f"{number}" for number in range(case.tensors)))
        for _ in range(case.orphans):
            planted(tmp_path)
        if case.limit is None:
            assert run(catalogue, store).moved == case.orphans
            return
        listed = case.tensors + case.orphans
        message = f"does not know {case.orphans} of {listed} payloads, limit is {case.limit} .*nothing was moved"
        with pytest.raises(LimitExceededError, match=message):
            run(catalogue, store)
        assert len(RawFolder(tmp_path).published()) == listed
        assert store.quarantine.entries() == []

    def test_whoever_accepts_the_loss_moves_all_of_them(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(orphans_module, "_BATCH", 50)
        (stays,) = known(catalogue, tmp_path, "t")
        for _ in range(201):
            planted(tmp_path, age_s=10.0)
        assert quarantine_all_orphans(catalogue, store, store.quarantine, quarantine_s=QUARANTINE_S) == Listing(
            listed=202, moved=201, deleted=0
        )
        assert list(RawFolder(tmp_path).published()) == [stays]
        assert empty_quarantine(store.quarantine) == 0
        assert empty_quarantine(store.quarantine, at_once=True) == 201


def flip_in_file(path: Path, old: bytes, *, page: int) -> None:
    """Flip one bit of every occurrence of `old` in one page of a database."""
    content = bytearray(path.read_bytes())
    begin, found = page * 4096, 0
    while (at := content.find(old, begin, (page + 1) * 4096)) >= 0:
        content[at + len(old) - 1] ^= 1
        begin, found = at + 1, found + 1
    assert found
    path.write_bytes(content)


def pages_of(path: Path, name: str) -> list[int]:
    """Return the leaf pages of a table or index, from 0. Only where it is one page, or its children are leaves."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchall()
    connection.close()
    return [root - 1]


def no_index_check(_: object) -> SimpleNamespace:
    """Stand in for the check at an opening."""
    return SimpleNamespace(close=lambda _: None)


class TestDamage:
    """Damage to the catalogue must not make a payload garbage whose row is there."""

    @pytest.fixture
    def damaged(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Callable[[str], tuple[SqliteCatalogue, str]]]:
        """Return what flips a bit of a tensor's key in a table or index, and opens the catalogue again."""
        opened: list[SqliteCatalogue] = []
        # The check of the indexes at the opening would mend what a listing has to cope with while it goes on.
        monkeypatch.setattr(sqlite, "IndexCheck", no_index_check)
        LocalChunkStore(tmp_path).close()

        def damage(where: str) -> tuple[SqliteCatalogue, str]:
            catalogue = SqliteCatalogue(tmp_path)
            create(catalogue)
            (key,) = known(catalogue, tmp_path, "t")
            catalogue.close()
            path = tmp_path / "catalogue.db"
            (page,) = pages_of(path, where)
            flip_in_file(path, key.encode(), page=page)
            opened.append(SqliteCatalogue(tmp_path))
            return opened[0], key

        yield damage
        for catalogue in opened:
            catalogue.close()

    def test_a_flipped_bit_in_the_index_of_keys_costs_no_payload(
        self, damaged: Callable[[str], tuple[SqliteCatalogue, str]], store: LocalChunkStore, tmp_path: Path
    ) -> None:
        catalogue, key = damaged("tensor_key")
        # The index says that nobody has it; the row says who.
        assert catalogue.garbage.orphans([key]) == {key}
        assert run(catalogue, store) == Listing(listed=1, moved=0, deleted=0)
        assert list(RawFolder(tmp_path).published()) == [key]

    def test_a_flipped_bit_in_the_key_of_a_row_costs_no_payload(
        self, damaged: Callable[[str], tuple[SqliteCatalogue, str]], store: LocalChunkStore, tmp_path: Path
    ) -> None:
        catalogue, key = damaged("tensor")
        with pytest.raises(DataCorruptError):
            run(catalogue, store)
        assert list(RawFolder(tmp_path).published()) == [key]

    def test_while_anything_is_damaged_nothing_is_moved(
        self, damaged: Callable[[str], tuple[SqliteCatalogue, str]], store: LocalChunkStore, tmp_path: Path
    ) -> None:
        catalogue, key = damaged("tensor_key")
        orphan = planted(tmp_path)
        with pytest.raises(DataCorruptError, match="the table tensor of the catalogue is damaged"):
            run(catalogue, store)
        assert set(RawFolder(tmp_path).published()) == {key, orphan}

    @pytest.mark.parametrize("every_bytes", [1021, pytest.param(211, marks=pytest.mark.long)])
    def test_no_flipped_byte_of_the_catalogue_costs_a_payload(
        self, store: LocalChunkStore, tmp_path: Path, every_bytes: int
    ) -> None:
        catalogue = SqliteCatalogue(tmp_path)
        create(catalogue)
        keys = set(known(catalogue, tmp_path, *(f"{number}" for number in range(40))))
        catalogue.close()
        path = tmp_path / "catalogue.db"
        intact = path.read_bytes()
        survived = 0
        for offset in range(100, len(intact), every_bytes):
            damaged = bytearray(intact)
            damaged[offset] ^= 1 << offset % 8
            path.write_bytes(damaged)
            for name in ("catalogue.db-wal", "catalogue.db-shm"):
                (tmp_path / name).unlink(missing_ok=True)
            try:
                opened = SqliteCatalogue(tmp_path)
            except (EngineError, apsw.Error):
                continue
            try:
                run(opened, store)
                survived += 1
            except (EngineError, apsw.Error):
                pass
            finally:
                opened.close()
            assert set(RawFolder(tmp_path).published()) == keys, f"byte {offset}"
        assert survived > len(intact) // every_bytes // 10


class TestEngine:
    """The engine lists on its own, once a day."""

    ARRAY = random_bits("uint8", (200_000,))

    def test_a_listing_takes_what_a_crash_left_and_nothing_else(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        with engine_on(folder) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            kept = insert(engine, "d", "kept", self.ARRAY)
            orphan = planted(folder)
            assert engine.quarantine_orphans().moved == 0
            assert set_aside_now(engine) == 1
            assert list(RawFolder(folder).published()) == [kept.locator.key]
            assert [entry.key for entry in engine.quarantine.entries()] == [orphan]
            assert (read(engine, "d", "kept") == self.ARRAY).all()

    def test_a_day_later_the_next_process_lists_by_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "store"
        with engine_on(folder, sweeps=True):
            planted(folder, age_s=100_000.0)
        listed: list[Engine] = []
        monkeypatch.setattr(Engine, "quarantine_orphans", lambda self, **_: listed.append(self) or Listing(0, 0, 0))
        with engine_on(folder, sweeps=True):
            pass
        assert listed == []
        catalogue = SqliteCatalogue(folder)
        with catalogue._database.write() as connection:
            connection.execute("UPDATE store SET listed_us = listed_us - 86400 * 1000000")
        catalogue.close()
        with engine_on(folder, sweeps=True) as engine:
            pass
        assert listed == [engine]

    @pytest.mark.parametrize(
        "behind_s", [pytest.param(0.004, id="clocks that differ"), pytest.param(60.0, id="a clock that was set back")]
    )
    def test_a_listing_between_publish_and_commit_leaves_the_payload(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind_s: float
    ) -> None:
        # A published payload has no row until its commit, and its age does not tell that one is about to come. The clock that
        # stamps files is behind the one that processes ask, by up to 4 ms on Linux; and a clock may be corrected at any time.
        # A sweep that goes by age alone then deletes the payload of a tensor that is about to be acknowledged.
        folder = tmp_path / "store"
        with engine_on(folder) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
        opened_s = time.time()
        with engine_on(folder) as engine:
            commit_group = engine._catalogue.tensors.commit

            def sweep_first(group: Sequence[StoredTensor], **options: bool) -> list[Tensor | Exception]:
                for path in (folder / "chunks").glob("*/*"):
                    os.utime(path, (opened_s - behind_s, opened_s - behind_s))
                set_aside_now(engine)
                return commit_group(group, **options)

            monkeypatch.setattr(engine._catalogue.tensors, "commit", sweep_first)
            insert(engine, "d", "t", self.ARRAY)
            assert (read(engine, "d", "t") == self.ARRAY).all()


class TestMutants:
    """Each of these mistakes is found out by a test above."""

    def test_keys_from_an_index(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (key,) = known(catalogue, tmp_path, "t")
        catalogue.close()
        (page,) = pages_of(tmp_path / "catalogue.db", "tensor_key")
        flip_in_file(tmp_path / "catalogue.db", key.encode(), page=page)
        monkeypatch.setattr(sqlite, "IndexCheck", no_index_check)
        damaged = SqliteCatalogue(tmp_path)
        by_index = ("SELECT CAST(key AS BLOB) FROM tensor INDEXED BY tensor_key WHERE inline = 0",)
        monkeypatch.setattr(garbage, "_KNOWN", by_index)
        # The second lock on this door.
        with pytest.raises(DataCorruptError):
            run(damaged, store)
        monkeypatch.setattr(SqlGarbageTable, "require_intact", lambda _: None)
        assert run(damaged, store).moved == 1
        damaged.close()

    def test_deletion_instead_of_quarantine(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(LocalQuarantine, "put", lambda _, key, **__: store.delete(key) or True)
        with pytest.raises(ValueError, match="not enough values to unpack"):
            test_an_old_payload_that_no_row_has_is_moved_and_deleted_after_its_time(
                catalogue, store, tmp_path, monkeypatch
            )
