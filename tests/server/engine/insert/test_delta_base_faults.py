"""Whatever fails while a tensor is stored against a base, nothing that was acknowledged is lost, and nothing is left over."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from support.arrays import assert_same_bits
from support.deltas import CHUNK, FIRST, needed_bases, next_step, waiting_keys
from support.engine import engine_on, find, insert, read, set_aside_now
from support.faults import open_descriptors
from support.seams import SEAMS, Seams
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.engine.engine import Engine
from tensorus_server.errors import StoreBusyError, StoreUnavailableError, TensorNotFoundError
from tensorus_server.model import Tensor, TensorReference

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_shards")]

SECOND, THIRD = next_step(FIRST, 2), next_step(next_step(FIRST, 2), 3)
OTHER = next_step(FIRST, 4)

ERRORS: list[BaseException] = [
    StoreUnavailableError("injected"),
    OSError(5, "Input/output error"),
    apsw.BusyError("database is locked"),
    MemoryError(),
    RuntimeError("injected"),
]

NOT_MET = {
    "catalogue: roll back",
    "catalogue: checkpoint",
    "chunk store: drop",
    "chunk store: drop unfinished",
    "chunk store: keep",
    "chunk store: keep, later",
}
"""Only met when something else has failed, in the background, or by inserts that can be resumed."""


def put(engine: Engine, tensor_id: str, values: np.ndarray[Any, Any], base: str | None = None) -> Tensor:
    reference = None if base is None else TensorReference("", base)
    return insert(engine, "d", tensor_id, values, policy=StoragePolicy(chunk_bytes=CHUNK), base=reference, replace=True)


def payload_files(folder: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("chunks/??/*")}


def steps(engine: Engine) -> None:
    """Replace a tensor against itself, delete its old bases, and sweep."""
    put(engine, "t", THIRD, "t")
    engine.delete_tensors("d", ["old", "gone"])
    engine.sweep(in_grace=True)


@pytest.mark.parametrize("seam", sorted(set(SEAMS) - NOT_MET))
def test_a_fault_at_any_seam_loses_nothing_and_leaves_nothing(tmp_path: Path, seam: str, seams: Seams) -> None:
    for number, times in enumerate((1, 3, 1_000_000)):
        error = ERRORS[(number + SEAMS.index(seam)) % len(ERRORS)]
        folder = tmp_path / str(number)
        with engine_on(folder, delete_grace_s=0.0) as engine:
            engine.create_dataset("d")
            put(engine, "old", FIRST)
            put(engine, "t", SECOND, "old")
            put(engine, "gone", OTHER, "old")
            seams.fail(seam, error, times)
            # What is left is looked at below.
            with suppress(Exception):
                steps(engine)
            assert seams.raised, (seam, error)
            seams.heal()
        assert open_descriptors(folder) == []
        with engine_on(folder, delete_grace_s=0.0) as engine:
            found = read(engine, "d", "t")
            assert_same_bits(found, THIRD if np.array_equal(found, THIRD) else SECOND)
            steps(engine)
            assert_same_bits(read(engine, "d", "t"), THIRD)
            for _ in range(3):
                engine.sweep(in_grace=True)
            set_aside_now(engine)
            # Every payload is needed, and everything that is needed is there.
            own = find(engine, "d", "t").locator.key
            assert payload_files(folder) == {own} | {base for base, _ in needed_bases(engine)}
            assert_same_bits(read(engine, "d", "t"), THIRD)
            engine.delete_tensors("d", ["t"])
            engine.sweep(in_grace=True)
            assert payload_files(folder) == needed_bases(engine) == waiting_keys(engine) == set()


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> Seams:
    return Seams(monkeypatch)


def test_a_sweep_that_ends_after_each_file_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain of a deleted tensor is freed payload by payload, and a process may be killed after each step."""
    delete = LocalChunkStore.delete
    with engine_on(tmp_path, delete_grace_s=0.0) as engine:
        engine.create_dataset("d")
        put(engine, "t", FIRST)
        for values in (SECOND, THIRD):
            put(engine, "t", values, "t")
        engine.delete_tensors("d", ["t"])

    class KilledError(BaseException):
        """The process ends here."""

    def delete_and_die(store: LocalChunkStore, key: str) -> None:
        delete(store, key)
        raise KilledError

    for left in (2, 1, 0):
        with engine_on(tmp_path, delete_grace_s=0.0) as engine:
            monkeypatch.setattr(LocalChunkStore, "delete", delete_and_die)
            with pytest.raises(KilledError):
                engine.sweep(in_grace=True)
            monkeypatch.setattr(LocalChunkStore, "delete", delete)
            assert len(payload_files(tmp_path)) == left
            # What is there is still known.
            assert set_aside_now(engine) == 0
            if left:
                # The row of the file that is gone.
                engine._catalogue.garbage.delete(engine._catalogue.garbage.due(10))
    with engine_on(tmp_path, delete_grace_s=0.0) as engine:
        engine.sweep(in_grace=True)
        assert needed_bases(engine) == waiting_keys(engine) == set()


def test_a_base_that_is_deleted_while_the_tensor_is_stored_is_never_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of the insert, another client deletes or replaces the base, and the sweep comes at once."""
    for replaced in (False, True):
        folder = tmp_path / str(replaced)
        with engine_on(folder, delete_grace_s=0.0) as engine:
            engine.create_dataset("d")
            for method in ("begin", "publish"):
                put(engine, "first", FIRST)
                original = getattr(LocalChunkStore, method)

                def meddle(
                    store: LocalChunkStore,
                    argument: Any,
                    original: Any = original,
                    method: str = method,
                    replaced: bool = replaced,  # noqa: FBT001
                ) -> Any:
                    monkeypatch.setattr(LocalChunkStore, method, original)
                    if method == "publish":
                        # The committer's turn is taken: only a deletion gets in between.
                        engine.delete_tensors("d", ["first"])
                    elif replaced:
                        put(engine, "first", next_step(FIRST, 9))
                    else:
                        engine.delete_tensors("d", ["first"])
                    engine.sweep(in_grace=True)
                    return original(store, argument)

                monkeypatch.setattr(LocalChunkStore, method, meddle)
                with pytest.raises(StoreBusyError, match="the base was deleted or replaced during the insert"):
                    put(engine, "second", SECOND, "first")
                with pytest.raises(TensorNotFoundError):
                    read(engine, "d", "second")
                engine.sweep(in_grace=True)
                assert needed_bases(engine) == set()
                if replaced and method == "begin":
                    # Repeated, the insert finds the new base.
                    put(engine, "second", SECOND, "first")
                    assert len(needed_bases(engine)) == 1
                    assert_same_bits(read(engine, "d", "second"), SECOND)
                    engine.delete_tensors("d", ["second"])
                    engine.sweep(in_grace=True)
