"""The sweep removes what nobody needs, and nothing that anybody might."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from contract.chunk_store_contract import published, staged
from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.engine import commit, create, engine_on, insert, read, stored_tensor
from support.faults import FaultyFiles
from tensorus_codecs.policy import StoragePolicy
from tensorus_server import sweep as sweep_module
from tensorus_server.catalogue.abc import StoredTensor
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine import Engine
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import Tensor
from tensorus_server.sweep import Swept, sweep

STARTED_S = 1_000_000.0
"""When the process began that sweeps, in these tests."""

ORPHAN_AGE_S = 3600.0


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def store(tmp_path: Path, files: FaultyFiles) -> Iterator[LocalChunkStore]:
    opened = LocalChunkStore(tmp_path, files=files)
    yield opened
    opened.close()


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[SqliteCatalogue]:
    opened = SqliteCatalogue(tmp_path, delete_grace_s=0.0)
    create(opened)
    yield opened
    opened.close()


@pytest.fixture
def raw(tmp_path: Path) -> RawFolder:
    return RawFolder(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time, which the test may change; ten minutes after the process began."""
    now_s = [STARTED_S + 600.0]
    monkeypatch.setattr(sweep_module.time, "time", lambda: now_s[0])
    return now_s


def run(catalogue: SqliteCatalogue, store: LocalChunkStore) -> Swept:
    """Sweep as the process does that began at `STARTED_S`."""
    return sweep(catalogue, store, started_s=STARTED_S, orphan_age_s=ORPHAN_AGE_S)


def payload_of(tmp_path: Path, modified_s: float) -> str:
    """Return the key of a payload that another process published then, and that no tensor has."""
    key = f"02/{new_payload_key()}"
    RawFolder(tmp_path).plant(key, b"payload")
    os.utime(tmp_path / "chunks" / key, (modified_s, modified_s))
    return key


class Orphan(NamedTuple):
    """When a payload was written and when the sweep comes, in seconds after the process began; and whether it then goes."""

    written: float
    swept: float
    goes: bool


ALONE = [
    pytest.param(Orphan(-10.0, 600.0, True), id="from before this process"),
    pytest.param(Orphan(10.0, 600.0, False), id="its own, and young"),
    pytest.param(Orphan(10.0, 10.0 + ORPHAN_AGE_S, False), id="its own, exactly as old as must be"),
    pytest.param(Orphan(10.0, 11.0 + ORPHAN_AGE_S, True), id="its own, and old enough"),
]

BESIDE_ANOTHER = [
    pytest.param(Orphan(-10.0, 600.0, False), id="from before this process"),
    pytest.param(Orphan(600.0 - ORPHAN_AGE_S, 600.0, False), id="exactly as old as must be"),
    pytest.param(Orphan(599.0 - ORPHAN_AGE_S, 600.0, True), id="old enough"),
    pytest.param(Orphan(10.0, 11.0 + ORPHAN_AGE_S, True), id="younger than this process, and old enough"),
]


class TestOrphans:
    """Published and never committed: no living process can be about to bring a row."""

    @pytest.mark.parametrize("orphan", ALONE)
    def test_alone_what_is_older_than_the_process_goes(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, clock: list[float], orphan: Orphan
    ) -> None:
        key = payload_of(tmp_path, STARTED_S + orphan.written)
        clock[0] = STARTED_S + orphan.swept
        assert run(catalogue, store) == Swept(0, 0, 0, int(orphan.goes))
        assert (key not in RawFolder(tmp_path).published()) == orphan.goes

    @pytest.mark.parametrize("orphan", BESIDE_ANOTHER)
    def test_beside_another_process_only_what_is_old_goes(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, clock: list[float], orphan: Orphan
    ) -> None:
        other = LocalChunkStore(tmp_path)
        key = payload_of(tmp_path, STARTED_S + orphan.written)
        clock[0] = STARTED_S + orphan.swept
        assert run(catalogue, store).orphaned == int(orphan.goes)
        assert (key not in RawFolder(tmp_path).published()) == orphan.goes
        other.close()

    def test_payloads_of_tensors_stay_however_old_they_are(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder, tmp_path: Path, clock: list[float]
    ) -> None:
        key = payload_of(tmp_path, 1.0)
        commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "t", key=key))
        orphan = payload_of(tmp_path, 1.0)
        assert run(catalogue, store) == Swept(0, 0, 0, 1)
        assert list(raw.published()) == [key]
        assert orphan not in raw.published()

    def test_payloads_whose_deletion_waits_stay(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder, tmp_path: Path, clock: list[float]
    ) -> None:
        patient = SqliteCatalogue(tmp_path, delete_grace_s=3600.0)
        key = payload_of(tmp_path, 1.0)
        commit(patient, stored_tensor(patient.datasets.get("dataset"), "t", key=key))
        patient.tensors.delete("dataset", ["t"])
        assert run(catalogue, store) == Swept(0, 0, 0, 0)
        assert list(raw.published()) == [key]
        patient.close()


class TestDeleted:
    """Payloads of deleted tensors, once their grace is over."""

    def test_they_go_and_are_forgotten(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder
    ) -> None:
        key, kept = published(store, b"x"), published(store, b"kept")
        dataset = catalogue.datasets.get("dataset")
        commit(catalogue, stored_tensor(dataset, "t", key=key), stored_tensor(dataset, "kept", key=kept))
        catalogue.tensors.delete("dataset", ["t"])
        assert sweep(catalogue, store, started_s=0.0, orphan_age_s=ORPHAN_AGE_S) == Swept(0, 0, 1, 0)
        assert list(raw.published()) == [kept]
        assert catalogue.garbage.due(10) == []
        assert sweep(catalogue, store, started_s=0.0, orphan_age_s=ORPHAN_AGE_S) == Swept(0, 0, 0, 0)

    def test_one_that_cannot_be_removed_is_not_forgotten(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder, files: FaultyFiles
    ) -> None:
        key = published(store, b"x")
        commit(catalogue, stored_tensor(catalogue.datasets.get("dataset"), "t", key=key))
        catalogue.tensors.delete("dataset", ["t"])
        files.fail("unlink", errno.EIO)
        with pytest.raises(StoreUnavailableError, match="Input/output error"):
            run(catalogue, store)
        assert catalogue.garbage.due(10) == [key]
        assert run(catalogue, store).deleted == 1
        assert raw.published() == {}


class TestUnfinished:
    """What a dead process began."""

    def test_it_goes_and_the_living_ones_work_stays(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder, tmp_path: Path
    ) -> None:
        dead = tmp_path / "tmp" / "dead"
        dead.mkdir()
        for _ in range(3):
            (dead / new_payload_key()).write_bytes(b"unfinished")
        mine = staged(store, b"mine")
        assert run(catalogue, store) == Swept(3, 0, 0, 0)
        assert not dead.exists()
        assert raw.unfinished() == 1
        store.publish([mine])


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_a_sweep_goes_batch_by_batch_to_the_end(
    catalogue: SqliteCatalogue, store: LocalChunkStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(sweep_module, "_BATCH", 3)
    dataset = catalogue.datasets.get("dataset")
    keys = [published(store, b"x") for _ in range(count)]
    commit(catalogue, *(stored_tensor(dataset, f"{number}", key=key) for number, key in enumerate(keys)))
    catalogue.tensors.delete("dataset", [f"{number}" for number in range(count)])
    for _ in range(count):
        payload_of(tmp_path, 1.0)
    assert run(catalogue, store) == Swept(0, 0, count, count)
    assert RawFolder(tmp_path).published() == {}


class TestEngineSweeps:
    """The engine sweeps on its own, and never what it needs itself."""

    ARRAY = random_bits("uint8", (200_000,))

    def test_what_a_crash_left_goes_when_the_store_is_opened_again(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        with engine_on(folder) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            kept = insert(engine, "d", "kept", self.ARRAY)
            # As a crash between publish and commit leaves it, and one before publish.
            orphan = published(engine._chunk_store, b"orphan")
        # The clock that stamps files may be behind; nobody waits for a store to be opened again within milliseconds.
        os.utime(folder / "chunks" / orphan, (1.0, 1.0))
        dead = folder / "tmp" / "dead"
        dead.mkdir()
        (dead / "unfinished").write_bytes(b"x")
        with engine_on(folder) as engine:
            engine.sweep()
            assert list(RawFolder(folder).published()) == [kept.locator.key]
            assert orphan != kept.locator.key
            assert not dead.exists()
            assert (read(engine, "d", "kept") == self.ARRAY).all()

    def test_a_sweep_that_fails_does_not_end_the_engine(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        swept: list[Engine] = []

        def fail(self: Engine) -> Swept:
            swept.append(self)
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(Engine, "sweep", fail)
        with engine_on(tmp_path / "store") as engine:
            engine.create_dataset("d")
        # The engine of a server that many tests share may sweep meanwhile, too.
        assert [one for one in swept if one is engine] == [engine]
        assert "the sweep failed" in caplog.text
        assert isinstance(engine, Engine)

    @pytest.mark.parametrize(
        "behind_s", [pytest.param(0.004, id="clocks that differ"), pytest.param(60.0, id="a clock that was set back")]
    )
    def test_a_sweep_between_publish_and_commit_leaves_the_payload(
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
                engine.sweep()
                return commit_group(group, **options)

            monkeypatch.setattr(engine._catalogue.tensors, "commit", sweep_first)
            insert(engine, "d", "t", self.ARRAY)
            assert (read(engine, "d", "t") == self.ARRAY).all()

    def test_sweeps_while_inserting_and_deleting_lose_nothing(self, tmp_path: Path) -> None:
        with engine_on(tmp_path / "store", delete_grace_s=0.0) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            stop = threading.Event()
            swept: list[Swept] = []

            def sweep_on_and_on() -> None:
                while not stop.is_set():
                    swept.append(engine.sweep())

            sweeper = threading.Thread(target=sweep_on_and_on)
            sweeper.start()
            for number in range(40):
                insert(engine, "d", f"{number}", self.ARRAY[number:])
                if number % 3 == 0:
                    engine.delete_tensors("d", [f"{number}"])
            stop.set()
            sweeper.join()
            engine.sweep()
            kept = [number for number in range(40) if number % 3]
            assert all((read(engine, "d", f"{number}") == self.ARRAY[number:]).all() for number in kept)
            assert len(RawFolder(tmp_path / "store").published()) == len(kept)
            assert sum(result.orphaned for result in swept) == 0
