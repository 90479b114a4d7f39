"""What every catalogue promises of snapshots, earlier states, retention and restores, beside `CatalogueContract`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from contract.catalogue_program import LIMIT, Program, pages, plain, prune
from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, ids_of, purge, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, Order, PageRequest, TensorCopies
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    HasSnapshotsError,
    LimitExceededError,
    NewerTensorsError,
    SnapshotNotFoundError,
    StateNotKeptError,
)
from tensorus_server.model import At, Tensor


class CatalogueHistoryContract:
    """An earlier state is what it was, as long as something needs it. Fixtures as of `CatalogueContract`."""

    @pytest.mark.parametrize("retention_s", [0, 10**6])
    @pytest.mark.parametrize("seed", range(3))
    @keeps(2, 4, 6, 7, 9)
    def test_each_state_is_what_it_was_or_not_kept(
        self, catalogue: Catalogue, reopen: Reopen, seed: int, retention_s: int
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        program = Program(catalogue, create(catalogue, retention_s=retention_s), seed)
        program.note()
        for number in range(120):
            program.step()
            if number % 10 == 9:
                kept = {at for at in program.states if program.check(at)}
                assert kept >= set(program.snapshots.values())
                assert retention_s == 0 or kept == set(program.states)
                for at in program.random.sample(sorted(kept), min(len(kept), 2)):
                    program.check_listings(at)
        assert min(program.did[name] for name in ("insert", "replace", "edit", "delete", "metadata", "restore")) > 2
        # When nothing needs them any more, all past tensors and their payloads go.
        for name in program.snapshots:
            catalogue.snapshots.drop("dataset", name)
        catalogue.datasets.update("dataset", None, None, 0)
        program.sweep()
        needed = {key for tensor in program.now.values() for key in program.needs[tensor.generation]}
        assert {key.encode() for key in needed} <= set(catalogue.garbage.known())
        assert program.swept == {key for keys in program.needs.values() for key in keys} - needed

    def test_snapshots_have_names_pages_and_generations(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        create(catalogue, "other")
        commit(catalogue, stored_tensor(dataset, "a"))
        made = [catalogue.snapshots.create("dataset", f"{number}") for number in range(5)]
        catalogue.snapshots.create("other", "0")
        with pytest.raises(AlreadyExistsError, match="a snapshot of the name '0' exists already"):
            catalogue.snapshots.create("dataset", "0")
        assert [snapshot.generation for snapshot in made] == [2, 3, 4, 5, 6]
        assert [catalogue.snapshots.find("dataset", snapshot.name) for snapshot in made] == made
        first = catalogue.snapshots.page("dataset", 0, 2)
        assert [found for _, found in first.snapshots] == made[:2]
        assert first.next is not None
        catalogue.snapshots.drop("dataset", "1")
        rest = catalogue.snapshots.page("dataset", first.next, 3)
        assert ([found for _, found in rest.snapshots], rest.next) == (made[2:], None)
        for call in (catalogue.snapshots.find, catalogue.snapshots.drop):
            with pytest.raises(SnapshotNotFoundError, match="there is no snapshot of the name '1'"):
                call("dataset", "1")
        with pytest.raises(SnapshotNotFoundError):
            catalogue.snapshots.resolve("dataset", At(snapshot="1"))
        for name, *arguments in (
            ("create", "s"),
            ("find", "s"),
            ("drop", "s"),
            ("page", 0, 1),
            ("resolve", At(snapshot="s")),
        ):
            with pytest.raises(DatasetNotFoundError):
                getattr(catalogue.snapshots, str(name))("no", *arguments)

    def test_a_time_is_the_last_change_that_is_not_later(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, retention_s=10**6)
        resolve = catalogue.snapshots.resolve
        (a,) = commit(catalogue, stored_tensor(dataset, "a"))
        changes = [(a.generation, a.created_us)]
        snapshot = catalogue.snapshots.create("dataset", "s")
        changes.append((snapshot.generation, snapshot.created_us))
        b = catalogue.tensors.replace_metadata("dataset", "a", {"b": 1})
        changes.append((b.generation, b.created_us))
        catalogue.tensors.delete("dataset", ["a"])
        latest = catalogue.tensors.latest_generation()
        # A restore of the wrong year must not delete everything.
        with pytest.raises(StateNotKeptError, match="is not kept: the dataset was created later"):
            resolve("dataset", At(time_us=0))
        assert resolve("dataset", At(time_us=dataset.created_us)) in (0, a.generation)
        for time_us in (time_us + d for _, time_us in changes for d in (-1, 0) if time_us + d >= dataset.created_us):
            expected = max((generation for generation, at_us in changes if at_us <= time_us), default=0)
            assert resolve("dataset", At(time_us=time_us)) == expected
        # What is replaced is there until it is: also in the generation of its deletion.
        assert all(ids_at(catalogue, generation) == ["a"] for generation in range(a.generation, b.generation + 1))
        assert resolve("dataset", At(time_us=2**62)) == latest
        assert resolve("dataset", At(generation=snapshot.generation)) == snapshot.generation
        # The change that was pruned last still says where states begin.
        for name in ("c", "d"):
            commit(catalogue, stored_tensor(dataset, name))
        catalogue.tensors.delete("dataset", ["c"])
        catalogue.snapshots.drop("dataset", "s")
        catalogue.datasets.update("dataset", None, None, 0)
        assert prune(catalogue) == 3
        assert resolve("dataset", At(time_us=2**62)) == catalogue.tensors.latest_generation()
        assert ids_at(catalogue, catalogue.tensors.latest_generation()) == ["d"]
        for at in (At(generation=latest), At(time_us=b.created_us), At(time_us=dataset.created_us)):
            with pytest.raises(StateNotKeptError, match=r"is not kept: .*states are complete from generation"):
                resolve("dataset", at)
        for generation in (-1, 10**6, 2**64 - 1):
            with pytest.raises(StateNotKeptError, match=f"no state at generation {generation} yet"):
                resolve("dataset", At(generation=generation))

    def test_a_change_that_nothing_keeps_ends_the_states_before_it_and_now_stays_readable(
        self, catalogue: Catalogue
    ) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name, metadata={"n": 1}) for name in "abc"))
        create(catalogue, "other")

        def lose(change: Callable[[], object]) -> None:
            before = catalogue.tensors.latest_generation()
            assert catalogue.snapshots.resolve("dataset", At(generation=before)) == before
            change()
            for at in (At(generation=before), At(time_us=dataset.created_us)):
                with pytest.raises(StateNotKeptError):
                    catalogue.snapshots.resolve("dataset", at)
            now = catalogue.snapshots.resolve("dataset", At(time_us=2**62))
            tensors = catalogue.tensors.page("dataset", PageRequest()).tensors
            assert [plain(tensor) for tensor in pages(catalogue, now)] == [plain(tensor) for tensor in tensors]

        lose(lambda: catalogue.tensors.replace_metadata("dataset", "a", {"n": 2}))
        now = catalogue.tensors.latest_generation()
        catalogue.tensors.replace_metadata("dataset", "a", {"n": 2})
        assert catalogue.snapshots.resolve("dataset", At(generation=now)) == now
        lose(lambda: catalogue.tensors.delete("dataset", ["c"]))
        at = catalogue.tensors.latest_generation()
        commit(catalogue, stored_tensor(dataset, "d"))
        lose(lambda: catalogue.tensors.restore("dataset", at, limit=LIMIT, discard_newer=True))
        move = TensorCopies("dataset", "other", [("a", "a")], move=True)
        lose(lambda: catalogue.copies.copy_tensors(move, lambda *_: None))

    def test_a_listing_is_stable_while_its_tensors_move_to_the_past(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        names = [f"{number:02}" for number in range(30)]
        commit(catalogue, *(stored_tensor(dataset, name, stored_bytes=40 + int(name) % 3) for name in names))
        at = catalogue.snapshots.create("dataset", "s").generation
        for order in (Order(), Order("id", descending=True), Order("stored_bytes")):
            expected = [tensor.id for tensor in pages(catalogue, at, order=order)]
            request, found = PageRequest(order=order, size=4, at=at), list[str]()
            left = list(names)
            while True:
                page = catalogue.tensors.page("dataset", request)
                found += [tensor.id for tensor in page.tensors if isinstance(tensor, Tensor)]
                if page.next is None:
                    break
                request = replace(request, after=page.next)
                catalogue.tensors.delete("dataset", left[:3] + left[-1:])
                commit(catalogue, stored_tensor(dataset, f"new {len(left)}"))
                left = left[3:-1]
            assert found == expected
            assert sorted(found) == names
            result = catalogue.tensors.restore("dataset", at, limit=LIMIT, discard_newer=True)
            assert result.unchanged < 30
            assert sorted(ids_of(catalogue, "dataset")) == names

    def test_a_restore_loses_nothing_unless_it_may(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "a"))
        at = catalogue.snapshots.create("dataset", "s").generation
        commit(catalogue, stored_tensor(dataset, "b"))
        catalogue.tensors.delete("dataset", ["a"])
        with pytest.raises(NewerTensorsError, match="would lose newer tensors, 1 in number") as refused:
            catalogue.tensors.restore("dataset", at, limit=LIMIT)
        assert refused.value.facts["tensors"] == "1"
        with pytest.raises(LimitExceededError, match=r"changes more than 1 tensors \(restored_tensors_max\)"):
            catalogue.tensors.restore("dataset", at, limit=1, discard_newer=True)
        assert ids_of(catalogue, "dataset") == ["b"]
        # What a newer snapshot has is not lost.
        newer = catalogue.snapshots.create("dataset", "newer").generation
        catalogue.tensors.restore("dataset", at, limit=LIMIT)
        assert (ids_of(catalogue, "dataset"), ids_at(catalogue, newer)) == (["a"], ["b"])
        catalogue.tensors.restore("dataset", newer, limit=LIMIT)
        assert (ids_of(catalogue, "dataset"), ids_at(catalogue, at)) == (["b"], ["a"])
        with pytest.raises(StateNotKeptError):
            catalogue.tensors.restore("dataset", 10**6, limit=LIMIT)
        with pytest.raises(DatasetNotFoundError):
            catalogue.tensors.restore("no", at, limit=LIMIT)
        with pytest.raises(DatasetNotFoundError, match="another dataset has got the name"):
            catalogue.tensors.restore("dataset", at, limit=LIMIT, number=dataset.number + 1)
        assert ids_of(catalogue, "dataset") == ["b"]

    def test_a_deleted_dataset_leaves_nothing_of_its_past(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue, retention_s=100)
        keys = set()
        for name in ("a", "b"):
            stored = stored_tensor(dataset, name, key=new_payload_key())
            keys.add(stored.locator.key)
            commit(catalogue, stored)
            catalogue.snapshots.create("dataset", name)
        catalogue.tensors.delete("dataset", ["a"])
        with pytest.raises(HasSnapshotsError, match="the dataset has 2 snapshots; drop them"):
            catalogue.datasets.delete("dataset")
        assert [found.name for _, found in catalogue.snapshots.page("dataset", 0, 9).snapshots] == ["a", "b"]  # type: ignore[union-attr]
        assert catalogue.garbage.due(10) == []
        assert catalogue.datasets.delete("dataset", drop_snapshots=True) == 1
        assert purge(catalogue) == 1
        assert set(catalogue.garbage.due(10)) == keys
        # A dataset with the same name has nothing of it.
        latest = catalogue.tensors.latest_generation()
        commit(catalogue, stored_tensor(create(catalogue), "c"))
        assert ids_at(catalogue, latest) == []
        assert catalogue.snapshots.page("dataset", 0, 9).snapshots == []

    def test_the_retention_of_a_dataset_survives_and_counts(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue, retention_s=3600)
        assert dataset.retention_s == 3600
        (tensor,) = commit(catalogue, stored_tensor(dataset, "a"))
        catalogue.tensors.delete("dataset", ["a"])
        catalogue = reopen()
        assert catalogue.datasets.get("dataset") == dataset
        assert prune(catalogue) == 0
        assert ids_at(catalogue, tensor.generation) == ["a"]
        assert catalogue.datasets.update("dataset", None, None) == dataset
        assert catalogue.datasets.update("dataset", None, None, 0) == replace(dataset, retention_s=0)
        assert prune(catalogue) == 1
        assert prune(catalogue) == 0
        with pytest.raises(StateNotKeptError):
            ids_at(catalogue, tensor.generation)

    def test_nothing_is_kept_where_nothing_needs_it(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        old = stored_tensor(dataset, "a")
        (tensor,) = commit(catalogue, old)
        updated = catalogue.tensors.replace_metadata("dataset", "a", {"b": 1})
        assert (updated.generation, updated.ordinal) == (tensor.generation, tensor.ordinal)
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.garbage.due(10) == [old.locator.key]
        with pytest.raises(StateNotKeptError):
            catalogue.snapshots.resolve("dataset", At(generation=tensor.generation))
        # A tensor that is newer than the only snapshot is not in it.
        catalogue.snapshots.create("dataset", "s")
        new = stored_tensor(dataset, "a")
        commit(catalogue, new)
        catalogue.tensors.delete("dataset", ["a"])
        assert set(catalogue.garbage.due(10)) == {old.locator.key, new.locator.key}

    def test_what_is_recovered_has_no_earlier_states(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, retention_s=100)
        (old,) = commit(catalogue, stored_tensor(dataset, "old"))
        (recovered,) = commit(catalogue, replace(stored_tensor(dataset, "recovered"), created_us=old.created_us - 1))
        assert recovered.created_us == old.created_us - 1
        with pytest.raises(StateNotKeptError):
            ids_at(catalogue, old.generation)
        assert ids_at(catalogue, recovered.generation) == ["old", "recovered"]

    def test_a_repeated_change_of_metadata_makes_no_second_generation(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, retention_s=100)
        (first,) = commit(catalogue, stored_tensor(dataset, "a", inline_payload=b"payload", metadata={"n": 1}))
        changed = catalogue.tensors.replace_metadata("dataset", "a", {"n": 2})
        assert changed.generation > first.generation
        assert changed.ordinal == first.ordinal + 1
        assert catalogue.tensors.replace_metadata("dataset", "a", {"n": 2}) == changed
        (now,) = catalogue.tensors.get("dataset", ["a"], with_payloads=True)
        (then,) = catalogue.tensors.get("dataset", ["a"], with_payloads=True, at=first.generation)
        assert isinstance(now, Tensor)
        assert isinstance(then, Tensor)
        assert (now.inline_payload, then.inline_payload) == (b"payload", b"payload")
        assert (now.metadata, then.metadata) == ({"n": 2}, {"n": 1})


def ids_at(catalogue: Catalogue, at: int) -> list[str]:
    """Return the ids of a state."""
    page = catalogue.tensors.page("dataset", PageRequest(at=at))
    return [tensor.id for tensor in page.tensors if isinstance(tensor, Tensor)]
