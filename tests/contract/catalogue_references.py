"""What every catalogue promises of payloads that a tensor shares with others, beside `CatalogueContract`."""

from __future__ import annotations

from dataclasses import replace

from support.engine import Reopen, commit, create, purge, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import StoreBusyError
from tensorus_server.model import Dataset, Outcome, Tensor


def edited(dataset: Dataset, tensor: Tensor, *references: str, tensor_id: str = "t") -> StoredTensor:
    """Return the result of an edit that shares these payloads."""
    new = stored_tensor(dataset, tensor_id, if_generation_match=tensor.generation)
    return replace(new, references=references, changes=tensor.generation)


def sharing(dataset: Dataset, tensor: Tensor, tensor_id: str) -> StoredTensor:
    """Return a tensor that shares the payload of another one."""
    stored = stored_tensor(dataset, tensor_id, source=tensor.source_checksum.value)
    return replace(stored, locator=tensor.locator, shares_payload=True)


class CatalogueReferencesContract:
    """A payload is garbage as soon as no row has it or refers to it. Fixtures as of `CatalogueContract`."""

    def test_a_payload_that_an_edit_shares_is_kept(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t", metadata={"a": 1}))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        assert second.outcome is Outcome.CHANGED
        assert second.generation > first.generation
        assert catalogue.garbage.due(10) == []
        assert catalogue.garbage.orphans([first.locator.key, second.locator.key]) == set()
        assert set(catalogue.garbage.known()) >= {first.locator.key.encode(), second.locator.key.encode()}

    def test_a_payload_is_garbage_when_the_last_edit_leaves_it(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        (third,) = commit(catalogue, edited(dataset, second, second.locator.key))
        assert catalogue.garbage.due(10) == [first.locator.key]
        commit(catalogue, edited(dataset, third))
        assert sorted(catalogue.garbage.due(10)) == sorted([found.locator.key for found in (first, second, third)])

    def test_a_deletion_frees_all_payloads_of_a_tensor(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        assert catalogue.tensors.delete("dataset", ["t"]) == ["t"]
        assert sorted(catalogue.garbage.due(10)) == sorted([first.locator.key, second.locator.key])
        assert catalogue.garbage.orphans([first.locator.key]) == set()

    def test_a_whole_tensor_that_replaces_an_edited_one_frees_all_its_payloads(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        commit(catalogue, stored_tensor(dataset, "t", if_generation_match=second.generation))
        assert sorted(catalogue.garbage.due(10)) == sorted([first.locator.key, second.locator.key])

    def test_a_payload_that_two_tensors_refer_to_is_kept_for_the_other(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        shared = new_payload_key()
        commit(catalogue, *(replace(stored_tensor(dataset, name), references=(shared,)) for name in "ab"))
        catalogue.tensors.delete("dataset", ["a"])
        assert shared not in catalogue.garbage.due(10)
        catalogue.tensors.delete("dataset", ["b"])
        assert shared in catalogue.garbage.due(10)

    def test_the_payloads_of_a_deleted_dataset_are_freed_by_its_purge(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset, other = create(catalogue), create(catalogue, "other")
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        shared = new_payload_key()
        commit(catalogue, *(replace(stored_tensor(ds, "shares"), references=(shared,)) for ds in (dataset, other)))
        catalogue.datasets.delete("dataset")
        assert catalogue.garbage.due(10) == []
        purge(catalogue)
        due = catalogue.garbage.due(10)
        assert {first.locator.key, second.locator.key} <= set(due)
        assert shared not in due

    def test_the_payload_of_a_deletion_that_is_shared_again_is_kept(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        catalogue.tensors.delete("dataset", ["t"])
        assert catalogue.garbage.due(10) == [first.locator.key]
        commit(catalogue, replace(stored_tensor(dataset, "other"), references=(first.locator.key,)))
        assert catalogue.garbage.due(10) == []

    def test_a_payload_that_two_tensors_have_is_garbage_after_both(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        for number, (first, second) in enumerate([("a", "b"), ("b", "a")]):
            dataset, other = create(catalogue, f"dataset {number}"), create(catalogue, f"other {number}")
            places = {"a": dataset.name, "b": other.name}
            (source,) = commit(catalogue, stored_tensor(dataset, "a"))
            key = source.locator.key
            (copied,) = commit(catalogue, sharing(other, source, "b"))
            assert copied.locator == source.locator
            assert catalogue.tensors.delete(places[first], [first]) == [first]
            assert catalogue.garbage.due(10) == []
            catalogue = reopen(delete_grace_s=0.0)
            assert catalogue.garbage.due(10) == []
            assert catalogue.garbage.orphans([key]) == set()
            catalogue.tensors.delete(places[second], [second])
            assert catalogue.garbage.due(10) == [key]
            catalogue.garbage.delete([key])

    def test_a_payload_that_two_tensors_have_outlives_the_purge_of_one_and_the_replacement_of_the_other(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset, other = create(catalogue), create(catalogue, "other")
        (source,) = commit(catalogue, stored_tensor(dataset, "a"))
        (copied,) = commit(catalogue, sharing(other, source, "b"))
        catalogue.datasets.delete("dataset")
        purge(catalogue)
        assert catalogue.garbage.due(10) == []
        # An edit refers to the payload that it shares.
        (edit,) = commit(catalogue, edited(other, copied, source.locator.key, tensor_id="b"))
        assert catalogue.garbage.due(10) == []
        commit(catalogue, stored_tensor(other, "b", if_generation_match=edit.generation))
        assert sorted(catalogue.garbage.due(10)) == sorted([source.locator.key, edit.locator.key])

    def test_the_payload_of_a_deleted_tensor_that_another_one_gets_is_kept(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (source,) = commit(catalogue, stored_tensor(dataset, "a"))
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.garbage.due(10) == [source.locator.key]
        commit(catalogue, sharing(dataset, source, "b"))
        assert catalogue.garbage.due(10) == []

    def test_references_survive_a_reopening(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        (second,) = commit(catalogue, edited(dataset, first, first.locator.key))
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.garbage.orphans([first.locator.key]) == set()
        catalogue.tensors.delete("dataset", ["t"])
        assert sorted(catalogue.garbage.due(10)) == sorted([first.locator.key, second.locator.key])

    def test_an_edit_keeps_metadata_that_was_replaced_meanwhile(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t", metadata={"old": 1}))
        edit = edited(dataset, first, first.locator.key)
        catalogue.tensors.replace_metadata("dataset", "t", {"new": 2})
        (second,) = commit(catalogue, edit)
        assert second.metadata == {"new": 2}
        assert catalogue.tensors.get("dataset", ["t"]) == [replace(second, outcome=Outcome.INSERTED)]

    def test_an_edit_that_was_overtaken_fails_alone(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, stored_tensor(dataset, "t"))
        late = edited(dataset, first, first.locator.key)
        group = [
            stored_tensor(dataset, "a"),
            edited(dataset, first, first.locator.key),
            late,
            stored_tensor(dataset, "b"),
        ]
        outcomes = catalogue.tensors.commit(group)
        assert [type(outcome) for outcome in outcomes] == [Tensor, Tensor, StoreBusyError, Tensor]
        assert catalogue.garbage.orphans([late.locator.key]) == {late.locator.key}
        catalogue.tensors.delete("dataset", ["t"])
        (outcome,) = catalogue.tensors.commit([late])
        assert isinstance(outcome, StoreBusyError)
        assert catalogue.tensors.get("dataset", ["t"]) == [None]
