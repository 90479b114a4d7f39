"""What every catalogue promises of ordinals: a tensor's number within its dataset, in the order of commit, never reused."""

from __future__ import annotations

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    GenerationMismatchError,
    InsertAbandonedError,
)
from tensorus_server.filter.tree import Compare, Key, Operator
from tensorus_server.model import Tensor


def ordinals_of(catalogue: Catalogue, dataset: str = "dataset") -> dict[str, int]:
    """Return the ordinal of each tensor that is there, by id, in the order of their commits."""
    page = catalogue.tensors.page(dataset, PageRequest(size=1000))
    assert page.next is None
    return {tensor.id: tensor.ordinal for tensor in page.tensors}


class CatalogueOrdinalsContract:
    """What every catalogue promises of ordinals. Fixtures as of `CatalogueContract`."""

    def test_a_group_is_numbered_from_1_in_its_order(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        # Ids in another order than the group: it is the group's that counts.
        tensors = commit(catalogue, *(stored_tensor(dataset, name) for name in "cab"))
        assert [tensor.ordinal for tensor in tensors] == [1, 2, 3]
        assert ordinals_of(catalogue) == {"c": 1, "a": 2, "b": 3}

    def test_a_large_group_keeps_all_that_belongs_to_each(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "100", shape=(1,), source=b"same", metadata={"n": 100, "tags": []}))
        group = [
            stored_tensor(
                dataset,
                f"{number}",
                metadata={"n": number, "tags": ["x"] * (number % 4)},
                shape=(1,) * (number % 3),
                inline_payload=f"payload {number}".encode() if number % 5 else None,
                source=b"same" if number == 100 else None,
            )
            for number in range(203)
        ]
        # In its midst one that is there already, and a twin.
        committed = commit(catalogue, *group[:150], group[7], *group[150:])
        assert [tensor.ordinal for tensor in committed] == [
            *range(2, 102), 1, *range(102, 151), 9, *range(151, 204),
        ]  # fmt: skip
        tensors = reopen().tensors
        names = [stored.new.id for stored in group]
        found = tensors.get("dataset", names, with_payloads=True)
        for stored, tensor in zip(group, found, strict=True):
            assert tensor is not None
            if tensor.id != "100":
                assert (tensor.metadata, tensor.spec) == (stored.new.metadata, stored.new.spec)
                assert (tensor.locator, tensor.inline_payload) == (stored.locator, stored.inline_payload)
                assert tensor.source_checksum == stored.source_checksum
                at = Compare(Key("n"), Operator.EQUAL, tensor.metadata["n"])
                assert [one.id for one in tensors.page("dataset", PageRequest(at)).tensors] == [tensor.id]
        generations = [tensor.generation for tensor in found if tensor is not None]
        assert sorted(generations) == sorted(set(generations))
        assert tensors.by_generation("dataset", generations, with_payloads=True) == found

    def test_the_next_group_goes_on_where_the_one_before_ended(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "ab"))
        commit(catalogue, *(stored_tensor(dataset, name) for name in "cd"))
        catalogue = reopen()
        commit(catalogue, stored_tensor(dataset, "e"))
        assert ordinals_of(catalogue) == {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}

    def test_every_way_to_a_tensor_shows_its_ordinal(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        committed = commit(catalogue, stored_tensor(dataset, "a"), stored_tensor(dataset, "b", inline_payload=b"x"))
        tensors = reopen().tensors
        generations = [tensor.generation for tensor in committed]
        for found in (
            tensors.get("dataset", ["a", "b"]),
            tensors.get("dataset", ["a", "b"], with_payloads=True),
            tensors.page("dataset", PageRequest()).tensors,
            tensors.by_generation("dataset", generations),
        ):
            assert [tensor and tensor.ordinal for tensor in found] == [1, 2]

    def test_each_dataset_counts_its_own(self, catalogue: Catalogue) -> None:
        one, two = create(catalogue, "one"), create(catalogue, "two")
        commit(
            catalogue,
            stored_tensor(one, "a"),
            stored_tensor(two, "a"),
            stored_tensor(two, "b"),
            stored_tensor(one, "b"),
            stored_tensor(two, "c"),
        )
        commit(catalogue, stored_tensor(two, "d"), stored_tensor(one, "c"))
        assert ordinals_of(catalogue, "one") == {"a": 1, "b": 2, "c": 3}
        assert ordinals_of(catalogue, "two") == {"a": 1, "b": 2, "c": 3, "d": 4}

    @keeps(7)
    def test_an_ordinal_of_a_deleted_tensor_is_never_used_again(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        catalogue.tensors.delete("dataset", ["a", "c"])
        commit(catalogue, stored_tensor(dataset, "c"))
        assert ordinals_of(catalogue) == {"b": 2, "c": 4}
        # Not even where nothing is left that one could count on from.
        catalogue.tensors.delete("dataset", ["b", "c"])
        catalogue = reopen()
        commit(catalogue, stored_tensor(dataset, "d"))
        assert ordinals_of(catalogue) == {"d": 5}

    def test_a_dataset_created_anew_counts_from_1(self, catalogue: Catalogue) -> None:
        commit(catalogue, stored_tensor(create(catalogue), "a"))
        catalogue.datasets.delete("dataset")
        commit(catalogue, stored_tensor(create(catalogue), "b"))
        assert ordinals_of(catalogue) == {"b": 1}

    def test_an_update_of_the_dataset_leaves_its_count_alone(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "a"))
        catalogue.datasets.update("dataset", dataset.policy, dataset.schema)
        commit(catalogue, stored_tensor(dataset, "b"))
        assert ordinals_of(catalogue) == {"a": 1, "b": 2}

    def test_replaced_metadata_leaves_the_ordinal_as_it_is(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "ab"))
        assert catalogue.tensors.replace_metadata("dataset", "a", {"new": 1}).ordinal == 1
        commit(catalogue, stored_tensor(dataset, "c"))
        assert ordinals_of(catalogue) == {"a": 1, "b": 2, "c": 3}

    def test_a_tensor_that_replaces_another_has_a_new_ordinal(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        first, _ = commit(catalogue, *(stored_tensor(dataset, name) for name in "ab"))
        replacement = stored_tensor(dataset, "a", if_generation_match=first.generation)
        assert [tensor.ordinal for tensor in commit(catalogue, replacement, stored_tensor(dataset, "c"))] == [3, 4]
        assert ordinals_of(catalogue) == {"b": 2, "a": 3, "c": 4}

    def test_the_same_tensor_again_takes_no_ordinal(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "a", source=b"s" * 16), stored_tensor(dataset, "b"))
        tensors = commit(
            catalogue,
            stored_tensor(dataset, "a", source=b"s" * 16),
            stored_tensor(dataset, "c", source=b"c" * 16),
            stored_tensor(dataset, "c", source=b"c" * 16),
            stored_tensor(dataset, "d"),
        )
        assert [tensor.ordinal for tensor in tensors] == [1, 3, 3, 4]
        # Nor does a group of nothing else.
        commit(catalogue, stored_tensor(dataset, "a", source=b"s" * 16))
        assert commit(catalogue, stored_tensor(dataset, "e"))[0].ordinal == 5

    @keeps(7)
    def test_what_cannot_be_committed_takes_no_ordinal(self, catalogue: Catalogue) -> None:
        dataset, deleted = create(catalogue), create(catalogue, "deleted")
        commit(catalogue, stored_tensor(dataset, "there"))
        catalogue.datasets.delete("deleted")
        outcomes = catalogue.tensors.commit(
            [
                stored_tensor(dataset, "there"),
                stored_tensor(dataset, "first"),
                stored_tensor(deleted, "late"),
                stored_tensor(dataset, "none", if_generation_match=7),
                stored_tensor(dataset, "second"),
            ]
        )
        assert [outcome.ordinal if isinstance(outcome, Tensor) else type(outcome) for outcome in outcomes] == [
            AlreadyExistsError,
            2,
            DatasetNotFoundError,
            GenerationMismatchError,
            3,
        ]

    def test_a_group_that_is_committed_together_or_not_takes_its_ordinals_or_none(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "there"))
        failed = catalogue.tensors.commit([stored_tensor(dataset, name) for name in ("a", "b", "there")], together=True)
        assert [type(outcome) for outcome in failed] == [InsertAbandonedError, InsertAbandonedError, AlreadyExistsError]
        catalogue.tensors.commit([stored_tensor(dataset, name) for name in ("b", "a")], together=True)
        assert ordinals_of(catalogue) == {"there": 1, "b": 2, "a": 3}
