"""A catalogue without its log never passes for a whole one, whatever two processes did to it and in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.engine import commit, create, stored_tensor
from support.lost_log import check_lost_log, payload_of
from tensorus_server.catalogue.sqlite import SqliteCatalogue, database
from tensorus_server.catalogue.sqlite.epoch import EpochKeeper
from tensorus_server.chunk_store.memory import MemoryChunkStore

STEPS = ["insert", "checkpoint", "empty the log", "begin to read", "end reading", "reopen"]

histories = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 1])), max_size=14)

EVERY_KIND = [
    ("insert", 0),
    ("insert", 1),
    ("empty the log", 0),
    ("insert", 1),
    ("insert", 0),
    ("begin to read", 1),
    ("insert", 0),
    ("checkpoint", 0),
    ("insert", 1),
    ("checkpoint", 1),
    ("end reading", 1),
    ("checkpoint", 0),
    ("insert", 0),
    ("reopen", 1),
    ("insert", 1),
]


class Store:
    """One store that two processes have open, so to speak: each catalogue has its own lock and connections."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.payloads = MemoryChunkStore()
        self.catalogues = [self.open(), self.open()]
        self.dataset = create(self.catalogues[0])
        self.acknowledged: set[str] = set()
        self.readers = [ExitStack(), ExitStack()]
        self.refused = 0

    def open(self) -> SqliteCatalogue:
        return SqliteCatalogue(self.folder, payloads=self.payloads)

    def step(self, what: str, which: int) -> None:
        catalogue, reader = self.catalogues[which], self.readers[which]
        if what == "insert":
            name = f"{len(self.acknowledged)}"
            commit(catalogue, stored_tensor(self.dataset, name, inline_payload=payload_of(name, 100)))
            self.acknowledged.add(name)
        elif what in {"checkpoint", "empty the log"}:
            catalogue.maintain(idle=what == "empty the log")
        elif what == "begin to read":
            reader.close()
            connection = reader.enter_context(catalogue._database.read())
            connection.execute("SELECT count(*) FROM tensor").fetchall()
        elif what == "end reading":
            reader.close()
        else:
            reader.close()
            catalogue.close()
            self.catalogues[which] = self.open()
        self.check()

    def check(self) -> None:
        self.refused += check_lost_log(
            self.folder, self.folder / "copy", self.payloads.read_identity(), self.acknowledged
        )

    def close(self) -> None:
        for reader in self.readers:
            reader.close()
        for catalogue in self.catalogues:
            catalogue.close()


def run(history: list[tuple[str, int]]) -> int:
    """Take the steps, look for what a lost log would hide after each, and return how often an opening was refused."""
    with tempfile.TemporaryDirectory() as folder, patch.object(database, "_CHECKPOINT_BYTES", 1):
        store = Store(Path(folder))
        try:
            for what, which in history:
                store.step(what, which)
        finally:
            store.close()
        store.check()
        return store.refused


@settings(max_examples=settings.default.max_examples // 2)
@given(histories)
def test_a_lost_log_is_noticed_whenever_it_held_anything(history: list[tuple[str, int]]) -> None:
    run(history)


def test_a_history_with_every_kind_of_step_is_noticed_too() -> None:
    assert run(EVERY_KIND) > 5


def not_written(keeper: EpochKeeper, _: object) -> None:
    """Acknowledge although the chunk store does not follow."""
    import os  # noqa: PLC0415 - of the mutant alone

    os.ftruncate(keeper._lock_fd, 1)


MUTANTS = [
    pytest.param("publish", not_written, id="the chunk store does not follow"),
    pytest.param("make_due", lambda _: None, id="the epoch is raised once only"),
    pytest.param("raise_if_due", lambda *_: None, id="the epoch is never raised"),
]


@pytest.mark.parametrize(("method", "mutant"), MUTANTS)
def test_a_mutant_of_the_protocol_is_found_out(method: str, mutant: Callable[..., None]) -> None:
    with patch.object(EpochKeeper, method, mutant), pytest.raises(AssertionError, match="nobody noticed"):
        run(EVERY_KIND)
