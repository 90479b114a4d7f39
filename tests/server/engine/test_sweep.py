"""The sweep removes what nobody needs, and nothing that anybody might."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_contract import published, staged
from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.engine import commit, create, engine_on, insert, read, stored_tensor
from support.faults import FaultyFiles
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine import sweep as sweep_module
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.health import Health
from tensorus_server.engine.sweep import Swept, sweep
from tensorus_server.engine.sweeper import Sweeper
from tensorus_server.errors import StoreUnavailableError


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


def run(catalogue: SqliteCatalogue, store: LocalChunkStore) -> Swept:
    """Sweep."""
    return sweep(catalogue, store, store)


class TestDeleted:
    """Payloads of deleted tensors, once their grace is over."""

    def test_they_go_and_are_forgotten(
        self, catalogue: SqliteCatalogue, store: LocalChunkStore, raw: RawFolder
    ) -> None:
        key, kept = published(store, b"x"), published(store, b"kept")
        dataset = catalogue.datasets.get("dataset")
        commit(catalogue, stored_tensor(dataset, "t", key=key), stored_tensor(dataset, "kept", key=kept))
        catalogue.tensors.delete("dataset", ["t"])
        assert run(catalogue, store) == Swept(0, 0, 1)
        assert list(raw.published()) == [kept]
        assert catalogue.garbage.due(10) == []
        assert run(catalogue, store) == Swept(0, 0, 0)

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
        assert run(catalogue, store) == Swept(3, 0, 0)
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
    assert run(catalogue, store) == Swept(0, 0, count)
    assert RawFolder(tmp_path).published() == {}


class TestEngineSweeps:
    """The engine sweeps on its own, and never what it needs itself."""

    ARRAY = random_bits("uint8", (200_000,))

    def test_what_a_crash_left_half_done_goes_and_what_it_published_stays(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        with engine_on(folder) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            kept = insert(engine, "d", "kept", self.ARRAY)
            # As a crash between publish and commit leaves it, and one before publish.
            orphan = published(engine._chunk_store, b"orphan")
        os.utime(folder / "chunks" / orphan, (1.0, 1.0))
        dead = folder / "tmp" / "dead"
        dead.mkdir()
        (dead / "unfinished").write_bytes(b"x")
        with engine_on(folder) as engine:
            engine.sweep()
            # That a row is missing proves nothing: `orphans.py` looks into that, once a day.
            assert set(RawFolder(folder).published()) == {kept.locator.key, orphan}
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
        with engine_on(tmp_path / "store", sweeps=True) as engine:
            engine.create_dataset("d")
        # The engine of a server that many tests share may sweep meanwhile, too.
        assert [one for one in swept if one is engine] == [engine]
        assert "the sweep failed" in caplog.text
        assert isinstance(engine, Engine)

    def test_nothing_is_removed_from_a_store_that_has_failed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        swept: list[Engine] = []
        monkeypatch.setattr(Engine, "sweep", swept.append)
        with engine_on(tmp_path / "store") as engine:
            engine._health.fail("the committer ended", ValueError("a fault"))
            engine._sweeper.run()
        assert swept == []

    def test_a_store_is_swept_again_once_its_database_is_back(self) -> None:
        closing = threading.Event()
        answers = iter((StoreUnavailableError("the database is away", retry_after_s=1.0), None, None))
        rounds: list[int] = []

        def check_present() -> None:
            if (error := next(answers)) is not None:
                raise error

        def sweep_round() -> None:
            rounds.append(1)
            closing.set()

        Sweeper(sweep_round, check_present, Health(), closing, every_s=0.001).run()
        assert rounds == [1]

    @pytest.mark.slow
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
            for number in range(20):
                insert(engine, "d", f"{number}", self.ARRAY[number:])
                if number % 3 == 0:
                    engine.delete_tensors("d", [f"{number}"])
            stop.set()
            sweeper.join()
            swept.append(engine.sweep())
            kept = [number for number in range(20) if number % 3]
            assert all((read(engine, "d", f"{number}") == self.ARRAY[number:]).all() for number in kept)
            assert len(RawFolder(tmp_path / "store").published()) == len(kept)
            assert sum(result.deleted for result in swept) == 7
