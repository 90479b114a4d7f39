"""What the index holds of metadata: all of most, and of the rest whole keys and the names of what is left out."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from support.cases import each
from support.engine import commit, create, ids_of, stored_tensor
from tensorus_protos.rules import to_json
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.filter import metadata_index
from tensorus_server.filter.metadata_index import MetadataIndex, holds, index_of
from tensorus_server.filter.tree import AllOf, Compare, Exists, Key, Not, OneOf, Operator, Prefix, flatten_metadata
from tensorus_server.limits import INDEXED_VALUES_MAX

LONG = {"label": "cat", "tokens": list(range(3000)), "split": {"name": "train", "fold": 3}}


def rows_of(catalogue: SqliteCatalogue) -> int:
    """Return how many rows the index has."""
    with catalogue._database.read() as connection:
        ((count,),) = select(connection, "SELECT count(*) FROM attr")
        return int(count)


@pytest.fixture
def catalogue(tmp_path: Any) -> Any:
    opened = SqliteCatalogue(tmp_path)
    yield opened
    opened.close()


class TestIndexOf:
    """Keys of few values come first, and a key is there with all of its values or not at all."""

    @each("metadata", [{}, {"a": 1}, {"a": list(range(INDEXED_VALUES_MAX))}])
    def test_most_metadata_are_indexed_whole(self, metadata: dict[str, Any]) -> None:
        assert index_of(metadata) == MetadataIndex(flatten_metadata(metadata), ())

    def test_a_long_list_is_left_out_by_name_and_nothing_else_is(self) -> None:
        index = index_of(LONG)
        assert sorted(index.values) == [("label", "cat"), ("split.fold", 3.0), ("split.name", "train")]
        assert index.left_out == ["tokens"]

    def test_a_list_of_few_different_values_is_indexed(self) -> None:
        assert index_of({"mask": [0, 1] * 5000}) == MetadataIndex([("mask", 1.0), ("mask", 0.0)])

    def test_many_keys_are_left_out_without_naming_them(self) -> None:
        index = index_of({f"k{number}": number for number in range(INDEXED_VALUES_MAX + 33)})
        assert len(index.values) == INDEXED_VALUES_MAX
        assert index.left_out is None

    def test_as_many_as_can_be_named_are_named(self) -> None:
        index = index_of({f"k{number}": number for number in range(INDEXED_VALUES_MAX + 32)})
        assert index.left_out is not None
        assert len(index.left_out) == 32
        assert {key for key, _ in index.values} | set(index.left_out) == {
            f"k{n}" for n in range(INDEXED_VALUES_MAX + 32)
        }


class TestHolds:
    """A condition on metadata themselves; the property test of filters compares many more with an oracle."""

    @each(
        ("condition", "expected"),
        [
            pytest.param(Exists(Key("tokens")), True, id="exists"),
            pytest.param(Exists(Key("split")), False, id="a map does not exist"),
            pytest.param(Compare(Key("tokens"), Operator.EQUAL, 2999), True, id="equal"),
            pytest.param(Compare(Key("tokens"), Operator.GREATER, 2999), False, id="greater"),
            pytest.param(Compare(Key("tokens"), Operator.EQUAL, "2999"), False, id="another kind"),
            pytest.param(OneOf(Key("split.name"), ("test", "train")), True, id="one of"),
            pytest.param(OneOf(Key("split.name"), ()), False, id="one of none"),
            pytest.param(Prefix(Key("label"), "ca"), True, id="prefix"),
            pytest.param(Prefix(Key("tokens"), ""), False, id="prefix of a number"),
        ],
    )
    def test_it_holds_as_its_words_say(self, condition: Any, *, expected: bool) -> None:
        assert holds(condition, to_json(LONG)) is expected

    @each("damaged", ["", "{", "nothing"])
    def test_damaged_metadata_meet_no_condition(self, damaged: str) -> None:
        assert not holds(Exists(Key("a")), damaged)


class TestCatalogue:
    """Rows are few, and what filters find is the same."""

    def test_one_tensor_has_a_bounded_number_of_rows(self, catalogue: SqliteCatalogue) -> None:
        dataset = create(catalogue)
        largest = [
            LONG,
            {f"k{number}": number for number in range(5000)},
            {f"k{number}": [number, number + 1] for number in range(3000)},
        ]
        for number, metadata in enumerate(largest):
            before = rows_of(catalogue)
            commit(catalogue, stored_tensor(dataset, f"{number}", metadata=metadata, shape=(1,) * 32))
            assert rows_of(catalogue) - before <= 32 + INDEXED_VALUES_MAX + 32
            before = rows_of(catalogue)
            catalogue.tensors.replace_metadata("dataset", f"{number}", metadata)
            assert rows_of(catalogue) == before

    def test_filters_find_what_is_left_out(self, catalogue: SqliteCatalogue) -> None:
        dataset, other = create(catalogue), create(catalogue, "other")
        commit(
            catalogue,
            stored_tensor(dataset, "long", metadata=LONG),
            stored_tensor(dataset, "short", metadata={"tokens": [2999], "label": "dog"}),
            stored_tensor(dataset, "many", metadata={f"k{number}": number for number in range(2000)}),
            stored_tensor(dataset, "none"),
            stored_tensor(other, "elsewhere", metadata=LONG),
        )
        at_end = Compare(Key("tokens"), Operator.EQUAL, 2999)
        cat = Compare(Key("label"), Operator.EQUAL, "cat")
        expected = {
            at_end: ["long", "short"],
            Not(at_end): ["many", "none"],
            AllOf((at_end, cat)): ["long"],
            cat: ["long"],
            Not(cat): ["short", "many", "none"],
            Compare(Key("k1999"), Operator.EQUAL, 1999): ["many"],
            OneOf(Key("k0"), (0, 7)): ["many"],
            Exists(Key("tokens")): ["long", "short"],
            Exists(Key("@left_out")): [],
            Exists(Key("@left_out_many")): [],
        }
        assert {filter_: ids_of(catalogue, "dataset", filter_) for filter_ in expected} == expected
        # Connections are lent in turn, and each has to know how to look.
        for _ in itertools.repeat(None, 20):
            assert ids_of(catalogue, "other", at_end) == ["elsewhere"]

    def test_metadata_that_became_small_leave_no_marks(self, catalogue: SqliteCatalogue) -> None:
        dataset = create(catalogue)
        commit(catalogue, stored_tensor(dataset, "t", metadata=LONG))
        catalogue.tensors.replace_metadata("dataset", "t", {"tokens": 5})
        assert ids_of(catalogue, "dataset", Compare(Key("tokens"), Operator.EQUAL, 2999)) == []
        assert ids_of(catalogue, "dataset", Compare(Key("tokens"), Operator.EQUAL, 5)) == ["t"]


def test_the_index_is_worked_out_once(monkeypatch: pytest.MonkeyPatch, catalogue: SqliteCatalogue) -> None:
    stored = stored_tensor(create(catalogue), "t", metadata={"a": 1})
    assert stored.new.index.values == [("a", 1.0)]
    monkeypatch.setattr(metadata_index, "flatten_metadata", None)
    commit(catalogue, stored)
    assert ids_of(catalogue, "dataset", Exists(Key("a"))) == ["t"]
