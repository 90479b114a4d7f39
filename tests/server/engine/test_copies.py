"""Copies and moves in an engine on files: no file is copied or lost, and edits and inserts in progress end as they must."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.arrays import assert_same_bits, random_bits
from support.engine import Reports, engine_on, insert, read, send, set_aside_now, wait_for_purge
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.catalogue.abc import Order, StoredTensor
from tensorus_server.catalogue.sql.tensors import SqlTensorTable
from tensorus_server.engine import copies
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import (
    DatasetNotFoundError,
    InvalidNameError,
    InvalidRequestError,
    LimitExceededError,
    SchemaMismatchError,
    StoreBusyError,
    TensorNotFoundError,
)
from tensorus_server.model import Append, Outcome, Schema

LARGE = random_bits("float32", (300, 128))
SMALL = random_bits("float32", (10, 128))
POLICY = StoragePolicy("none", chunk_bytes=64 * 1024)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with engine_on(tmp_path, delete_grace_s=0.0) as opened:
        opened.create_dataset("d", POLICY)
        opened.create_dataset("other", POLICY)
        yield opened


def files(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return all payloads, each with its inode and the time at which it was written."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "chunks").glob("*/*")}


def page(engine: Engine, dataset: str) -> list[Any]:
    """Return the tensors of a dataset."""
    found, token = engine.list_tensors(dataset, None, Order())
    assert token == ""
    return found


def append(engine: Engine, dataset: str, tensor_id: str, rows: np.ndarray[Any, Any]) -> Exception | None:
    """Append rows, and return what the item failed with."""
    reports = Reports()
    stream = engine.open_insert(dataset, reports)
    send(stream, 0, tensor_id, rows, edit=Append(0))
    stream.finish()
    outcome = reports.outcomes[0]
    return outcome if isinstance(outcome, Exception) else None


def test_copies_and_moves_touch_no_file_and_a_sweep_leaves_what_is_shared(engine: Engine, tmp_path: Path) -> None:
    insert(engine, "d", "large", LARGE)
    insert(engine, "d", "small", SMALL)
    # Its records are in two payloads.
    insert(engine, "d", "edited", -LARGE)
    assert append(engine, "d", "edited", LARGE) is None
    edited = np.concatenate([-LARGE, LARGE])
    before = files(tmp_path)
    assert len(before) == 3
    values = {"large": LARGE, "small": SMALL, "edited": edited}
    same = [(name, name) for name in values]
    engine.copies.copy_tensors("d", same, to="other")
    engine.copies.move_tensors("other", [("large", "small"), ("small", "large")])
    engine.copies.copy_dataset("other", "copied")
    engine.copies.rename_dataset("copied", "renamed")
    assert files(tmp_path) == before
    engine.delete_tensors("d", ["large"])
    engine.delete_dataset("other")
    wait_for_purge(engine)
    engine.sweep(in_grace=True)
    assert set_aside_now(engine) == 0
    assert files(tmp_path) == before
    for name, expected in {"small": LARGE, "large": SMALL, "edited": edited}.items():
        assert_same_bits(read(engine, "renamed", name), expected)
    assert {*engine.verify(Target(""))} == {None}
    assert engine.store_stats().totals.garbage_payloads == 0
    # An edit of a copy leaves the original as it is.
    assert append(engine, "renamed", "edited", SMALL) is None
    assert_same_bits(read(engine, "d", "edited"), edited)
    assert_same_bits(read(engine, "renamed", "edited"), np.concatenate([edited, SMALL]))
    engine.delete_tensors("d", ["edited", "small"])
    engine.sweep(in_grace=True)
    assert_same_bits(read(engine, "renamed", "edited"), np.concatenate([edited, SMALL]))
    assert files(tmp_path).items() >= before.items()
    engine.delete_dataset("renamed")
    wait_for_purge(engine)
    engine.sweep(in_grace=True)
    assert files(tmp_path) == {}


@pytest.mark.parametrize("rows", [7, 5000])
def test_an_edit_of_a_tensor_that_moves_before_its_commit_fails_and_changes_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    commit = SqlTensorTable.commit
    moves: list[list[tuple[str, str]]] = []

    def move_and_commit(table: SqlTensorTable, group: Sequence[StoredTensor], **options: Any) -> Any:
        if group[0].changes is not None and moves:
            engine.copies.move_tensors("d", moves.pop(), replace=True)
        return commit(table, group, **options)

    monkeypatch.setattr(SqlTensorTable, "commit", move_and_commit)
    insert(engine, "d", "a", LARGE)
    insert(engine, "d", "b", SMALL)
    more = random_bits("float32", (rows, 128), seed=1)
    # Away; another one to its place; both at once; and over the edited one.
    cases: list[tuple[list[tuple[str, str]], dict[str, Any]]] = [
        ([("a", "c")], {"b": SMALL, "c": LARGE}),
        ([("c", "a")], {"a": LARGE, "b": SMALL}),
        ([("a", "b"), ("b", "a")], {"a": SMALL, "b": LARGE}),
        ([("b", "a")], {"a": LARGE}),
    ]
    for move, expected in cases:
        moves.append(move)
        edited = "a" if move != [("c", "a")] else "c"
        assert isinstance(append(engine, "d", edited, more), StoreBusyError)
        assert {tensor.id for tensor in page(engine, "d")} == set(expected)
        for name, values in expected.items():
            assert_same_bits(read(engine, "d", name), values)
        engine.sweep(in_grace=True)
    # The client repeats it, on the tensor that has the id then.
    assert append(engine, "d", "a", more) is None
    assert_same_bits(read(engine, "d", "a"), np.concatenate([LARGE, more]))
    assert isinstance(append(engine, "d", "c", more), TensorNotFoundError)


def test_an_insert_into_a_dataset_that_is_renamed_goes_on(engine: Engine) -> None:
    reports = Reports()
    stream = engine.open_insert("d", reports)
    send(stream, 0, "before", SMALL)
    engine.copies.rename_dataset("d", "renamed")
    engine.create_dataset("d", StoragePolicy("maximum"))
    send(stream, 1, "small", SMALL)
    send(stream, 2, "large", LARGE)
    stream.finish()
    for item in range(3):
        reports.tensor(item)
    assert_same_bits(read(engine, "renamed", "large"), LARGE)
    assert_same_bits(read(engine, "renamed", "small"), SMALL)
    assert engine.dataset_stats("d").tensors == 0
    # An edit looks for its tensor by the name that the dataset had.
    reports = Reports()
    stream = engine.open_insert("renamed", reports)
    engine.copies.rename_dataset("renamed", "again")
    send(stream, 0, "small", SMALL, edit=Append(0))
    stream.finish()
    assert isinstance(reports.error(0), DatasetNotFoundError)
    assert_same_bits(read(engine, "again", "small"), SMALL)


def test_what_contradicts_itself_is_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    insert(engine, "d", "a", SMALL, metadata={"k": 1})
    insert(engine, "d", "b", SMALL[::-1])
    engine.create_dataset("strict", POLICY, Schema(metadata={"k": "integer"}))
    two = [("a", "x"), ("b", "y")]
    calls: list[tuple[type[Exception], str, Any]] = [
        (InvalidRequestError, "its own copy", lambda: engine.copies.copy_tensors("d", [("a", "")])),
        (InvalidRequestError, "would stay where it is", lambda: engine.copies.move_tensors("d", [("a", "a")], to="d")),
        (InvalidRequestError, "two places", lambda: engine.copies.move_tensors("d", [("a", "x"), ("a", "y")])),
        (InvalidRequestError, "the same id", lambda: engine.copies.copy_tensors("d", [("a", "x"), ("b", "x")])),
        (InvalidNameError, "control", lambda: engine.copies.copy_tensors("d", [("a", "x\n")])),
        (InvalidNameError, "request_id", lambda: engine.copies.copy_tensors("d", [("a", "x")], request_id="r" * 129)),
        (InvalidNameError, "request_id", lambda: engine.copies.copy_dataset("d", "x", request_id="r" * 129)),
        (InvalidNameError, "request_id", lambda: engine.copies.rename_dataset("d", "x", request_id="r" * 129)),
        (InvalidNameError, "name", lambda: engine.copies.copy_dataset("d", "a//b")),
        (InvalidNameError, "name", lambda: engine.copies.rename_dataset("d", "")),
        (SchemaMismatchError, "no 'k'", lambda: engine.copies.move_tensors("d", [("a", ""), ("b", "")], to="strict")),
        (LimitExceededError, "metadata of 2", lambda: engine.copies.copy_tensors("d", two, take=lambda _: False)),
    ]
    for kind, match, call in calls:
        with pytest.raises(kind, match=match):
            call()
    monkeypatch.setattr(copies, "COPIES_PER_CALL_MAX", 1)
    monkeypatch.setattr(copies, "DATASET_COPY_TENSORS_MAX", 1)
    with pytest.raises(LimitExceededError, match=r"number of tensors is 2, limit is 1 \(copies_per_call_max\)"):
        engine.copies.copy_tensors("d", two)
    with pytest.raises(LimitExceededError, match=r"more than 1 tensors.*\(dataset_copy_tensors_max\)"):
        engine.copies.copy_dataset("d", "x")
    assert [found.tensors for found in map(engine.dataset_stats, ("d", "other", "strict"))] == [2, 0, 0]
    # A copy of one tensor to two places is none.
    copied = engine.copies.copy_tensors("d", [("a", "")], to="strict")
    assert [tensor.outcome for tensor in copied] == [Outcome.INSERTED]
