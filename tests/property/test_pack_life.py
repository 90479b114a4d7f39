"""Random programs on packs, with a crash at any step of a sweep, and with others at work at any step of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.pack_world import CrashedError, PackWorld
from tensorus_server.engine import packs as packs_module

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


@pytest.mark.parametrize("world", range(12), indirect=True)
def test_after_any_program_and_any_crash_everything_reads_and_no_object_is_left(world: PackWorld) -> None:
    for _ in range(60):
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
