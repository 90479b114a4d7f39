"""Random programs on packs, with a crash at any step of a sweep, and with others at work at any step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from support.pack_world import CrashedError, PackWorld
from tensorus_server.catalogue.abc import EqualTensor, StoredTensor, TensorCopies
from tensorus_server.engine import packs as packs_module
from tensorus_server.model import Tensor

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")

OPERATIONS: list[Callable[[PackWorld], object]] = [
    PackWorld.insert,
    PackWorld.insert,
    PackWorld.equal,
    PackWorld.edit,
    PackWorld.delta,
    PackWorld.copy,
    PackWorld.delete,
    PackWorld.delete,
    PackWorld.snapshot,
    PackWorld.drop_snapshot,
    PackWorld.sweep,
]


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several groups of packs are moved in one sweep."""
    monkeypatch.setattr(packs_module, "PACK_BYTES_MAX", 1500)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[PackWorld]:
    made = PackWorld(request.param)
    yield made
    made.close()


@pytest.mark.parametrize("world", range(8), indirect=True)
def test_after_any_program_and_any_crash_everything_reads_and_no_object_is_left(world: PackWorld) -> None:
    for _ in range(50):
        if world.random.random() < 0.15:
            world.steps.plan(world.random.randint(1, 60), None)
            try:
                world.sweep()
                world.steps.clear()
            except CrashedError:
                world.restart()
        else:
            world.random.choice(OPERATIONS)(world)
        world.check()
    world.settle()
    world.check()
    world.check_objects()
    world.delete(1.0)
    for name in list(world.snapshots):
        world.catalogue.snapshots.drop("dataset", name)
    world.snapshots.clear()
    world.catalogue.snapshots.prune(lambda _: False)
    world.settle()
    assert list(world.store.packs.packs()) == []


def share_what_moves(world: PackWorld) -> None:
    """Insert the bytes of the tensors that are about to move, each once more."""
    for found in list(world.tensors):
        (key,) = world.staged(world.bytes[world.tensors[found]])
        world.commit([world.new(f"{found}'", key)])


def copy_what_moves(world: PackWorld) -> None:
    """Copy them."""
    for found in list(world.tensors):
        copies = TensorCopies("dataset", "dataset", [(found, f"{found}'")])
        world.catalogue.copies.copy_tensors(copies, lambda *_: None)
        world.tensors[f"{found}'"] = world.tensors[found]


def late(make: Callable[[PackWorld, Tensor], StoredTensor]) -> Callable[[PackWorld], None]:
    """Commit tensors that were made from the rows as they were before the sweep."""

    def commit(world: PackWorld) -> None:
        for row in world.before:
            world.commit([make(world, row)])

    commit.__name__ = f"late {make.__name__}"
    return commit


def late_equals(world: PackWorld) -> None:
    """Commit tensors with equal ones that were looked up before the sweep."""
    for number, row in enumerate(world.before):
        (key,) = world.staged(world.bytes[row.locator.payload_key])
        stored = world.new(f"late {number}", key)
        equals = (EqualTensor(row, stored.source_crc32c, ()),)
        (outcome,) = world.catalogue.tensors.commit([replace(stored, equals=equals)])
        assert isinstance(outcome, Tensor)
        world.tensors[outcome.id] = outcome.locator.payload_key
        if outcome.locator.key != key:
            world.store.delete(key)


def restore(world: PackWorld) -> None:
    """Bring back what the snapshot has."""
    ((name, (at, tensors)),) = world.snapshots.items()
    world.catalogue.tensors.restore("dataset", at, limit=1000, discard_newer=True)
    world.tensors = dict(tensors)
    assert name


MEANWHILE = [
    share_what_moves,
    copy_what_moves,
    late(PackWorld.edited),
    late(PackWorld.based),
    late_equals,
    restore,
    PackWorld.snapshot,
    PackWorld.drop_snapshot,
    partial(PackWorld.delete, share=1.0),
    PackWorld.sweep,
]


@pytest.mark.parametrize("meanwhile", MEANWHILE, ids=lambda found: getattr(found, "__name__", "delete"))
def test_whatever_others_do_at_any_step_of_a_sweep_everything_reads(meanwhile: Callable[[PackWorld], object]) -> None:
    step: int | None = 0
    times = 0
    while step is not None:
        world = PackWorld(step)
        try:
            for _ in range(3):
                world.insert(6)
            # Of each pack, a third is left; the snapshot has one of them that is no longer current.
            for found in [found for number, found in enumerate(list(world.tensors)) if number % 3]:
                world.delete_one(found)
            world.snapshot()
            world.delete_one(next(iter(world.tensors)))
            world.before = [world.row(found) for found in world.tensors]
            world.steps.plan(step + 1, partial(meanwhile, world))
            world.sweep()
            step = world.steps.acted_at
            world.steps.clear()
            world.check()
            world.settle()
            world.check()
            world.check_objects()
        finally:
            world.close()
        times += 1
    assert times > 15
