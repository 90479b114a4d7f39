"""Whatever fails, wherever and however often: calls end, what was acknowledged is there, and nothing is left behind.

At each seam of the engine each kind of error is raised, once and from then on. Then
    * every call ends, and every item of an insert has one outcome;
    * other calls go on, or the store says that it takes no writes until a restart;
    * the store closes, and leaves neither a thread nor an open file;
    * what was acknowledged is read, bit by bit, from the store that is opened again.

`make test` runs at each seam the kinds that its own library raises, the engine's own and one that nobody expects, half of them
once and half always; `make test-long` runs every kind at every seam both ways.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw
import numpy as np
import pytest

from support.arrays import canonical, random_bits
from support.engine import Reports, announce, engine_on, insert, read, send
from support.faults import open_descriptors
from support.marks import mark_tensors
from support.seams import SEAMS, Seams
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert import tensor_writer
from tensorus_server.engine.insert.stream import InsertOptions
from tensorus_server.errors import EngineError, StoreUnavailableError, reason_of
from tensorus_server.model import Segment, Tensor

pytestmark = pytest.mark.slow

T = TypeVar("T")

CHUNK = 4096
SMALL = random_bits("uint8", (100,), seed=1)
LARGE = random_bits("uint8", (80_000,), seed=2)
"""Too large for the catalogue, too small for marks."""
MARKED = random_bits("uint8", (100_001,), seed=3)
ARRAYS = {"small": SMALL, "next": SMALL, "large": LARGE, "marked": MARKED, "last": SMALL}

INSERTS = {
    "plain": InsertOptions(),
    "resumable": InsertOptions("request"),
    "together": InsertOptions("other request", all_or_nothing=True),
    "validated": InsertOptions(validate_only=True),
}

ERRORS: dict[str, BaseException] = {
    "engine error": StoreUnavailableError("injected"),
    "OSError": OSError(5, "Input/output error"),
    "BusyError": apsw.BusyError("database is locked"),
    "CantOpenError": apsw.CantOpenError("unable to open database file"),
    "MemoryError": MemoryError(),
    "RuntimeError": RuntimeError("injected"),
}

BOUND_S = 30.0
"""After which a call counts as hanging. A case takes a tenth of a second."""


@pytest.fixture(autouse=True)
def small_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    mark_tensors(monkeypatch, above_bytes=90_000, every_bytes=4 * CHUNK)
    monkeypatch.setattr(tensor_writer, "_HERE_BYTES_MAX", 200)


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


def within_bound(work: Callable[[], T]) -> T | Exception:
    """Return what a call returns or raises; it must do one of them in time."""
    outcome: list[T | Exception] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:  # noqa: BLE001 - the test looks at it
            outcome.append(error)

    thread = threading.Thread(target=run, name="a call", daemon=True)
    thread.start()
    thread.join(BOUND_S)
    if not outcome:
        stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in sys._current_frames().values())
        pytest.fail(f"the call hangs; all stacks:\n{stacks}")
    return outcome[0]


def insert_all(engine: Engine, name: str, reports: Reports) -> tuple[int, int]:
    """Insert every kind of tensor in one stream, in a way of its own; return what succeeded and what failed."""
    stream = engine.open_insert("d", reports, INSERTS[name])
    try:
        for item, (tensor_id, array) in enumerate(ARRAYS.items()):
            cuts = range(CHUNK, array.nbytes, CHUNK)
            send(stream, item, f"{name} {tensor_id}", array, cuts=cuts)
            stream.flush()
        return stream.finish()
    finally:
        stream.abort()


def interrupt(engine: Engine) -> None:
    """Begin an insert, mark it, and go on with it in another stream, which ends early as well."""
    data = memoryview(canonical(MARKED))
    new = announce("interrupted", MARKED)
    for end in (10 * CHUNK, 20 * CHUNK):
        stream = engine.open_insert("d", Reports(), InsertOptions("interrupted"))
        begin = next((left.committed_bytes for left in stream.resumable), 0)
        try:
            for offset in range(begin, end, CHUNK):
                announced = new if offset == begin else None
                stream.receive(Segment(0, offset, CHUNK, last=False, tensor=announced), data[offset : offset + CHUNK])
        finally:
            stream.abort()


def insert_in_vain(engine: Engine) -> None:
    """Insert a large tensor together with one that is not allowed."""
    stream = engine.open_insert("d", Reports(), InsertOptions(all_or_nothing=True))
    try:
        send(stream, 0, "in vain", LARGE)
        stream._items.wait(sealed=True)
        data = memoryview(canonical(LARGE))[: 20 * CHUNK - CHUNK]
        stream.receive(Segment(1, 0, data.nbytes, last=False, tensor=announce("open", LARGE)), data)
        send(stream, 2, "not\nallowed", SMALL)
        assert stream.finish() == (0, 3)
    finally:
        stream.abort()


def other_calls(engine: Engine) -> list[Callable[[], Any]]:
    return [
        lambda: read(engine, "d", "before small"),
        lambda: read(engine, "d", "before large"),
        engine.list_datasets,
        lambda: engine.update_metadata("d", "before small", {"a": 1}),
        lambda: engine.update_metadata("d", "none", {"a": 1}),
        lambda: engine.delete_tensors("d", ["deleted"]),
        lambda: insert_in_vain(engine),
        lambda: insert(engine, "d", "before large", MARKED),
        lambda: engine._catalogue.maintain(idle=True),
        lambda: engine.insert_status("request"),
        lambda: engine.cancel_insert("request"),
        engine.sweep,
    ]


def assert_settled(engine: Engine, name: str, reports: Reports, outcome: Any) -> None:
    """Check that each item has an outcome, and that they fit each other."""
    if isinstance(outcome, tuple):
        succeeded, failed = outcome
        assert sorted(reports.outcomes) == list(range(len(ARRAYS)))
        assert succeeded == sum(isinstance(found, Tensor) for found in reports.outcomes.values())
        assert failed == len(ARRAYS) - succeeded
        if name == "together":
            assert 0 in (succeeded, failed)
    assert engine._committer._thread.is_alive, "only an error of the loop itself ends it"


def threads_since(before: list[threading.Thread]) -> list[str]:
    """Return the names of the engine's threads that have been started since; servers of other tests may be running."""
    started = set(threading.enumerate()) - set(before)
    return [thread.name for thread in started if thread.name.startswith("tensorus-")]


def faults() -> Iterator[Any]:
    """Yield every seam with every kind of error, once and always."""
    for (number, seam), (kind_number, kind) in itertools.product(enumerate(SEAMS), enumerate(ERRORS)):
        own = {"BusyError", "CantOpenError"} if seam.startswith("catalogue") else {"OSError"}
        short = {"engine error", *own, "MemoryError" if number % 4 < 2 else "RuntimeError"}
        for is_always, (name, times) in enumerate({"once": 1, "always": 1_000_000}.items()):
            # As on a chessboard: at each seam some kinds once and some always, and each kind both ways.
            marks = () if kind in short and (number + kind_number + is_always) % 2 == 0 else pytest.mark.long
            yield pytest.param(seam, kind, times, id=f"{seam}-{kind}-{name}", marks=marks)


@pytest.mark.parametrize(("seam", "kind", "times"), list(faults()))
def test_whatever_fails_calls_end_and_nothing_acknowledged_is_lost(
    tmp_path: Path, seams: Seams, *, seam: str, kind: str, times: int
) -> None:
    folder, before = tmp_path / "store", threading.enumerate()
    acknowledged: dict[str, np.ndarray[Any, Any]] = {"before small": SMALL, "before large": LARGE}
    with engine_on(folder) as engine:
        engine.create_dataset("d", StoragePolicy(preset="lossless", chunk_bytes=CHUNK))
        for tensor_id, array in (acknowledged | {"deleted": SMALL}).items():
            insert(engine, "d", tensor_id, array)

        seams.fail(seam, ERRORS[kind], times)
        for name in INSERTS:
            reports = Reports()
            outcome = within_bound(lambda name=name, reports=reports: insert_all(engine, name, reports))  # type: ignore[misc]
            assert_settled(engine, name, reports, outcome)
            if name != "validated":
                stored = [found.id for found in reports.outcomes.values() if isinstance(found, Tensor)]
                acknowledged |= {tensor_id: ARRAYS[tensor_id.partition(" ")[2]] for tensor_id in stored}
        for call in (lambda: interrupt(engine), *other_calls(engine)):
            found = within_bound(call)
            if (
                isinstance(found, Exception)
                and seam.startswith("catalogue")
                and kind not in {"MemoryError", "RuntimeError"}
            ):
                assert reason_of(found) != "INTERNAL", found
        assert seams.raised, "the fault was never met"
        seams.heal()

        usable = within_bound(engine.check_writable) is None
        if usable:
            insert(engine, "d", "after", LARGE)
            acknowledged["after"] = LARGE
        else:
            assert seam in {"catalogue: commit", "catalogue: roll back", "catalogue: checkpoint"}
        assert within_bound(engine.close) is None

    assert threads_since(before) == []
    assert open_descriptors(folder) == []
    with engine_on(folder) as reopened:
        for tensor_id, array in acknowledged.items():
            assert np.array_equal(read(reopened, "d", tensor_id), array), tensor_id
        insert(reopened, "d", "after the restart", LARGE)
        assert within_bound(lambda: interrupt(reopened)) is None
        reopened.sweep()


def test_a_store_may_be_closed_while_inserts_run_and_more_than_once(tmp_path: Path) -> None:
    folder, acknowledged, before = tmp_path / "store", list[str](), threading.enumerate()
    with engine_on(folder) as engine:
        engine.create_dataset("d", StoragePolicy(preset="none", chunk_bytes=CHUNK))
        begun = threading.Barrier(4)

        def insert_on_and_on(name: str, array: np.ndarray[Any, Any]) -> None:
            begun.wait(30)
            with suppress(EngineError):
                for number in range(100_000):
                    acknowledged.append(insert(engine, "d", f"{name} {number}", array).id)

        arrays = {"small": SMALL, "large": LARGE, "marked": MARKED}
        threads = [threading.Thread(target=insert_on_and_on, args=found) for found in arrays.items()]
        for thread in threads:
            thread.start()
        begun.wait(30)
        while len(acknowledged) < 20:
            threading.Event().wait(0.001)
        assert within_bound(engine.close) is None
        assert within_bound(engine.close) is None
        for thread in threads:
            thread.join(BOUND_S)
            assert not thread.is_alive()
    assert threads_since(before) == []
    with engine_on(folder) as reopened:
        for tensor_id in acknowledged:
            assert np.array_equal(read(reopened, "d", tensor_id), arrays[tensor_id.partition(" ")[0]])


def test_the_suite_reaches_every_seam(tmp_path: Path, seams: Seams) -> None:
    reached: set[str] = set()
    pass_through = seams.pass_through
    seams.pass_through = lambda seam: (reached.add(seam), pass_through(seam))[1]  # type: ignore[func-returns-value, method-assign]
    with engine_on(tmp_path / "store") as engine:
        engine.create_dataset("d", StoragePolicy(preset="lossless", chunk_bytes=CHUNK))
        for tensor_id, array in {"before small": SMALL, "before large": LARGE, "deleted": SMALL}.items():
            insert(engine, "d", tensor_id, array)
        for name in INSERTS:
            insert_all(engine, name, Reports())
        interrupt(engine)
        for call in other_calls(engine):
            with suppress(EngineError):
                call()
    assert set(SEAMS) == reached
