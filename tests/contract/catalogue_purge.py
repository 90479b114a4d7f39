"""What every catalogue promises of deletions in batches, beside `CatalogueContract`: gone at once, removed bit by bit."""

from __future__ import annotations

import threading

import pytest

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, ids_of, listed, purge, stored_tensor
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.errors import DatasetNotFoundError
from tensorus_server.filter.tree import Compare, Exists, Key, Operator


def fill(catalogue: Catalogue, name: str, count: int) -> list[str]:
    """Make a dataset of this many tensors with metadata, every fourth of them inline, and return the keys of the others."""
    dataset = create(catalogue, name)
    group = [
        stored_tensor(
            dataset, f"{number}", metadata={"n": number}, inline_payload=b"x" if number % 4 == 0 else None, shape=(1, 2)
        )
        for number in range(count)
    ]
    commit(catalogue, *group)
    return [stored.locator.key for stored in group if stored.inline_payload is None]


class CataloguePurgeContract:
    """What every catalogue promises of deleted datasets. Fixtures as of `CatalogueContract`."""

    def test_a_deleted_dataset_is_gone_before_anything_is_purged(self, catalogue: Catalogue) -> None:
        fill(catalogue, "kept", 1)
        fill(catalogue, "deleted", 40)
        number = catalogue.datasets.get("deleted").number
        assert catalogue.datasets.delete("deleted") == 40
        assert catalogue.datasets.find(number) is None
        assert [found.name for found in listed(catalogue)] == ["kept"]
        for call in (catalogue.datasets.get, catalogue.datasets.stats, catalogue.datasets.delete):
            with pytest.raises(DatasetNotFoundError):
                call("deleted")

    def test_a_deleted_dataset_answers_to_no_name(self, catalogue: Catalogue) -> None:
        number = create(catalogue, "deleted").number
        catalogue.datasets.delete("deleted")
        for name in (f"\n{number}", "\n", "", f"{number}"):
            with pytest.raises(DatasetNotFoundError):
                catalogue.datasets.get(name)

    def test_a_new_dataset_of_the_same_name_lives_beside_the_rest_of_the_old_one(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        for generation in range(3):
            fill(catalogue, "d", 40 + generation)
            assert catalogue.datasets.delete("d") == 40 + generation
        dataset = create(catalogue, "d")
        (tensor,) = commit(catalogue, stored_tensor(dataset, "7", metadata={"n": 7}))
        catalogue = reopen()
        assert ids_of(catalogue, "d") == ids_of(catalogue, "d", Exists(Key("n"))) == ["7"]
        assert ids_of(catalogue, "d", Compare(Key("n"), Operator.LESS, 7)) == []
        assert catalogue.datasets.stats("d").tensors == 1
        assert purge(catalogue) == 40 + 41 + 42
        assert catalogue.tensors.get("d", ["7"]) == [tensor]

    def test_what_is_purged_leaves_its_payloads_to_the_sweep(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        keys = fill(catalogue, "deleted", 100)
        kept = fill(catalogue, "kept", 100)
        catalogue.datasets.delete("deleted")
        assert catalogue.garbage.due(1000) == []
        assert catalogue.garbage.orphans(keys) == set()
        assert purge(catalogue) == 100
        assert sorted(catalogue.garbage.due(1000)) == sorted(keys)
        assert catalogue.garbage.orphans(kept) == set()
        assert len(ids_of(catalogue, "kept")) == 100

    def test_nothing_is_left_to_purge_afterwards(self, catalogue: Catalogue, reopen: Reopen) -> None:
        fill(catalogue, "a", 20)
        create(catalogue, "empty")
        for name in ("a", "empty"):
            catalogue.datasets.delete(name)
        assert purge(catalogue) == 20
        assert purge(catalogue) == 0
        assert purge(reopen()) == 0

    @keeps(2)
    def test_a_stop_between_two_batches_leaves_the_rest_to_the_next_call(
        self, catalogue: Catalogue, reopen: Reopen, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tensorus_server.catalogue.sql.purge.BATCH_S", 1e-9)
        fill(catalogue, "d", 100)
        catalogue.datasets.delete("d")
        batches = []
        while purged := catalogue.datasets.purge(lambda _: True):
            batches.append(purged)
            catalogue = reopen()
        assert sum(batches) == 100
        assert len(batches) > 3

    def test_others_write_between_the_batches(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tensorus_server.catalogue.sql.purge.BATCH_S", 1e-9)
        fill(catalogue, "d", 100)
        kept = create(catalogue, "kept")
        catalogue.datasets.delete("d")

        def pause(seconds: float) -> bool:
            assert seconds >= 0
            commit(catalogue, stored_tensor(kept, f"{len(ids_of(catalogue, 'kept'))}"))
            return False

        assert catalogue.datasets.purge(pause) == 100
        assert len(ids_of(catalogue, "kept")) > 3

    def test_a_dataset_that_is_deleted_meanwhile_is_purged_too(self, catalogue: Catalogue) -> None:
        for name in "ab":
            fill(catalogue, name, 10)
        catalogue.datasets.delete("a")

        def pause(_: float) -> bool:
            if listed(catalogue):
                catalogue.datasets.delete("b")
            return False

        assert catalogue.datasets.purge(pause) == 20

    @keeps(10)
    def test_two_that_purge_at_once_count_each_tensor_once(self, catalogue: Catalogue) -> None:
        fill(catalogue, "d", 200)
        catalogue.datasets.delete("d")
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(purge(catalogue))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert sum(counts) == 200

    def test_what_commits_into_a_deleted_dataset_is_refused(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, "d")
        catalogue.datasets.delete("d")
        create(catalogue, "d")
        (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, "late")])
        assert isinstance(outcome, DatasetNotFoundError)
        assert ids_of(catalogue, "d") == []

    def test_a_deletion_of_many_tensors_takes_turns_with_others(
        self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tensorus_server.catalogue.sql.tensors.BATCH_S", 1e-9)
        fill(catalogue, "d", 30)
        kept = create(catalogue, "kept")
        turns = []

        def sleep(_: float) -> None:
            turns.append(commit(catalogue, stored_tensor(kept, f"{len(turns)}")))

        monkeypatch.setattr("tensorus_server.catalogue.sql.tensors.time.sleep", sleep)
        assert catalogue.tensors.delete("d", [f"{number}" for number in range(50)]) == [f"{n}" for n in range(30)]
        assert ids_of(catalogue, "d") == []
        assert len(turns) > 3
