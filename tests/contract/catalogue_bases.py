"""What every catalogue promises of payloads that other payloads need as their bases, beside `CatalogueContract`."""

from __future__ import annotations

from dataclasses import replace

from support.engine import Reopen, commit, create, purge, stored_tensor
from tensorus_server.catalogue.abc import Catalogue, StoredTensor
from tensorus_server.chunk_store.abc import new_payload_key
from tensorus_server.errors import AlreadyExistsError, StoreBusyError
from tensorus_server.model import Dataset, Tensor


def file_key() -> str:
    """Return a key as the chunk store gives them."""
    name = new_payload_key()
    return f"{name[:2]}/{name}"


def with_bases(dataset: Dataset, tensor_id: str, *bases: Tensor | str, **fields: object) -> StoredTensor:
    """Return a tensor whose payload needs those of these tensors."""
    stored = stored_tensor(dataset, tensor_id, key=file_key(), **fields)  # type: ignore[arg-type]
    keys = tuple(base.locator.key if isinstance(base, Tensor) else base for base in bases)
    return replace(stored, bases=keys)


def replacing(stored: StoredTensor) -> StoredTensor:
    """Return the tensor as one that replaces whatever has its id."""
    return replace(stored, new=replace(stored.new, replace=True))


class CatalogueBasesContract:
    """A payload is no garbage while another one needs it, whatever becomes of tensors. Fixtures as of `CatalogueContract`."""

    def test_a_base_is_garbage_only_after_the_last_payload_that_needs_it(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        (second,) = commit(catalogue, with_bases(dataset, "second", first))
        (third, other) = commit(
            catalogue, with_bases(dataset, "third", second), with_bases(dataset, "other", first, second)
        )
        keys = {name: tensor.locator.key for name, tensor in zip("123o", (first, second, third, other), strict=True)}
        catalogue.tensors.delete("dataset", ["first", "second"])
        assert catalogue.garbage.due(10) == []
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.garbage.orphans(list(keys.values())) == set()
        assert {key.encode() for key in keys.values()} <= set(catalogue.garbage.known())
        catalogue.tensors.delete("dataset", ["third"])
        assert catalogue.garbage.due(10) == [keys["3"]]
        catalogue.garbage.delete([keys["3"]])
        # The other one needs both.
        assert catalogue.garbage.due(10) == []
        catalogue.tensors.delete("dataset", ["other"])
        assert catalogue.garbage.due(10) == [keys["o"]]
        catalogue.garbage.delete([keys["o"]])
        assert catalogue.garbage.due(10) == [keys["2"]]
        catalogue.garbage.delete([keys["2"]])
        assert catalogue.garbage.due(10) == [keys["1"]]
        catalogue.garbage.delete([keys["1"]])
        assert catalogue.garbage.orphans(list(keys.values())) == set(keys.values())
        # Idempotent.
        catalogue.garbage.delete(list(keys.values()))
        assert catalogue.garbage.due(10) == []

    def test_one_commit_may_have_a_tensor_with_bases_and_others_of_the_same_id(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        group = [
            with_bases(dataset, "t", first),
            replacing(stored_tensor(dataset, "t", key=file_key())),
            replacing(with_bases(dataset, "t", first)),
            stored_tensor(dataset, "t", key=file_key()),
        ]
        *outcomes, refused = catalogue.tensors.commit(group)
        assert [type(outcome) for outcome in outcomes] == [Tensor, Tensor, Tensor]
        assert isinstance(refused, AlreadyExistsError)
        (found,) = catalogue.tensors.get("dataset", ["t"])
        assert isinstance(found, Tensor)
        assert found.generation == outcomes[-1].generation

    def test_a_base_that_a_tensor_still_has_stays_when_what_needed_it_is_gone(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        (second,) = commit(catalogue, with_bases(dataset, "second", first))
        catalogue.tensors.delete("dataset", ["second"])
        catalogue.garbage.delete([second.locator.key])
        assert catalogue.garbage.due(10) == []
        catalogue.tensors.delete("dataset", ["first"])
        assert catalogue.garbage.due(10) == [first.locator.key]

    def test_a_tensor_may_replace_its_base(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "t"))
        (second,) = commit(catalogue, with_bases(dataset, "t", first, if_generation_match=first.generation))
        assert catalogue.garbage.due(10) == []
        commit(catalogue, with_bases(dataset, "t", if_generation_match=second.generation))
        assert catalogue.garbage.due(10) == [second.locator.key]

    def test_a_tensor_whose_base_is_no_longer_in_use_fails_alone(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        catalogue.tensors.delete("dataset", ["first"])
        for base in (first, file_key()):
            group = [stored_tensor(dataset, "a"), with_bases(dataset, "b", base), stored_tensor(dataset, "c")]
            outcomes = catalogue.tensors.commit(group)
            assert [type(outcome) for outcome in outcomes] == [Tensor, StoreBusyError, Tensor]
            (alone,) = catalogue.tensors.commit(group[1:2])
            assert isinstance(alone, StoreBusyError)
            catalogue.tensors.delete("dataset", ["a", "c"])
        catalogue.garbage.delete([first.locator.key])
        (gone,) = catalogue.tensors.commit([with_bases(dataset, "b", first)])
        assert isinstance(gone, StoreBusyError)
        assert catalogue.tensors.get("dataset", ["b"]) == [None]

    def test_a_base_that_the_same_group_replaces_is_kept(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        replacing = with_bases(dataset, "first", if_generation_match=first.generation)
        commit(catalogue, with_bases(dataset, "second", first), replacing)
        assert catalogue.garbage.due(10) == []
        (new,) = catalogue.tensors.get("dataset", ["first"])
        assert isinstance(new, Tensor)
        # Whichever comes first: nothing was deleted yet when the group began.
        again = with_bases(dataset, "first", if_generation_match=new.generation)
        commit(catalogue, again, with_bases(dataset, "third", new))
        assert catalogue.garbage.due(10) == []
        assert catalogue.garbage.orphans([first.locator.key, new.locator.key]) == set()

    def test_a_base_that_only_another_payload_needs_is_in_use(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        commit(catalogue, with_bases(dataset, "second", first))
        catalogue.tensors.delete("dataset", ["first"])
        commit(catalogue, with_bases(dataset, "third", first))
        assert catalogue.garbage.due(10) == []

    def test_the_purge_of_a_dataset_leaves_what_others_need(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset, other = create(catalogue), create(catalogue, "other")
        (first,) = commit(catalogue, with_bases(dataset, "first"))
        (second,) = commit(catalogue, with_bases(other, "second", first))
        catalogue.datasets.delete("dataset")
        purge(catalogue)
        assert catalogue.garbage.due(10) == []
        catalogue.datasets.delete("other")
        purge(catalogue)
        assert catalogue.garbage.due(10) == [second.locator.key]
        catalogue.garbage.delete([second.locator.key])
        assert catalogue.garbage.due(10) == [first.locator.key]

    def test_a_row_that_is_recovered_needs_no_row_of_its_bases(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue)
        first, second = file_key(), file_key()
        recovered = replace(with_bases(dataset, "t", second), created_us=7, bases_of_others=((first, second),))
        (tensor,) = commit(catalogue, recovered)
        assert catalogue.garbage.orphans([first, second]) == set()
        catalogue.tensors.delete("dataset", ["t"])
        for key in (tensor.locator.key, second, first):
            assert catalogue.garbage.due(10) == [key]
            catalogue.garbage.delete([key])
