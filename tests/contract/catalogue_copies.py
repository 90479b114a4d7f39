"""What every catalogue promises of copies, moves and new names, beside `CatalogueContract`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from contract.catalogue_promises import keeps
from support.engine import Reopen, commit, create, ids_of, listed, purge, stored_tensor
from tensorus_codecs.policy import StoragePolicy
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, PageRequest, TensorCopies
from tensorus_server.errors import (
    AlreadyExistsError,
    DatasetNotFoundError,
    InvalidRequestError,
    LimitExceededError,
    SchemaMismatchError,
    StateNotKeptError,
    StoredDifferentlyError,
    TensorNotFoundError,
)
from tensorus_server.filter.tree import Compare, Key, Operator
from tensorus_server.model import Checksum, Dataset, Outcome, Schema, Tensor

FIELDS: dict[str, Any] = {
    "metadata": {"layer": 3},
    "dtype": "float32",
    "shape": (2, 3),
    "values": ValueSummary(-1.0, 2.0, 0.5, 1.5, 3.0, 1, 2, 3),
    "lossy": True,
    "relative_error": 0.25,
    "source_crc32c": 5,
}


def accept(_: Dataset, __: Sequence[Tensor]) -> None:
    """Refuse no copy."""


def copy(
    catalogue: Catalogue, ids: dict[str, str], source: str = "dataset", to: str | None = None, **options: Any
) -> list[Tensor]:
    """Copy tensors within a dataset, or to another one."""
    return catalogue.copies.copy_tensors(TensorCopies(source, to or source, list(ids.items()), **options), accept)


def rows(catalogue: Catalogue, dataset: str) -> dict[str, Tensor]:
    """Return the tensors of a dataset by id, with their payloads."""
    found = catalogue.tensors.page(dataset, PageRequest(size=1000, with_payloads=True)).tensors
    return {tensor.id: tensor for tensor in found if isinstance(tensor, Tensor)}


def checksums(catalogue: Catalogue, dataset: str) -> dict[str, bytes]:
    """Return the values of a dataset's tensors by id."""
    return {tensor_id: tensor.value_checksum.value for tensor_id, tensor in rows(catalogue, dataset).items()}


class CatalogueCopiesContract:
    """Copies share payloads, and come or fail together. Fixtures as of `CatalogueContract`."""

    @keeps(1)
    def test_a_copy_has_everything_but_place_numbers_and_time(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset, other = create(catalogue), create(catalogue, "other")
        commit(catalogue, stored_tensor(other, "first"))
        sources = commit(
            catalogue,
            replace(stored_tensor(dataset, "large", **FIELDS), references=("11" * 16,)),
            stored_tensor(dataset, "small", **FIELDS, inline_payload=b"payload", policy=StoragePolicy("fast")),
        )
        copied = copy(catalogue, {"large": "a", "small": "b"}, to="other")
        assert [tensor.outcome for tensor in copied] == [Outcome.INSERTED] * 2
        catalogue = reopen()
        found = rows(catalogue, "other")
        assert [found["a"].inline_payload, found["b"].inline_payload] == [None, b"payload"]
        for source, new, ordinal in zip(sources, copied, (2, 3), strict=True):
            place = {"dataset": "other", "id": new.id, "generation": new.generation, "ordinal": ordinal}
            expected = replace(source, **place, created_us=new.created_us)
            assert new == expected == replace(found[new.id], inline_payload=None)
            assert new.created_us >= source.created_us
            assert new.generation > sources[-1].generation
        layer = Compare(Key("layer"), Operator.EQUAL, 3)
        assert ids_of(catalogue, "other", layer) == ["a", "b"]
        assert set(rows(catalogue, "dataset")) == {"large", "small"}

    def test_payloads_are_garbage_when_neither_has_them(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset, _ = create(catalogue), create(catalogue, "other")
        reference = "11" * 16
        (source,) = commit(catalogue, replace(stored_tensor(dataset, "a"), references=(reference,)))
        copy(catalogue, {"a": "b"}, to="other")
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.garbage.due(10) == []
        # A move away and back leaves its payloads to no sweep, either.
        copy(catalogue, {"b": "c"}, "other", "dataset", move=True)
        copy(catalogue, {"c": "c"}, "dataset", "other", move=True)
        assert catalogue.garbage.due(10) == []
        assert catalogue.totals().garbage_payloads == 0
        assert catalogue.garbage.orphans([reference, source.locator.key]) == set()
        catalogue.datasets.delete("other")
        purge(catalogue)
        assert sorted(catalogue.garbage.due(10)) == sorted([reference, source.locator.key])

    def test_moves_do_what_their_names_say(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        cases: list[tuple[dict[str, str], dict[str, str]]] = [
            ({"a": "x"}, {"x": "a", "b": "b", "c": "c"}),
            ({"a": "b", "b": "x"}, {"b": "a", "x": "b", "c": "c"}),
            ({"b": "x", "a": "b"}, {"b": "a", "x": "b", "c": "c"}),
            ({"a": "b", "b": "a"}, {"a": "b", "b": "a", "c": "c"}),
            ({"a": "b", "b": "c", "c": "a"}, {"a": "c", "b": "a", "c": "b"}),
        ]
        for number, (ids, expected) in enumerate(cases):
            name = f"dataset {number}"
            dataset = create(catalogue, name)
            inline = b"payload" if number % 2 else None
            before = commit(
                catalogue, *(stored_tensor(dataset, tensor_id, inline_payload=inline) for tensor_id in "abc")
            )
            values = {tensor.id: tensor.value_checksum.value for tensor in before}
            moved = copy(catalogue, ids, name, move=True)
            assert [tensor.id for tensor in moved] == list(ids.values())
            assert checksums(catalogue, name) == {new: values[old] for new, old in expected.items()}, ids
            assert {tensor.inline_payload for tensor in rows(catalogue, name).values()} == {inline}
        assert catalogue.garbage.due(100) == []

    def test_copies_are_of_the_tensors_before_the_call(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        a, b = commit(catalogue, stored_tensor(dataset, "a"), stored_tensor(dataset, "b"))
        copied = copy(catalogue, {"a": "b", "b": "c"}, replace=True)
        assert [tensor.outcome for tensor in copied] == [Outcome.REPLACED, Outcome.INSERTED]
        values = {"a": a.value_checksum.value, "b": a.value_checksum.value, "c": b.value_checksum.value}
        assert checksums(catalogue, "dataset") == values

    def test_a_conflict_stops_all_unless_the_tensor_is_equal_or_replaced(
        self, catalogue: Catalogue, reopen: Reopen
    ) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset, other = create(catalogue), create(catalogue, "other")
        a, _ = commit(catalogue, stored_tensor(dataset, "a", metadata={"k": 1}), stored_tensor(dataset, "b"))
        source = a.source_checksum.value
        there = commit(
            catalogue,
            stored_tensor(other, "equal", metadata={"k": 1}, source=source),
            stored_tensor(other, "similar", metadata={"k": 2}, source=source),
            replace(
                stored_tensor(other, "less exact", metadata={"k": 1}, source=source),
                value_checksum=Checksum("xxh3_128", bytes(16)),
            ),
            stored_tensor(other, "another"),
        )
        state = rows(catalogue, "other")
        kinds = dict.fromkeys(("similar", "less exact"), StoredDifferentlyError) | {"another": AlreadyExistsError}
        for taken, kind in kinds.items():
            with pytest.raises(kind, match="replace=True") as raised:
                copy(catalogue, {"b": "free", "a": taken}, to="other", move=True)
            assert type(raised.value) is kind
            assert raised.value.facts["tensor"] == taken
            assert rows(catalogue, "other") == state
            assert set(rows(catalogue, "dataset")) == {"a", "b"}
        (equal,) = copy(catalogue, {"a": "equal"}, to="other")
        assert (equal.outcome, equal) == (Outcome.ALREADY_STORED, there[0])
        assert catalogue.garbage.due(10) == []
        replaced = copy(catalogue, {"a": "similar", "b": "another"}, to="other", replace=True)
        assert [tensor.outcome for tensor in replaced] == [Outcome.REPLACED] * 2
        assert sorted(catalogue.garbage.due(10)) == sorted(there[place].locator.key for place in (1, 3))
        again = copy(catalogue, {"a": "similar", "b": "another"}, to="other", replace=True)
        assert [tensor.outcome for tensor in again] == [Outcome.ALREADY_STORED] * 2
        assert again == replaced
        # A move to an equal tensor deletes the source.
        (moved,) = copy(catalogue, {"a": "equal"}, to="other", move=True)
        assert moved == there[0]
        assert set(rows(catalogue, "dataset")) == {"b"}

    def test_the_policy_that_a_tensor_followed_stays_its_policy(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, policy=StoragePolicy("fast"))
        create(catalogue, "same", policy=StoragePolicy("fast"))
        create(catalogue, "other", policy=StoragePolicy("none"))
        own = {"preset": "maximum"}
        commit(
            catalogue,
            stored_tensor(dataset, "follows"),
            stored_tensor(dataset, "own", policy=StoragePolicy("maximum")),
        )
        for to, policy in {"same": None, "other": {"preset": "fast"}}.items():
            copied = copy(catalogue, {"follows": "follows", "own": "own"}, to=to)
            assert [tensor.policy for tensor in copied] == [policy, own]
            assert [rows(catalogue, to)[tensor.id].policy for tensor in copied] == [policy, own]

    def test_what_is_not_there_stops_all(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        create(catalogue, "other")
        commit(catalogue, stored_tensor(dataset, "a"))
        cases: list[tuple[type[Exception], dict[str, Any]]] = [
            (TensorNotFoundError, {"ids": {"a": "x", "b": "y"}}),
            (DatasetNotFoundError, {"ids": {"a": "x"}, "to": "missing"}),
            (DatasetNotFoundError, {"ids": {"a": "x"}, "source": "missing", "to": "dataset"}),
        ]
        for kind, call in cases:
            for move in (False, True):
                with pytest.raises(kind):
                    copy(catalogue, **call, move=move)
        assert set(rows(catalogue, "dataset")) == {"a"}

    def test_a_check_that_refuses_undoes_all(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        create(catalogue, "other", schema=Schema(dtype="float32"))
        commit(catalogue, stored_tensor(dataset, "a"))
        state = rows(catalogue, "dataset")
        seen: list[tuple[str, list[str]]] = []

        def refuse(to: Dataset, tensors: Sequence[Tensor]) -> None:
            seen.append((to.name, [tensor.id for tensor in tensors]))
            raise SchemaMismatchError("no")

        with pytest.raises(SchemaMismatchError):
            catalogue.copies.copy_tensors(TensorCopies("dataset", "other", [("a", "b")], move=True), refuse)
        assert seen == [("other", ["b"])]
        assert (rows(catalogue, "dataset"), rows(catalogue, "other")) == (state, {})

    @keeps(9)
    def test_a_repeated_call_changes_nothing(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "a"), stored_tensor(dataset, "b"))
        moved = copy(catalogue, {"a": "b", "b": "a"}, move=True, request_id="swap")
        catalogue = reopen()
        again = copy(catalogue, {"a": "b", "b": "a"}, move=True, request_id="swap")
        assert [(tensor, tensor.outcome) for tensor in again] == [(tensor, tensor.outcome) for tensor in moved]
        copied = catalogue.copies.copy_dataset("dataset", "copy", at=None, tensors_max=2, request_id="copy")
        catalogue.tensors.delete("dataset", ["a"])
        assert catalogue.copies.copy_dataset("dataset", "copy", at=None, tensors_max=2, request_id="copy") == copied
        assert copied[1] == len(rows(catalogue, "copy")) == 2
        renamed = catalogue.copies.rename_dataset("copy", "new", request_id="rename")
        assert catalogue.copies.rename_dataset("copy", "new", request_id="rename") == renamed
        # A request id belongs to one call.
        for request_id in ("swap", "copy"):
            with pytest.raises(InvalidRequestError, match=f"request_id {request_id} belongs to another call"):
                catalogue.copies.rename_dataset("dataset", "b", request_id=request_id)
        with pytest.raises(InvalidRequestError, match="request_id swap belongs to a copy of other tensors"):
            copy(catalogue, {"b": "c"}, request_id="swap")
        # What was made is not made again after its deletion.
        catalogue.tensors.delete("dataset", ["b"])
        with pytest.raises(TensorNotFoundError, match="deleted since"):
            copy(catalogue, {"a": "b", "b": "a"}, move=True, request_id="swap")
        catalogue.datasets.delete("new")
        create(catalogue, "new")
        with pytest.raises(DatasetNotFoundError, match="deleted or renamed since"):
            catalogue.copies.rename_dataset("copy", "new", request_id="rename")

    @pytest.mark.parametrize("inline", [None, b"payload"])
    def test_earlier_states_are_copied(self, catalogue: Catalogue, reopen: Reopen, inline: bytes | None) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        dataset = create(catalogue, retention_s=0)
        create(catalogue, "other")
        before = commit(
            catalogue,
            *(stored_tensor(dataset, name, metadata={"of": name}, inline_payload=inline) for name in "abc"),
        )
        at = catalogue.snapshots.create("dataset", "s").generation
        commit(catalogue, stored_tensor(dataset, "a", if_generation_match=before[0].generation))
        catalogue.tensors.delete("dataset", ["b"])
        with pytest.raises(TensorNotFoundError):
            copy(catalogue, {"b": "x"}, at=catalogue.tensors.latest_generation())
        commit(catalogue, stored_tensor(dataset, "d"))
        # One is past because it was replaced, one because it was deleted, and one is current.
        copied = copy(catalogue, {name: f"{name}/copy" for name in "abc"}, to="other", at=at)
        for source, new in zip(before, copied, strict=True):
            numbers = {"generation": new.generation, "ordinal": new.ordinal, "created_us": new.created_us}
            assert new == replace(source, dataset="other", id=f"{source.id}/copy", **numbers)
        assert [found.inline_payload for found in rows(catalogue, "other").values()] == [inline] * 3
        made, count = catalogue.copies.copy_dataset("dataset", "copy", at=at, tensors_max=3)
        assert (count, checksums(catalogue, "copy")) == (3, {one.id: one.value_checksum.value for one in before})
        # A tensor comes back to its own id, if another one that is there may be replaced.
        with pytest.raises(AlreadyExistsError):
            copy(catalogue, {"a": "a"}, at=at)
        back = copy(catalogue, {"a": "a", "b": "b", "c": "c"}, at=at, replace=True)
        assert [tensor.outcome for tensor in back] == [Outcome.REPLACED, Outcome.INSERTED, Outcome.ALREADY_STORED]
        for missing, where in {"d": at, "a": before[0].generation - 1}.items():
            kind = TensorNotFoundError if missing == "d" else StateNotKeptError
            with pytest.raises(kind, match=f"at generation {where}"):
                copy(catalogue, {missing: "x"}, at=where)
        with pytest.raises(StateNotKeptError):
            catalogue.copies.copy_dataset("dataset", "x", at=2**60, tensors_max=3)
        # What only the copies have is kept without the snapshot, and garbage after them.
        catalogue.snapshots.drop("dataset", "s")
        catalogue.snapshots.prune(lambda _: False)
        for name in ("dataset", "other"):
            assert set(catalogue.garbage.due(10)).isdisjoint(found.locator.key for found in before)
            catalogue.datasets.delete(name)
            purge(catalogue)
        catalogue.datasets.delete(made.name)
        purge(catalogue)
        keys = {found.locator.key for found in before}
        assert keys & set(catalogue.garbage.due(100)) == (set() if inline else keys)

    def test_states_before_and_after_a_move_are_told_apart(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue, retention_s=10**6)
        commit(catalogue, *(stored_tensor(dataset, name) for name in "abc"))
        values = checksums(catalogue, "dataset")
        states = [({name: values[name] for name in "abc"}, catalogue.tensors.latest_generation())]
        for ids in ({"a": "b", "b": "a"}, {"a": "x"}, {"x": "c"}, {"b": "c", "c": "b"}):
            moved = copy(catalogue, ids, move=True, replace=True)
            states.append((checksums(catalogue, "dataset"), moved[-1].generation))
            assert moved[-1].generation == catalogue.tensors.latest_generation()
        assert len(set(map(str, states))) == 5
        for expected, at in states:
            request = PageRequest(size=10, at=at)
            found = catalogue.tensors.page("dataset", request).tensors
            assert {one.id: one.value_checksum.value for one in found if isinstance(one, Tensor)} == expected

    def test_a_copied_dataset_is_equal_and_independent(self, catalogue: Catalogue, reopen: Reopen) -> None:
        catalogue = reopen(delete_grace_s=0.0)
        schema = Schema(dtype="float32", metadata={"layer": "integer"})
        dataset = create(catalogue, policy=StoragePolicy("fast"), schema=schema, retention_s=7)
        names = [f"{number}" for number in range(150)]
        commit(
            catalogue,
            *(
                stored_tensor(dataset, name, **FIELDS, inline_payload=None if int(name) % 3 else name.encode())
                for name in reversed(names)
            ),
        )
        catalogue.tensors.delete("dataset", ["9"])
        copied, count = catalogue.copies.copy_dataset("dataset", "copy", at=None, tensors_max=149)
        assert (copied.name, copied.policy, copied.schema, count) == ("copy", dataset.policy, schema, 149)
        assert copied.retention_s == 7
        assert copied.number > dataset.number
        assert listed(catalogue) == [dataset, copied]
        catalogue = reopen(delete_grace_s=0.0)
        assert catalogue.datasets.get("copy") == copied
        sources, copies = rows(catalogue, "dataset"), rows(catalogue, "copy")
        assert list(copies) == list(sources)
        assert [tensor.ordinal for tensor in copies.values()] == list(range(1, 150))
        for name, tensor in copies.items():
            numbers = {"generation": tensor.generation, "ordinal": tensor.ordinal, "created_us": tensor.created_us}
            assert tensor == replace(sources[name], dataset="copy", **numbers)
        (new,) = commit(catalogue, stored_tensor(copied, "new"))
        assert new.ordinal == 150
        catalogue.datasets.delete("dataset")
        purge(catalogue)
        assert catalogue.garbage.due(10) == []
        assert len(rows(catalogue, "copy")) == 150

    def test_a_dataset_that_cannot_be_copied_leaves_nothing(self, catalogue: Catalogue) -> None:
        dataset = create(catalogue)
        create(catalogue, "taken")
        commit(catalogue, *(stored_tensor(dataset, f"{number}") for number in range(3)))
        datasets = listed(catalogue)
        with pytest.raises(LimitExceededError, match="more than 2 tensors") as raised:
            catalogue.copies.copy_dataset("dataset", "copy", at=None, tensors_max=2)
        assert raised.value.facts["limit"] == "2"
        with pytest.raises(AlreadyExistsError):
            catalogue.copies.copy_dataset("dataset", "taken", at=None, tensors_max=3)
        with pytest.raises(DatasetNotFoundError):
            catalogue.copies.copy_dataset("missing", "copy", at=None, tensors_max=3)
        assert listed(catalogue) == datasets

    @keeps(1, 7)
    def test_a_renamed_dataset_keeps_all_but_its_name(self, catalogue: Catalogue, reopen: Reopen) -> None:
        dataset = create(catalogue, policy=StoragePolicy("fast"), schema=Schema(dtype="uint8"))
        (first,) = commit(catalogue, stored_tensor(dataset, "a", metadata={"k": 1}))
        snapshot = catalogue.snapshots.create("dataset", "s")
        catalogue.tensors.delete("dataset", ["a"])
        late = stored_tensor(dataset, "late")
        create(catalogue, "taken")
        for name in ("taken", "dataset"):
            with pytest.raises(AlreadyExistsError, match=name):
                catalogue.copies.rename_dataset("dataset", name)
        with pytest.raises(DatasetNotFoundError):
            catalogue.copies.rename_dataset("missing", "new")
        renamed = catalogue.copies.rename_dataset("dataset", "new")
        catalogue = reopen()
        assert renamed == replace(dataset, name="new") == catalogue.datasets.get("new")
        with pytest.raises(DatasetNotFoundError):
            catalogue.datasets.get("dataset")
        # The old name is free, and an insert in progress goes to the dataset that it began with.
        create(catalogue)
        (found,) = commit(catalogue, late)
        assert found.ordinal == 2
        assert list(rows(catalogue, "new").values()) == [replace(found, dataset="new")]
        # Snapshots and past tensors stay.
        assert catalogue.snapshots.find("new", "s") == replace(snapshot, dataset="new")
        assert catalogue.tensors.get("new", ["a"], at=snapshot.generation) == [
            replace(first, dataset="new", outcome=None)
        ]
        assert rows(catalogue, "dataset") == {}
        # A commit that requires the dataset as it was fails.
        (outcome,) = catalogue.tensors.commit([stored_tensor(dataset, "b")], current=True)
        assert isinstance(outcome, DatasetNotFoundError)
