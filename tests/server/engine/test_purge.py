"""Deleted datasets disappear from the disk in the background, whatever interrupts that."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.arrays import random_bits
from support.engine import engine_on, insert
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.engine import purge as purge_module
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.health import Health
from tensorus_server.engine.purge import Purger

WAIT_S = 30


class Datasets:
    """As much of a table as a purger sees: what happens is the test's."""

    def __init__(self, *outcomes: int | Exception) -> None:
        self.outcomes = list(outcomes)
        self.called = threading.Semaphore(0)
        self.stopped = False

    def purge(self, pause: Callable[[float], bool]) -> int:
        self.called.release()
        outcome = self.outcomes.pop(0) if self.outcomes else 0
        if isinstance(outcome, Exception):
            raise outcome
        if outcome < 0:
            # As long as it is not told to stop.
            self.stopped = pause(WAIT_S)
        return outcome


def catalogue_of(datasets: Datasets) -> Catalogue:
    """Return a catalogue with these datasets, and with no past tensors."""
    snapshots = SimpleNamespace(prune=lambda _: 0)
    catalogue: Any = SimpleNamespace(datasets=datasets, snapshots=snapshots, check_present=lambda: None)
    return catalogue  # type: ignore[no-any-return] - the purger uses no more of it


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def rows_of_deleted(engine: Engine) -> int:
    """Return how many tensors are still in the catalogue although their dataset is deleted."""
    with engine._catalogue._database.read() as connection:  # type: ignore[attr-defined]
        statement = "SELECT count(*) FROM tensor JOIN dataset USING (ds) WHERE deleted_us IS NOT NULL"
        ((count,),) = select(connection, statement)
        return int(count)


class TestPurger:
    """One thread, which looks when it starts, when it is woken, and from time to time."""

    def test_it_looks_at_its_start_and_whenever_it_is_woken(self) -> None:
        datasets = Datasets()
        purger = Purger(catalogue_of(datasets), Health())
        for _ in range(3):
            assert datasets.called.acquire(timeout=WAIT_S)
            purger.wake()
        assert datasets.called.acquire(timeout=WAIT_S)
        assert purger.close(WAIT_S)

    def test_it_looks_from_time_to_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(purge_module, "_LOOK_EVERY_S", 0.01)
        datasets = Datasets()
        purger = Purger(catalogue_of(datasets), Health())
        for _ in range(3):
            assert datasets.called.acquire(timeout=WAIT_S)
        assert purger.close(WAIT_S)

    def test_an_error_is_logged_and_the_next_look_tries_again(self, caplog: pytest.LogCaptureFixture) -> None:
        datasets = Datasets(OSError("broken"), 7)
        with caplog.at_level(logging.INFO, "tensorus_server.engine.purge"):
            purger = Purger(catalogue_of(datasets), Health())
            assert datasets.called.acquire(timeout=WAIT_S)
            eventually(lambda: "could not be purged" in caplog.text)
            purger.wake()
            eventually(lambda: "7 tensors of deleted datasets were deleted" in caplog.text)
            assert purger.close(WAIT_S)

    def test_nothing_is_purged_from_a_store_that_has_failed(self) -> None:
        datasets, health = Datasets(), Health()
        health.fail("the committer ended", ValueError("a fault"))
        purger = Purger(catalogue_of(datasets), health)
        assert purger._thread.join(WAIT_S)
        assert not datasets.called.acquire(blocking=False)

    def test_closing_is_noticed_whenever_it_comes(self) -> None:
        datasets = Datasets()
        purger = Purger(catalogue_of(datasets), Health())
        assert datasets.called.acquire(timeout=WAIT_S)
        woken = purger._woken

        class ClosedMeanwhile(threading.Event):
            """Another thread closes the purger just before it forgets that it was woken."""

            def clear(self) -> None:
                purger._closing.set()
                self.set()
                super().clear()

        purger._woken = ClosedMeanwhile()
        woken.set()
        assert purger._thread.join(WAIT_S)

    def test_closing_stops_it_between_two_batches(self) -> None:
        datasets = Datasets(-1)
        purger = Purger(catalogue_of(datasets), Health())
        assert datasets.called.acquire(timeout=WAIT_S)
        assert purger.close(WAIT_S)
        assert purger.close(WAIT_S)
        assert datasets.stopped


class TestEngine:
    """The engine purges what its callers delete, and what a process before it left."""

    def test_rows_and_files_of_a_deleted_dataset_go_by_themselves(self, tmp_path: Path) -> None:
        with engine_on(tmp_path / "store", delete_grace_s=0.0) as engine:
            engine.create_dataset("d", StoragePolicy(preset="none"))
            insert(engine, "d", "file", random_bits("uint8", (100_000,)))
            insert(engine, "d", "inline", np.zeros(3))
            assert engine.delete_dataset("d") == 2
            eventually(lambda: not rows_of_deleted(engine))
            assert engine.sweep().deleted == 1
            assert list(engine._chunk_store.published()) == []

    def test_a_restart_goes_on_with_what_was_left(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Purger, "wake", lambda _: None)
            with engine_on(tmp_path / "store") as engine:
                engine.create_dataset("d")
                insert(engine, "d", "t", np.zeros(3))
                engine._purger.close(WAIT_S)
                engine.delete_dataset("d")
                assert rows_of_deleted(engine) == 1
        with engine_on(tmp_path / "store") as engine:
            eventually(lambda: not rows_of_deleted(engine))
            assert engine.list_datasets() == ([], "")

    def test_another_engine_on_the_store_does_not_see_the_dataset_either(self, tmp_path: Path) -> None:
        with engine_on(tmp_path / "store") as one, engine_on(tmp_path / "store") as other:
            one.create_dataset("d")
            insert(other, "d", "t", np.zeros(3))
            one.delete_dataset("d")
            assert other.list_datasets() == ([], "")
            other.create_dataset("d")
            insert(one, "d", "t", np.ones(3))
            eventually(lambda: not rows_of_deleted(other))
            assert other.dataset_stats("d").tensors == 1
