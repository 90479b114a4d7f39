"""Snapshots, earlier states and restores as callers of the engine see them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from support.engine import assemble, find, insert, pieces_of, read, set_aside_now
from support.servers import engine_config
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.app import open_engine
from tensorus_server.catalogue.abc import Order
from tensorus_server.catalogue.sqlite import opening
from tensorus_server.catalogue.sqlite.schema import migrations
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.query import Query
from tensorus_server.engine.read.reader import ReadPlan
from tensorus_server.engine.recover import recover
from tensorus_server.engine.recovery_sources import StoreFolder
from tensorus_server.engine.verify.verification import Target
from tensorus_server.errors import (
    DataCorruptError,
    DatasetNotFoundError,
    HasSnapshotsError,
    InvalidNameError,
    InvalidPageTokenError,
    InvalidRequestError,
    LimitExceededError,
    NewerTensorsError,
    SnapshotNotFoundError,
    StateNotKeptError,
    TensorNotFoundError,
)
from tensorus_server.filter.tree import Compare, Key, Operator
from tensorus_server.limits import RETENTION_S_MAX
from tensorus_server.model import Append, At, Read, Tensor

WAIT_S = 30

LARGE = np.arange(100_000, dtype=np.float32)
"""A payload of its own."""


@pytest.fixture
def store(tmp_path: Path) -> Engine:  # type: ignore[misc] - a generator
    """Return an engine whose garbage is due at once, with a dataset "d"."""
    engine = open_engine(engine_config(tmp_path / "store", delete_grace_s=0.0))
    engine.create_dataset("d", StoragePolicy("none"))
    yield engine  # type: ignore[misc]
    engine.close()


def ids(engine: Engine, at: At | None = None) -> list[str]:
    return [tensor.id for tensor in engine.select(Query("d", at=at), with_payloads=False) if isinstance(tensor, Tensor)]


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_every_read_takes_a_state(store: Engine) -> None:
    old = insert(store, "d", "t", LARGE, metadata={"n": 1})
    insert(store, "d", "deleted", np.ones(3, np.float32), metadata={"n": 2})
    at = At(snapshot=store.snapshots.create("d", "s").name)
    insert(store, "d", "t", np.zeros(5, np.float32), edit=Append(0))
    store.delete_tensors("d", ["deleted"])
    insert(store, "d", "new", np.ones(3, np.float32))
    store.sweep(in_grace=True)
    assert store.get_tensor("d", "t", at) == old
    with pytest.raises(TensorNotFoundError):
        store.get_tensor("d", "new", at)
    found, missing, mismatch = store.find(
        "d", [Read("t", generation=old.generation), Read("new"), Read("t", generation=99)], with_payloads=True, at=at
    )
    assert isinstance(found, Tensor)
    plan = ReadPlan(found, None)
    assert np.array_equal(assemble(plan.result, pieces_of(store, found)), LARGE)
    assert (type(missing).__name__, type(mismatch).__name__) == ("TensorNotFoundError", "GenerationMismatchError")
    assert (ids(store, at), ids(store)) == (["t", "deleted"], ["t", "new"])
    listed, _ = store.list_tensors("d", Compare(Key("n"), Operator.GREATER, 1), Order("id"), at=at)
    assert [one.id for one in listed if isinstance(one, Tensor)] == ["deleted"]
    assert (store.dataset_stats("d", at).tensors, store.dataset_stats("d").tensors) == (2, 2)
    assert store.dataset_stats("d", at).canonical_bytes == LARGE.nbytes + 12
    assert list(filter(None, store.verify(Target("d")))) == []
    assert set_aside_now(store) == 0


def test_pages_and_samples_stay_in_the_state_in_which_they_began(store: Engine) -> None:
    store.update_dataset("d", None, None, 1000)
    for number in range(9):
        insert(store, "d", f"{number}", np.ones(1, np.float32))
    # A state by time is found once; the token has its generation.
    now = At(time_us=time.time_ns() // 1000 + 10**9)
    page, token = store.list_tensors("d", None, Order("id"), page_size=4, at=now)
    first = store.select(Query("d", sample=9, seed=7, at=now), with_payloads=False)
    sampled = [tensor.id for _, tensor in zip(range(4), first, strict=False) if isinstance(tensor, Tensor)]
    resume = first.token(first.place)
    store.delete_tensors("d", ["0", "5", "8"])
    insert(store, "d", "4", np.zeros(1, np.float32), replace=True)
    insert(store, "d", "55", np.zeros(1, np.float32))
    found = [one.id for one in page if isinstance(one, Tensor)]
    while token:
        page, token = store.list_tensors("d", None, Order("id"), page_size=4, page_token=token, at=now)
        found += [one.id for one in page if isinstance(one, Tensor)]
    assert found == [f"{number}" for number in range(9)]
    rest = store.select(Query("d", sample=9, seed=7, at=now), with_payloads=True, resume_token=resume)
    sampled += [tensor.id for tensor in rest if isinstance(tensor, Tensor)]
    assert sorted(sampled) == found
    # A token belongs to the state, too.
    _, token = store.list_tensors("d", None, Order("id"), page_size=1, at=now)
    with pytest.raises(InvalidPageTokenError, match="belongs to a listing with another"):
        store.list_tensors("d", None, Order("id"), page_size=1, page_token=token)
    with pytest.raises(InvalidPageTokenError, match="belongs to another query"):
        store.select(Query("d", sample=9, seed=7), with_payloads=False, resume_token=resume)


def test_what_is_no_state_has_a_reason(store: Engine) -> None:
    insert(store, "d", "t", np.ones(1, np.float32))
    store.delete_tensors("d", ["t"])
    for at, error in (
        (At(), InvalidRequestError),
        (At(snapshot="s", generation=1), InvalidRequestError),
        (At(snapshot="no"), SnapshotNotFoundError),
        (At(generation=1), StateNotKeptError),
        (At(generation=99), StateNotKeptError),
        (At(time_us=0), StateNotKeptError),
        (At(time_us=-(2**62)), StateNotKeptError),
    ):
        for call in (
            lambda at=at: store.get_tensor("d", "t", at),
            lambda at=at: list(store.find("d", [Read("t")], with_payloads=False, at=at)),
            lambda at=at: store.select(Query("d", at=at), with_payloads=False),
            lambda at=at: store.list_tensors("d", None, Order(), at=at),
            lambda at=at: store.dataset_stats("d", at),
            lambda at=at: store.snapshots.restore("d", at),
        ):
            with pytest.raises(error):
                call()
    for name in ("", "a@b", "a\nb", "x" * 256):
        with pytest.raises(InvalidNameError, match="name of a snapshot"):
            store.snapshots.create("d", name)
    for retention_s, limit in ((-1, InvalidRequestError), (RETENTION_S_MAX + 1, LimitExceededError)):
        with pytest.raises(limit, match="retention is"):
            store.create_dataset("e", retention_s=retention_s)
        with pytest.raises(limit, match="retention is"):
            store.update_dataset("d", None, None, retention_s)
    assert store.update_dataset("d", None, None, RETENTION_S_MAX).retention_s == RETENTION_S_MAX
    assert store.create_dataset("e", retention_s=5).retention_s == store.get_dataset("e").retention_s == 5


def test_snapshots_come_in_pages(store: Engine) -> None:
    made = [store.snapshots.create("d", f"s{number}") for number in range(5)]
    found, token = store.snapshots.page("d", page_size=2)
    assert (found, bool(token)) == (made[:2], True)
    found, token = store.snapshots.page("d", page_token=token, take=lambda one: one == made[2])
    assert (found, bool(token)) == (made[2:3], True)
    assert store.snapshots.page("d", page_token=token) == (made[3:], "")
    with pytest.raises(InvalidPageTokenError):
        store.snapshots.page("d", page_token="no")
    with pytest.raises(LimitExceededError):
        store.snapshots.page("d", page_size=1001)
    with pytest.raises(HasSnapshotsError):
        store.delete_dataset("d")
    store.delete_dataset("d", drop_snapshots=True)


def test_a_drop_frees_in_the_background_what_only_the_snapshot_needed(store: Engine) -> None:
    insert(store, "d", "t", LARGE)
    store.snapshots.create("d", "s")
    store.delete_tensors("d", ["t"])
    store.sweep()
    assert len(list(store._chunk_store.published())) == 1
    store.snapshots.drop("d", "s")
    # The purger was woken; sweeping is the business of another thread.
    eventually(lambda: store.sweep().deleted == 1)
    assert list(store._chunk_store.published()) == []


def test_a_sweep_now_prunes_first(store: Engine) -> None:
    store.update_dataset("d", None, None, 1000)
    insert(store, "d", "t", LARGE)
    store.delete_tensors("d", ["t"])
    assert store.sweep(in_grace=True).deleted == 0
    store._purger.close(WAIT_S)
    store.update_dataset("d", None, None, 0)
    assert store.sweep(in_grace=True).deleted == 1


def test_a_restore_brings_back_bytes_metadata_and_edits(store: Engine) -> None:
    insert(store, "d", "t", LARGE, metadata={"n": 1})
    insert(store, "d", "t", LARGE, edit=Append(0))
    insert(store, "d", "small", np.ones(3, np.float32))
    at = At(generation=store.snapshots.create("d", "s").generation)
    before = find(store, "d", "t")
    insert(store, "d", "t", LARGE, edit=Append(0))
    store.update_metadata("d", "t", {"n": 2})
    store.delete_tensors("d", ["small"])
    insert(store, "d", "new", LARGE)
    with pytest.raises(NewerTensorsError):
        store.snapshots.restore("d", at)
    restored = store.snapshots.restore("d", at, discard_newer=True)
    assert (restored.restored, restored.deleted, restored.unchanged) == (2, 1, 0)
    store.sweep(in_grace=True)
    after = find(store, "d", "t")
    assert (after.generation, after.ordinal) > (before.generation, before.ordinal)
    assert (after.metadata, after.locator) == ({"n": 1}, before.locator)
    assert np.array_equal(read(store, "d", "t"), np.concatenate([LARGE, LARGE]))
    assert np.array_equal(read(store, "d", "small"), np.ones(3, np.float32))
    # The restored tensor can be edited; the snapshot stays as it was.
    insert(store, "d", "t", LARGE, edit=Append(0))
    store.sweep(in_grace=True)
    assert store.get_tensor("d", "t", at).spec.shape == (200_000,)
    assert list(filter(None, store.verify(Target()))) == []


def test_damage_of_a_past_tensor_is_found_by_a_verification(store: Engine, tmp_path: Path) -> None:
    tensor = insert(store, "d", "t", LARGE)
    store.snapshots.create("d", "s")
    insert(store, "d", "t", LARGE + 1, replace=True)
    verification = store.verify(Target("d"))
    assert list(filter(None, verification)) == []
    progress = verification.progress
    assert (progress.tensors, progress.total_tensors) == (2, 2)
    assert progress.stored_bytes == progress.total_stored_bytes
    (path,) = (tmp_path / "store" / "chunks").glob(f"*/{tensor.locator.payload_key}")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    (damage,) = filter(None, store.verify(Target("d")))
    assert isinstance(damage, DataCorruptError)
    assert (damage.facts["tensor"], damage.facts["generation"]) == ("t", str(tensor.generation))
    assert list(filter(None, store.verify(Target("d", ["t"])))) == []


def test_recovery_leaves_the_past_as_it_is(store: Engine, tmp_path: Path) -> None:
    insert(store, "d", "t", LARGE)
    insert(store, "d", "gone", LARGE + 2)
    at = At(generation=store.snapshots.create("d", "s").generation)
    insert(store, "d", "t", LARGE + 1, replace=True)
    store.delete_tensors("d", ["gone"])
    recovery = recover(StoreFolder(tmp_path / "store"), store._catalogue)
    assert (recovery.known, recovery.findings, recovery.datasets) == (3, [], [])
    assert (ids(store), ids(store, at)) == (["t"], ["t", "gone"])


def test_payloads_of_the_past_belong_to_the_catalogue(store: Engine) -> None:
    tensor = insert(store, "d", "t", LARGE)
    store.snapshots.create("d", "s")
    store.delete_tensors("d", ["t"])
    with store._catalogue._database.read() as connection:  # type: ignore[attr-defined]
        found = opening._state(connection, max(migrations()))
        assert found.unknown([tensor.locator.key, "no"]) == {"no"}
        assert found.has_payloads()


def test_a_restore_does_not_reach_a_dataset_that_gets_the_name_meanwhile(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_dataset("other")
    insert(store, "other", "kept", LARGE)
    store.snapshots.create("d", "s")
    generation_of = store.snapshots.generation_of

    def resolve_and_swap(dataset: str, at: At) -> int:
        found = generation_of(dataset, at)
        store.copies.rename_dataset("d", "away")
        store.copies.rename_dataset("other", "d")
        return found

    monkeypatch.setattr(store.snapshots, "generation_of", resolve_and_swap)
    with pytest.raises(DatasetNotFoundError):
        store.snapshots.restore("d", At(snapshot="s"), discard_newer=True)
    assert np.array_equal(read(store, "d", "kept"), LARGE)
