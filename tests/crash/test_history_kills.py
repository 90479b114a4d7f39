"""SIGKILL at every step of a restore, and of pruning and sweeping: states are whole, and nothing that one needs is gone.

A process stops before each statement of the catalogue's writer, and before each deletion of a payload, in turn.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.engine import assemble, insert, pieces_of
from support.servers import engine_config
from support.stores import few_shards
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.purge import Purger
from tensorus_server.engine.query import Query
from tensorus_server.engine.read.reader import ReadPlan
from tensorus_server.engine.verify.verification import Target
from tensorus_server.model import Append, At, Tensor

pytestmark = [pytest.mark.crash, pytest.mark.timeout(600)]

STEPS_MIN = {"restore": 25, "prune": 12}
"""Fewer would mean that the kills do not reach what they are for."""

RUN = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from crash.test_history_kills import kill_at_every_step
print(kill_at_every_step(Path(sys.argv[1]), sys.argv[2]))
"""

State = dict[str, tuple[bytes, dict[str, object]]]
"""Bytes and metadata of each tensor."""


def rows(count: int, value: int) -> np.ndarray:
    """Return an array of 64 columns; 400 rows are a payload of its own."""
    return np.full((count, 64), value, np.float32)


def open_store(folder: Path) -> Engine:
    """Open the store, whose garbage is due at once."""
    return open_engine(engine_config(folder, delete_grace_s=0.0, codec_threads=1))


def state(engine: Engine, at: At | None) -> State:
    """Read all tensors of a state."""
    found: State = {}
    for tensor in engine.select(Query("d", at=at), with_payloads=True):
        assert isinstance(tensor, Tensor), tensor
        data = assemble(ReadPlan(tensor, None).result, pieces_of(engine, tensor)).tobytes()
        found[tensor.id] = (data, tensor.metadata)
    return found


def make_store(folder: Path) -> dict[str | None, State]:
    """Make a store with two snapshots and a newer state; return all three."""
    engine = open_store(folder)
    engine.create_dataset("d", StoragePolicy("none", chunk_bytes=4096))
    for number, name in enumerate(("inline", "file", "edited", "changed", "gone")):
        insert(engine, "d", name, rows(4 if name == "inline" else 400, number), metadata={"n": number})
    engine.snapshots.create("d", "first")
    insert(engine, "d", "edited", rows(300, 10), edit=Append(0))
    insert(engine, "d", "inline", rows(3, 11), replace=True)
    engine.update_metadata("d", "changed", {"n": -1})
    engine.delete_tensors("d", ["gone"])
    insert(engine, "d", "newer", rows(400, 12))
    engine.snapshots.create("d", "second")
    insert(engine, "d", "edited", rows(200, 13), edit=Append(0))
    insert(engine, "d", "file", rows(500, 14), replace=True)
    engine.delete_tensors("d", ["newer"])
    states = {name: state(engine, name and At(snapshot=name)) for name in ("first", "second", None)}
    engine.close()
    return states


def restore(engine: Engine) -> None:
    """Restore the older snapshot."""
    engine.snapshots.restore("d", At(snapshot="first"), discard_newer=True)


def prune(engine: Engine) -> None:
    """Drop the newer snapshot, and remove what only it needed."""
    if any(getattr(found, "name", "") == "second" for found in engine.snapshots.page("d")[0]):
        engine.snapshots.drop("d", "second")
    engine.sweep(in_grace=True)


OPERATIONS: dict[str, Callable[[Engine], None]] = {"restore": restore, "prune": prune}


def die_at(step: int, engine: Engine, operation: Callable[[Engine], None]) -> None:
    """Do the operation, but kill this process before its step of this number."""
    left = step

    def count(*_: object) -> bool:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    delete = LocalChunkStore.delete

    def counted(store: LocalChunkStore, key: str) -> None:
        count()
        delete(store, key)

    LocalChunkStore.delete = counted  # type: ignore[method-assign]
    engine._catalogue._database._writer.exec_trace = count  # type: ignore[attr-defined]
    operation(engine)


def check(folder: Path, states: dict[str | None, State], operation: str) -> None:
    """Check what a kill has left, and do the rest."""
    engine = open_store(folder)
    try:
        now = state(engine, None)
        kept = {found.name for found in engine.snapshots.page("d")[0]}  # type: ignore[union-attr]
        if operation == "restore":
            assert now in (states[None], states["first"])
            assert kept == {"first", "second"}
        else:
            assert now == states[None]
            assert kept >= {"first"}
        for name in kept:
            assert state(engine, At(snapshot=name)) == states[name]
        assert list(filter(None, engine.verify(Target()))) == []
        OPERATIONS[operation](engine)
        engine.sweep(in_grace=True)
        assert state(engine, None) == states["first" if operation == "restore" else None]
        needed = set[str]()
        for name in (None, "first", *(("second",) if operation == "restore" else ())):
            assert (
                state(engine, name and At(snapshot=name))
                == states["first" if name is None and operation == "restore" else name]
            )
            for tensor in engine.select(Query("d", at=name and At(snapshot=name)), with_payloads=True):
                assert isinstance(tensor, Tensor)
                with engine.reader.chunks(tensor) as chunks:
                    needed.update(payload.key for payload in (chunks.table.payloads if chunks.table else ()))
                if tensor.inline_payload is None:
                    needed.add(tensor.locator.key)
        assert {stored.key for stored in engine._chunk_store.published()} == needed
    finally:
        engine.close()


def kill_at_every_step(folder: Path, operation: str) -> int:
    """Kill processes of one thread at every step of an operation; return how many steps it has."""
    # The steps must be those of the operation alone.
    Purger._run = lambda _: None  # type: ignore[method-assign]
    with few_shards():
        return _kill_at_every_step(folder, OPERATIONS[operation], operation)


def _kill_at_every_step(folder: Path, run: Callable[[Engine], None], operation: str) -> int:
    states = make_store(folder / "made")
    step = 0
    while True:
        step += 1
        store = folder / "store"
        shutil.copytree(folder / "made", store)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                die_at(step, open_store(store), run)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        check(store, states, operation)
        shutil.rmtree(store)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return step


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_kills_at_every_step_leave_whole_states(tmp_path: Path, operation: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", RUN, str(tmp_path), operation]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > STEPS_MIN[operation]
