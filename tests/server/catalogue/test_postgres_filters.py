"""Filters in PostgreSQL find what they find in SQLite, also where PostgreSQL cannot index or compare as SQLite does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from support.cases import each
from support.engine import commit, create, ids_of, stored_tensor
from support.postgres import new_dsn
from tensorus_server.catalogue.abc import Catalogue
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.catalogue.sqlite import SqliteCatalogue
from tensorus_server.filter.tree import (
    AllOf,
    AnyOf,
    Compare,
    Exists,
    Filter,
    Key,
    Not,
    OneOf,
    Operator,
    Prefix,
    Property,
)

LONG = "x" * 60_000

TEXTS = ["", "a", "A", "aa", "b", "\x00", "\x01", "a\x00", "a\x01", "a\x01\x01", "\x00a", "é", "\U0001f600", "z", LONG]
"""By code point, these are in another order than in most languages; and PostgreSQL's texts cannot have the first character."""

NUMBERS = [0.0, -0.0, 1.0, -1.5, 1e300, 2.0**53]

METADATA = [
    *({"k": text} for text in TEXTS),
    *({"k": number} for number in NUMBERS),
    {},
    {"k": [1.0, "a", LONG]},
    {"k": ["a", "b"], "other": LONG},
    {"k": [float(number) for number in range(2000)]},
    {"k\x00": "a"},
    {"y" * 3000: "a"},
    {f"key{number}": LONG[:1500] for number in range(35)},
]

KEYS = ["k", "k\x00", "other", "y" * 3000, "key34", "nothing"]


def filters() -> list[Filter]:
    keys = [Key(name) for name in KEYS]
    found: list[Filter] = [Compare(keys[0], operator, text) for operator, text in product(Operator, TEXTS)]
    found += [Compare(keys[0], operator, number) for operator, number in product(Operator, NUMBERS)]
    found += [Prefix(keys[0], text) for text in TEXTS]
    found += [Exists(key) for key in keys]
    found += [Compare(key, Operator.EQUAL, "a") for key in keys]
    found += [Prefix(keys[4], LONG[:1500]), OneOf(keys[0], (LONG, "a", 1.0)), OneOf(keys[0], ("\x00", 1999.0))]
    found += [Not(filter_) for filter_ in found[::7]]
    found += [
        AllOf((Compare(keys[0], Operator.EQUAL, "a"), Exists(keys[2]))),
        AnyOf((Compare(keys[0], Operator.EQUAL, 1500.0), Compare(keys[3], Operator.EQUAL, "a"))),
        AllOf(()),
        AnyOf(()),
        Compare(Property.CREATED, Operator.GREATER, 0.0),
        Compare(Property.NBYTES, Operator.LESS, 3.5),
        Compare(Property.MEAN, Operator.GREATER, -1.0),
        Prefix(Property.ID, "1"),
        Compare(Property.SHAPE, Operator.EQUAL, "[2]"),
    ]
    return found


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Catalogue, Catalogue]]:
    """Yield a catalogue in SQLite, and one in PostgreSQL, with the same tensors."""
    catalogues = SqliteCatalogue(None), PostgresCatalogue(new_dsn())
    for catalogue in catalogues:
        dataset = create(catalogue)
        tensors = [
            stored_tensor(dataset, f"{number}", shape=(number % 5,), metadata=metadata)
            for number, metadata in enumerate(METADATA)
        ]
        commit(catalogue, *tensors)
    yield catalogues
    for catalogue in catalogues:
        catalogue.close()


@each("filter_", filters())
def test_a_filter_finds_the_same_tensors(both: tuple[Catalogue, Catalogue], filter_: Filter) -> None:
    expected, found = (ids_of(catalogue, "dataset", filter_) for catalogue in both)
    assert found == expected


def test_metadata_come_back_as_they_were(both: tuple[Catalogue, Catalogue]) -> None:
    ids = [f"{number}" for number in range(len(METADATA))]
    expected, found = (catalogue.tensors.get("dataset", ids) for catalogue in both)
    assert [tensor.metadata for tensor in found] == [tensor.metadata for tensor in expected] == METADATA
