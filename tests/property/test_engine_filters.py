"""Every filter finds in SQLite what the words of the filter say, and its negation exactly the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.engine import commit, create, stored_tensor
from support.filters import matches
from support.postgres import new_dsn
from tensorus_codecs.summary import ValueSummary
from tensorus_server.catalogue.abc import Catalogue, PageRequest
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.catalogue.sql import filter_sql
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.filter import metadata_index
from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Compare,
    Dimension,
    Exists,
    Filter,
    Key,
    Not,
    OneOf,
    Operator,
    Prefix,
    Property,
    check_filter,
)
from tensorus_server.model import Dataset, Tensor

_numbers = itertools.count(1)

NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    7,
    True,
    False,
    0.0,
    -0.0,
    0.5,
    1.0,
    0.1 + 0.2,
    0.3,
    2**53,
    -(2**53),
    2**53 - 1,
    1e300,
]
NUMBERS += [5e-324, math.inf, -math.inf, 3.0, 1e15, 123456789012]
LONGEST = "é" * 512
TEXTS = ["", "a", "A", "ab", "a.b", "b", "%", "_", "*", "ä", "a\u0308", "1", "true", "\ud7ff", "\ue000", "\U0001f600"]
TEXTS += ["\U0010ffff", "\U0010ffffa", "a\U0010ffff", "\ud7ffz", "[3, 4]", LONGEST, "a\nb", "'", '"; --', "uint8"]
UNCOMPARABLE: list[Any] = [None, math.nan, 2**53 + 1, -(2**53) - 1, 2**63 - 1, "a\0", "\0", LONGEST + "x"]

KEY_PARTS = ["a", "b", "a.b", "@a", "@dim.0", "\\", "\\.", "", ".", "ä", "A", "nul\0key", "x" * 900]
KEYS = ["a", "b", "a.b", "b.a", "a\\.b", "\\@a", "@a", "\\@dim\\.0", "\\\\", "\\\\\\.", "", ".", "\\.", "ä", "nul\0key"]

scalars = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.sampled_from(UNCOMPARABLE),
    st.integers(-10, 10),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
)
metadata_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEY_PARTS), inner, max_size=3)
    ),
    max_leaves=5,
)
metadata = st.dictionaries(st.sampled_from(KEY_PARTS), metadata_values, max_size=4)

summaries = st.one_of(
    st.none(),
    st.just(ValueSummary(None, None, None, None, None, 0, 3, 1)),
    st.builds(
        ValueSummary,
        minimum=st.sampled_from([-1.5, 0.0, 1.0]),
        maximum=st.sampled_from([0.0, 1.0, 1e300]),
        mean=st.sampled_from([None, 0.1, 1.0]),
        standard_deviation=st.sampled_from([None, 0.0, 2.0]),
        l2_norm=st.sampled_from([None, 3.0, 1e300]),
        zero_count=st.sampled_from([0, 1, 7]),
        nan_count=st.sampled_from([0, 1]),
        infinity_count=st.sampled_from([0, 2]),
    ),
)
tensors = st.fixed_dictionaries(
    {
        "metadata": metadata,
        "shape": st.lists(st.sampled_from([0, 1, 3, 4, 7]), max_size=3).map(tuple),
        "dtype": st.sampled_from(["uint8", "float32", "complex128"]),
        "stored_bytes": st.sampled_from([0, 1, 7, 2**40]),
        "values": summaries,
    }
)

wanted_values = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from(TEXTS),
    st.integers(-10, 10),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
)
fields = st.one_of(
    st.sampled_from(KEYS).map(Key),
    st.sampled_from(["a", "b"]).map(Key),
    st.sampled_from(list(Property)),
    st.integers(0, 3).map(Dimension),
)
conditions = st.one_of(
    st.builds(Compare, fields, st.sampled_from(list(Operator)), wanted_values),
    st.builds(OneOf, fields, st.lists(wanted_values, max_size=4).map(tuple)),
    st.builds(Exists, fields),
    st.builds(Prefix, fields, st.sampled_from([text for text in TEXTS if text != LONGEST])),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda children: AllOf(tuple(children))),
        st.lists(inner, max_size=3).map(lambda children: AnyOf(tuple(children))),
        st.builds(Not, inner),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def catalogue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalogue]:
    in_sqlite = request.param == "SQLite"
    opened = SqliteCatalogue(tmp_path_factory.mktemp("filters")) if in_sqlite else PostgresCatalogue(new_dsn())
    # Another dataset with much the same metadata, of which no filter may find anything.
    other = create(opened, "other")
    group = [{"a": number, "b": TEXTS} for number in NUMBERS]
    commit(opened, *(stored_tensor(other, f"{number}", metadata=fields) for number, fields in enumerate(group)))
    yield opened
    opened.close()


@contextmanager
def index_of_at_most(values_max: int, named_keys_max: int) -> Iterator[None]:
    """Index so few values of what is stored meanwhile; the rest is left out, by name or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metadata_index, "INDEXED_VALUES_MAX", values_max)
        patch.setattr(metadata_index, "_NAMED_KEYS_MAX", named_keys_max)
        yield


def insert(catalogue: Catalogue, described: list[dict[str, Any]]) -> tuple[Dataset, list[Tensor]]:
    """Commit tensors into a dataset of their own."""
    dataset = create(catalogue, f"dataset-{next(_numbers)}")
    ids = ["a", "ab", "ä", "\U0010ffff", "1", "B", "[3, 4]", "b"]
    return dataset, commit(
        catalogue, *(stored_tensor(dataset, ids[number], **fields) for number, fields in enumerate(described))
    )


def found(catalogue: Catalogue, dataset: Dataset, filter_: Filter) -> list[str]:
    """Return the ids that the catalogue finds, by both of its ways."""
    request = PageRequest(filter_, size=100)
    tensors = catalogue.tensors.page(dataset.name, request).tensors
    assert catalogue.tensors.generations(dataset.name, request) == [tensor.generation for tensor in tensors]
    return [tensor.id for tensor in tensors]


@given(
    described=st.lists(tensors, min_size=1, max_size=8),
    asked=st.lists(filters, min_size=1, max_size=8),
    probe_max=st.sampled_from([0, 1, 5000]),
    bounds=st.tuples(st.sampled_from([0, 1, 2, 4, 256]), st.sampled_from([0, 1, 32])),
)
@example(
    described=[{"metadata": {"a": [1, 2]}}, {"metadata": {"a": 1}}, {"metadata": {"a": None}}, {"metadata": {}}],
    asked=[
        Compare(Key("a"), Operator.NOT_EQUAL, 1),
        Not(Compare(Key("a"), Operator.EQUAL, 1)),
        AllOf(()),
        AnyOf(()),
        OneOf(Key("a"), ()),
    ],
    probe_max=0,
    bounds=(1, 32),
)
def test_a_filter_finds_what_its_words_say_and_its_negation_the_rest(
    catalogue: Catalogue,
    described: list[dict[str, Any]],
    asked: list[Filter],
    probe_max: int,
    bounds: tuple[int, int],
) -> None:
    usual = filter_sql._PROBE_MAX
    with index_of_at_most(*bounds):
        dataset, committed = insert(catalogue, described)
    try:
        filter_sql._PROBE_MAX = probe_max
        for filter_ in asked:
            check_filter(filter_)
            expected = [tensor.id for tensor in committed if matches(filter_, tensor)]
            assert found(catalogue, dataset, filter_) == expected
            rest = [tensor.id for tensor in committed if tensor.id not in expected]
            assert found(catalogue, dataset, Not(filter_)) == rest
            # As one of several conditions it is compiled another way.
            everything = Exists(Property.ID)
            assert found(catalogue, dataset, AllOf((everything, filter_))) == expected
    finally:
        filter_sql._PROBE_MAX = usual
        catalogue.datasets.delete(dataset.name)


@given(
    described=st.lists(tensors, min_size=2, max_size=4),
    replaced=st.lists(metadata, min_size=1, max_size=3),
    filter_=filters,
    indexed_max=st.sampled_from([0, 1, 2, 4, 256]),
)
@settings(max_examples=settings.default.max_examples // 2)
def test_a_filter_sees_metadata_as_it_was_last_replaced(
    catalogue: Catalogue,
    described: list[dict[str, Any]],
    replaced: list[dict[str, Any]],
    filter_: Filter,
    indexed_max: int,
) -> None:
    dataset, committed = insert(catalogue, described)
    try:
        with index_of_at_most(indexed_max, 1):
            for fields in replaced:
                committed[0] = catalogue.tensors.replace_metadata(dataset.name, committed[0].id, fields)
        assert found(catalogue, dataset, filter_) == [tensor.id for tensor in committed if matches(filter_, tensor)]
    finally:
        catalogue.datasets.delete(dataset.name)


@settings(max_examples=settings.default.max_examples // 2)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), min_size=1, max_size=8, unique=True)
)
def test_a_prefix_finds_exactly_the_texts_that_begin_so(catalogue: Catalogue, texts: list[str]) -> None:
    described = [{"metadata": {"a": text}} for text in texts]
    dataset, committed = insert(catalogue, described)
    try:
        for prefix in {text[:length] for text in texts for length in range(4)}:
            if "\0" in prefix:
                continue
            filter_ = Prefix(Key("a"), prefix)
            assert found(catalogue, dataset, filter_) == [tensor.id for tensor in committed if matches(filter_, tensor)]
    finally:
        catalogue.datasets.delete(dataset.name)


@pytest.mark.parametrize("filter_", [Exists(Key("@dim.0")), Compare(Key("@dim.0"), Operator.EQUAL, 3)])
def test_a_metadata_key_never_names_a_dimension(catalogue: Catalogue, filter_: Filter) -> None:
    # No name of a metadata key begins with "@", and nobody has a key that there cannot be.
    dataset, committed = insert(catalogue, [{"shape": (3, 4)}, {"metadata": {"@dim.0": 3}}])
    assert not any(matches(filter_, tensor) for tensor in committed)
    assert found(catalogue, dataset, filter_) == []
