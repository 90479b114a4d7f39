"""A random program of changes of one dataset, which knows what every state of it was, and reads of a state."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

from support.engine import commit, stored_tensor
from tensorus_server.catalogue.abc import ORDER_FIELDS, Catalogue, Order, PageRequest, StoredTensor
from tensorus_server.errors import StateNotKeptError
from tensorus_server.filter.tree import AllOf, Compare, Dimension, Filter, Key, Not, Operator, Property
from tensorus_server.model import Dataset, Tensor

LIMIT = 1000

IDS = ("a", "b", "c", "ä", "Z", "long" * 5)

FILTERS: list[Filter | None] = [
    None,
    Compare(Key("n"), Operator.LESS, 3),
    Not(Compare(Key("n"), Operator.EQUAL, 2)),
    AllOf((Compare(Dimension(0), Operator.GREATER, 2), Compare(Property.ID, Operator.LESS, "c"))),
]


def prune(catalogue: Catalogue) -> int:
    """Delete what nothing needs, without a pause."""
    return catalogue.snapshots.prune(lambda _: False)


def pages(catalogue: Catalogue, at: int, size: int = 2, **fields: object) -> list[Tensor]:
    """Return all pages of a listing of a state."""
    request = PageRequest(size=size, at=at, with_payloads=True, **fields)  # type: ignore[arg-type] - fields of a request
    found: list[Tensor] = []
    while True:
        page = catalogue.tensors.page("dataset", request)
        found += [tensor for tensor in page.tensors if isinstance(tensor, Tensor)]
        if page.next is None:
            return found
        request = replace(request, after=page.next)


def plain(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor without what a listing may leave out."""
    return None if tensor is None else replace(tensor, inline_payload=None, outcome=None)


def passes(tensor: Tensor, filter_: Filter | None) -> bool:
    """Whether one of `FILTERS` finds a tensor."""
    n = tensor.metadata.get("n")
    return [
        True,
        n is not None and n < 3,
        n != 2,
        tensor.spec.shape[0] > 2 and tensor.id < "c",
    ][FILTERS.index(filter_)]


SORT = {
    "created": lambda tensor: tensor.generation,
    "id": lambda tensor: (tensor.id, tensor.generation),
    "nbytes": lambda tensor: (tensor.storage.canonical_bytes, tensor.generation),
    "stored_bytes": lambda tensor: (tensor.storage.stored_bytes, tensor.generation),
}


class Program:
    """Random changes of one dataset, and what every state of it was."""

    def __init__(self, catalogue: Catalogue, dataset: Dataset, seed: int) -> None:
        self.catalogue = catalogue
        self.dataset = dataset
        self.random = random.Random(seed)
        self.now: dict[str, Tensor] = {}
        self.states: dict[int, dict[str, Tensor]] = {}
        self.needs: dict[int, set[str]] = {}
        """The payload keys that a tensor needs, by generation."""
        self.payloads: dict[int, bytes | None] = {}
        self.snapshots: dict[str, int] = {}
        self.swept: set[str] = set()
        self.did = Counter[str]()

    def step(self) -> None:
        """Do one random change, and note the state that it leads to."""
        names = ("insert", "insert", "replace", "edit", "delete", "metadata", "snapshot", "drop", "restore", "sweep")
        name = self.random.choice(names)
        if getattr(self, name)() is not False:
            self.did[name] += 1
        self.note()

    def note(self) -> None:
        self.states[self.catalogue.tensors.latest_generation()] = dict(self.now)

    def new(self, tensor_id: str, **fields: object) -> StoredTensor:
        inline = self.random.choice((None, self.random.randbytes(20)))
        return stored_tensor(
            self.dataset,
            tensor_id,
            metadata={"n": self.random.randrange(5)},
            shape=(self.random.randrange(5),),
            stored_bytes=self.random.randrange(40, 44),
            inline_payload=inline,
            **fields,  # type: ignore[arg-type] - fields of `stored_tensor`
        )

    def commit(self, stored: StoredTensor) -> None:
        (tensor,) = commit(self.catalogue, stored)
        self.now[tensor.id] = replace(tensor, outcome=None)
        self.needs[tensor.generation] = {*stored.references, *(() if stored.is_inline else (stored.locator.key,))}
        self.payloads[tensor.generation] = stored.inline_payload
        assert not self.needs[tensor.generation] & self.swept

    def insert(self) -> bool:
        free = [name for name in IDS if name not in self.now]
        if free:
            self.commit(self.new(self.random.choice(free)))
        return bool(free)

    def replace(self) -> bool:
        if not self.now:
            return False
        stored = self.new(self.random.choice(sorted(self.now)))
        self.commit(replace(stored, new=replace(stored.new, replace=True)))
        return True

    def edit(self) -> bool:
        old = [tensor for tensor in self.now.values() if self.payloads[tensor.generation] is None]
        if not old:
            return False
        tensor = self.random.choice(old)
        stored = stored_tensor(self.dataset, tensor.id, if_generation_match=tensor.generation)
        shared = sorted(self.needs[tensor.generation])
        stored = replace(stored, references=tuple(shared[: self.random.randrange(3)]), changes=tensor.generation)
        self.commit(replace(stored, new=replace(stored.new, metadata=tensor.metadata)))
        return True

    def delete(self) -> bool:
        if not self.now:
            return False
        gone = self.random.sample(sorted(self.now), min(len(self.now), self.random.choice((1, 2))))
        assert sorted(self.catalogue.tensors.delete("dataset", gone)) == sorted(gone)
        for tensor_id in gone:
            del self.now[tensor_id]
        return True

    def metadata(self) -> bool:
        if not self.now:
            return False
        old = self.now[self.random.choice(sorted(self.now))]
        new = self.catalogue.tensors.replace_metadata("dataset", old.id, {"n": self.random.randrange(5)})
        assert (new.id, new.locator, new.spec) == (old.id, old.locator, old.spec)
        self.now[old.id] = replace(new, outcome=None)
        self.needs[new.generation] = self.needs[old.generation]
        self.payloads[new.generation] = self.payloads[old.generation]
        if new.generation == old.generation and new != old:
            # The states that had it are not kept, or it would have been replaced.
            self.states = {g: state for g, state in self.states.items() if old not in state.values()}
        return True

    def snapshot(self) -> None:
        name = f"s{self.random.randrange(10**9)}"
        found = self.catalogue.snapshots.create("dataset", name)
        assert found.generation == self.catalogue.tensors.latest_generation()
        self.snapshots[name] = found.generation

    def drop(self) -> bool:
        if len(self.snapshots) < 3:
            return False
        name = self.random.choice(sorted(self.snapshots))
        self.catalogue.snapshots.drop("dataset", name)
        del self.snapshots[name]
        return True

    def restore(self) -> bool:
        if not self.snapshots:
            return False
        at = self.random.choice(sorted(self.snapshots.values()))
        wanted, before = self.states[at], dict(self.now)
        result = self.catalogue.tensors.restore("dataset", at, limit=LIMIT, discard_newer=True)
        found = {tensor.id: tensor for tensor in self.read(None)}
        assert found.keys() == wanted.keys()
        same = 0
        for tensor_id, old in wanted.items():
            new = found[tensor_id]
            renumbered = replace(
                new, generation=old.generation, ordinal=old.ordinal, created_us=old.created_us, inline_payload=None
            )
            assert renumbered == old
            is_same = before.get(tensor_id) == plain(new)
            assert is_same or new.generation > max(self.states)
            same += is_same
            self.needs[new.generation] = self.needs[old.generation]
            self.payloads[new.generation] = self.payloads[old.generation]
        self.now = {tensor_id: replace(tensor, inline_payload=None) for tensor_id, tensor in found.items()}
        gone = len(before.keys() - wanted.keys())
        assert (result.generation, result.restored, result.deleted, result.unchanged) == (
            at,
            len(wanted) - same,
            gone,
            same,
        )
        latest = self.catalogue.tensors.latest_generation()
        again = self.catalogue.tensors.restore("dataset", at, limit=0)
        assert (again.restored, again.deleted, again.unchanged) == (0, 0, len(wanted))
        assert self.catalogue.tensors.latest_generation() == latest
        return True

    def sweep(self) -> None:
        prune(self.catalogue)
        due = self.catalogue.garbage.due(1000)
        self.catalogue.garbage.delete(due)
        self.swept |= set(due)

    def read(self, at: int | None) -> list[Tensor]:
        page = self.catalogue.tensors.page("dataset", PageRequest(at=at, size=100, with_payloads=True))
        assert page.next is None
        return [tensor for tensor in page.tensors if isinstance(tensor, Tensor)]

    def check(self, at: int) -> bool:
        """Compare all reads of a state with what it was; return whether it is kept."""
        state = self.states[at]
        try:
            found = self.read(at)
        except StateNotKeptError:
            assert at not in self.snapshots.values()
            return False
        assert {tensor.id: plain(tensor) for tensor in found} == state
        known = set(self.catalogue.garbage.known())
        for tensor in found:
            assert {key.encode() for key in self.needs[tensor.generation]} <= known
            assert tensor.inline_payload == self.payloads[tensor.generation]
            assert not self.needs[tensor.generation] & self.swept
            assert self.catalogue.garbage.orphans(self.needs[tensor.generation]) == set()
        assert [plain(one) for one in self.get(at)] == [state.get(name) for name in IDS]
        generations = sorted(tensor.generation for tensor in state.values())
        others = [g for g in self.needs if g not in generations][:5]
        rows = self.catalogue.tensors.by_generation("dataset", [*generations, *others], at=at)
        assert [row and row.generation for row in rows] == [*generations, *[None] * len(others)]  # type: ignore[union-attr]
        stats = self.catalogue.datasets.stats("dataset", at)
        assert (stats.tensors, stats.damaged_tensors) == (len(state), 0)
        assert stats.stored_bytes == sum(tensor.storage.stored_bytes for tensor in state.values())
        return True

    def get(self, at: int) -> list[Tensor | None]:
        found = self.catalogue.tensors.get("dataset", IDS, at=at)
        return [one if isinstance(one, Tensor) else None for one in found]

    def check_listings(self, at: int) -> None:
        """Compare every order and filter."""
        for filter_ in FILTERS:
            wanted = [tensor for tensor in self.states[at].values() if passes(tensor, filter_)]
            generations = sorted(tensor.generation for tensor in wanted)
            assert self.catalogue.tensors.generations("dataset", PageRequest(filter_, at=at)) == generations
            for field in ORDER_FIELDS:
                for descending in (False, True):
                    ordered = sorted(wanted, key=SORT[field], reverse=descending)
                    found = pages(self.catalogue, at, filter=filter_, order=Order(field, descending))
                    assert [plain(tensor) for tensor in found] == ordered, (filter_, field, descending)
