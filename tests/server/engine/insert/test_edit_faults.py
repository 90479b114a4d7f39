"""Whatever fails during an edit, the tensor is as it was or as it should be, and the next edit is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from support.arrays import assert_same_bits, canonical, random_bits
from support.engine import Reports, announce, engine_on, find, insert, read, send
from support.faults import open_descriptors
from support.seams import SEAMS, Seams
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import edit_writer
from tensorus_server.engine.insert.options import InsertOptions
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.model import Append, Segment, SliceSet, Tensor, Write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_shards")]

CHUNK = 4096
OLD = random_bits("uint8", (40, 2500), seed=1)
"""Too large for the catalogue; 25 chunks."""

ERRORS: dict[str, BaseException] = {
    "engine error": StoreUnavailableError("injected"),
    "OSError": OSError(5, "Input/output error"),
    "BusyError": apsw.BusyError("database is locked"),
    "MemoryError": MemoryError(),
    "RuntimeError": RuntimeError("injected"),
}

NOT_OF_EDITS = {
    "catalogue: roll back",
    "catalogue: checkpoint",
    "chunk store: drop",
    "chunk store: drop unfinished",
    "chunk store: delete",
    "chunk store: keep",
    "chunk store: keep, later",
    "sweep",
}
"""Only met when something else has failed, in the background, or by inserts that can be resumed."""

OF_FILES = {"chunk store: begin", "chunk store: append", "chunk store: finish"}
"""Not met by edits whose payload is inline."""


@dataclass(frozen=True)
class Edited:
    """An edit, and what it makes of `OLD`."""

    how: Append | Write
    values: np.ndarray[Any, Any]
    is_held: bool = True
    """Whether its values wait in memory for the tensor's lock."""

    @property
    def new(self) -> np.ndarray[Any, Any]:
        """The tensor afterwards."""
        if isinstance(self.how, Append):
            return np.concatenate([OLD, self.values])
        found = OLD.copy()
        found[self.how.slices.axes] = self.values
        return found


EDITS = {
    "append, inline": Edited(Append(0), random_bits("uint8", (3, 2500), seed=2)),
    "append, a file": Edited(Append(0), random_bits("uint8", (30, 2500), seed=3)),
    "large append": Edited(Append(0), random_bits("uint8", (30, 2500), seed=4), is_held=False),
    "write, inline": Edited(Write(SliceSet((slice(5, 7),))), random_bits("uint8", (2, 2500), seed=5)),
    "write, a file": Edited(
        Write(SliceSet((slice(None), slice(0, None, 2)))), random_bits("uint8", (40, 1250), seed=6)
    ),
    "large write": Edited(Write(SliceSet((slice(1, 39),))), random_bits("uint8", (38, 2500), seed=7), is_held=False),
}


def edit(engine: Engine, edited: Edited, request_id: str | None = None) -> Tensor:
    """Do an edit, in several segments; raises what it failed with."""
    reports = Reports()
    stream = engine.open_insert("d", reports, InsertOptions(request_id))
    try:
        send(stream, 0, "t", edited.values, cuts=range(CHUNK, edited.values.nbytes, CHUNK), edit=edited.how)
        stream.finish()
    finally:
        stream.abort()
    outcome = reports.outcomes[0]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def outcome_of(action: Callable[[], Tensor]) -> Tensor | Exception:
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - the test looks at it
        return error


def staged(folder: Path) -> list[Path]:
    """Return the payloads that are on their way in."""
    return [*(folder / "tmp").glob("*/*"), *(folder / "uploads").glob("*")]


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


@pytest.mark.parametrize("seam", sorted(set(SEAMS) - NOT_OF_EDITS))
def test_a_tensor_is_as_it_was_or_as_it_should_be(
    tmp_path: Path, seams: Seams, monkeypatch: pytest.MonkeyPatch, seam: str
) -> None:
    kinds = list(ERRORS.items())
    for number, (name, edited) in enumerate(EDITS.items()):
        # Each edit meets another error at each seam, once or always.
        kind, error = kinds[(number + SEAMS.index(seam)) % len(kinds)]
        times = 1 if (number + SEAMS.index(seam)) % 2 else 1_000_000
        monkeypatch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 2**20 if edited.is_held else 0)
        case = f"{kind}, {times} times, {name}"
        met = fail_once(tmp_path / f"{number}", seams, edited, (seam, error, times), case)
        assert met or (seam in OF_FILES and "inline" in name), case


def fail_once(folder: Path, seams: Seams, edited: Edited, fault: tuple[str, BaseException, int], case: str) -> int:
    """Let an edit fail and look at what is left; return how often something failed."""
    with engine_on(folder, delete_grace_s=0.0) as engine:
        engine.create_dataset("d", StoragePolicy(preset="lossless", chunk_bytes=CHUNK))
        insert(engine, "d", "t", OLD)
        seams.fail(*fault)
        outcome = outcome_of(lambda: edit(engine, edited, "request"))
        raised = seams.raised
        seams.heal()
        assert engine._services.tensor_locks._held == {}, case
        usable = not isinstance(outcome_of(engine.check_writable), Exception)  # type: ignore[arg-type]
        if usable:
            assert_same_bits(read(engine, "d", "t"), edited.new if isinstance(outcome, Tensor) else OLD)
            # The client repeats it. If it was done, it is not done again.
            again = edit(engine, edited, "request")
            assert_same_bits(read(engine, "d", "t"), edited.new)
            assert not isinstance(outcome, Tensor) or again == outcome, case
            edit(engine, edited)
    assert open_descriptors(folder) == [], case
    with engine_on(folder, delete_grace_s=0.0) as engine:
        found = read(engine, "d", "t")
        if not usable:
            # The outcome of the commit was unknown.
            is_new = isinstance(outcome, Tensor) or found.shape != OLD.shape or not np.array_equal(found, OLD)
            assert_same_bits(found, edited.new if is_new else OLD)
            edit(engine, edited)
        found = read(engine, "d", "t")
        engine.sweep(in_grace=True)
        assert staged(folder) == [], case
        assert_same_bits(read(engine, "d", "t"), found)
        engine.delete_tensors("d", ["t"])
        engine.sweep(in_grace=True)
    return raised


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_whose_stream_ends_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    edited = EDITS[name]
    monkeypatch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 2**20 if edited.is_held else 0)
    with engine_on(tmp_path) as engine:
        engine.create_dataset("d", StoragePolicy(preset="lossless", chunk_bytes=CHUNK))
        before = insert(engine, "d", "t", OLD)
        data = memoryview(canonical(edited.values))
        for how in ("abort", "finish"):
            stream = engine.open_insert("d", Reports(), InsertOptions("request"))
            new = announce("t", edited.values, edit=edited.how)
            stream.receive(Segment(0, 0, CHUNK, last=False, tensor=new), data[:CHUNK])
            getattr(stream, how)()
            assert find(engine, "d", "t") == before
            assert engine._services.tensor_locks._held == {}
            assert staged(tmp_path) == []
        edit(engine, edited, "request")
        assert_same_bits(read(engine, "d", "t"), edited.new)
