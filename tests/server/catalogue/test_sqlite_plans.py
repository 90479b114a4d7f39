"""SQLite answers listings and filters from the indexes made for them: no sorting, no scan of a whole table."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from support.cases import each
from support.engine import commit, create, stored_tensor
from tensorus_server.catalogue.abc import Order, PageRequest
from tensorus_server.catalogue.sql import filter_sql
from tensorus_server.catalogue.sql.filter_sql import compile_filter
from tensorus_server.catalogue.sql.reading import _page_statement
from tensorus_server.catalogue.sql.statements import select
from tensorus_server.catalogue.sqlite import SqliteCatalogue
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
)

INDEX_OF = {
    "created": "tensor_created (ds=?",
    "id": "sqlite_autoindex_tensor_1 (ds=?",
    "nbytes": "tensor_nbytes (ds=?",
    "stored_bytes": "tensor_stored_bytes (ds=?",
}

LOOKED_UP = re.compile(r"SEARCH a (EXISTS )?USING PRIMARY KEY \(seq=\? AND key=\?\)")
"""A condition that is looked up for one tensor."""

RARE = Compare(Key("rare"), Operator.EQUAL, 1)
COMMON = Compare(Key("common"), Operator.GREATER_OR_EQUAL, 0)

DRIVERS = [
    pytest.param(RARE, "attr_num (ds=? AND key=? AND num=?)", id="a number"),
    pytest.param(
        Compare(Key("rare"), Operator.GREATER, 0), "attr_num (ds=? AND key=? AND num>?)", id="a range of numbers"
    ),
    pytest.param(OneOf(Key("rare"), (1, 2)), "attr_num (ds=? AND key=? AND num=?)", id="several numbers"),
    pytest.param(Compare(Key("text"), Operator.EQUAL, "x1"), "attr_txt (ds=? AND key=? AND txt=?)", id="a text"),
    pytest.param(Prefix(Key("text"), "x1"), "attr_txt (ds=? AND key=? AND txt>? AND txt<?)", id="a prefix"),
    pytest.param(Exists(Key("rare")), "(ds=? AND key=?)", id="a key"),
    pytest.param(Compare(Dimension(0), Operator.EQUAL, 3), "attr_num (ds=? AND key=? AND num=?)", id="a dimension"),
]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteCatalogue]:
    """A catalogue of 300 tensors, for all tests: a key that all have, one that 3 have, and a text each."""
    opened = SqliteCatalogue(tmp_path_factory.mktemp("plans"))
    dataset = create(opened)
    commit(
        opened,
        *(
            stored_tensor(
                dataset,
                f"{number}",
                shape=(number % 7,),
                metadata={"common": number, "text": f"x{number}"} | ({"rare": 1} if number % 100 == 0 else {}),
            )
            for number in range(300)
        ),
    )
    yield opened
    opened.close()


def plan_of(catalogue: SqliteCatalogue, request: PageRequest) -> list[str]:
    """Return the steps that SQLite takes for a page."""
    with catalogue._database.read() as connection:
        statement, parameters = _page_statement(connection, 1, request)
        rows = select(connection, f"EXPLAIN QUERY PLAN {statement}", parameters)
    return [detail for *_, detail in rows]


@each("field", INDEX_OF)
@each("descending", [False, True], ids=["ascending", "descending"])
@each("after", [False, True], ids=["first page", "next page"])
@each("with_payloads", [False, True], ids=["rows", "payloads"])
def test_a_page_walks_the_index_of_its_order(
    catalogue: SqliteCatalogue, field: str, *, descending: bool, after: bool, with_payloads: bool
) -> None:
    place = ("5" if field == "id" else 5, 5) if after else None
    request = PageRequest(
        order=Order(field, descending), after=place, generation_max=10**6, with_payloads=with_payloads
    )
    steps = plan_of(catalogue, request)
    assert steps[0].startswith(f"SEARCH t USING INDEX {INDEX_OF[field]}")
    assert not [step for step in steps if "TEMP B-TREE" in step or step.startswith("SCAN")]


@pytest.mark.parametrize(("condition", "index"), DRIVERS)
@pytest.mark.parametrize("order", ["created", "nbytes"])
def test_a_condition_that_few_tensors_fulfil_drives_the_search(
    catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch, condition: Filter, index: str, order: str
) -> None:
    monkeypatch.setattr(filter_sql, "_PROBE_MAX", 250)
    steps = plan_of(catalogue, PageRequest(AllOf((COMMON, condition)), Order(order), generation_max=10**6))
    # Tensors are looked up one by one, by the rows of the condition, and never walked through.
    assert re.search(r"SEARCH t USING .*(rowid|seq)=\?", steps[0])
    assert [step for step in steps if step.startswith("SEARCH a USING") and index in step]
    # The condition that all fulfil is looked up for each of the few.
    assert [step for step in steps if LOOKED_UP.fullmatch(step)]


def test_conditions_that_many_tensors_fulfil_are_looked_up_along_the_order(
    catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filter_sql, "_PROBE_MAX", 250)
    steps = plan_of(catalogue, PageRequest(COMMON))
    assert steps[0].startswith("SEARCH t USING INDEX tensor_created")
    assert [step for step in steps if LOOKED_UP.fullmatch(step)]
    assert not [step for step in steps if "TEMP B-TREE" in step]


def driver_of(catalogue: SqliteCatalogue, filter_: Filter) -> bool:
    """Return whether a condition drives the search."""
    with catalogue._database.read() as connection:
        where, _ = compile_filter(filter_, 1, connection)
    return "t.seq IN" in where


@pytest.mark.parametrize(
    ("filter_", "probe_max", "drives"),
    [
        pytest.param(RARE, 3, True, id="as many as may be"),
        pytest.param(RARE, 2, False, id="one more than may be"),
        pytest.param(AllOf((COMMON, RARE)), 299, True, id="one of two"),
        pytest.param(AllOf((COMMON, Compare(Key("no"), Operator.EQUAL, 1))), 0, True, id="one that nothing fulfils"),
        pytest.param(AnyOf((RARE, RARE)), 5000, False, id="alternatives: neither must hold"),
        pytest.param(Not(RARE), 5000, False, id="a negation: it must not hold"),
        pytest.param(AllOf((AllOf((RARE,)),)), 5000, False, id="nested: looked up for each"),
    ],
)
def test_only_what_must_hold_and_is_rare_enough_drives(
    catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch, filter_: Filter, probe_max: int, *, drives: bool
) -> None:
    monkeypatch.setattr(filter_sql, "_PROBE_MAX", probe_max)
    assert driver_of(catalogue, filter_) == drives


def test_the_rarest_condition_drives(catalogue: SqliteCatalogue) -> None:
    with catalogue._database.read() as connection:
        where, parameters = compile_filter(AllOf((COMMON, RARE, Exists(Key("text")))), 1, connection)
    begin = where.index("t.seq IN")
    assert parameters[where[:begin].count("?")] == 1
    assert parameters[where[:begin].count("?") + 1] == "rare"


def test_other_datasets_do_not_count_as_rows_of_a_condition(
    catalogue: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = create(catalogue, "other")
    commit(catalogue, *(stored_tensor(other, f"{number}", metadata={"rare": 1}) for number in range(20)))
    monkeypatch.setattr(filter_sql, "_PROBE_MAX", 3)
    assert driver_of(catalogue, RARE)
    found = catalogue.tensors.page("dataset", PageRequest(RARE)).tensors
    assert [tensor.id for tensor in found] == ["0", "100", "200"]


def test_nothing_of_a_filter_becomes_part_of_a_statement(catalogue: SqliteCatalogue) -> None:
    hostile = "'; DROP TABLE tensor; --"
    filter_ = AllOf((Compare(Key(hostile), Operator.EQUAL, hostile), Prefix(Key(hostile), hostile)))
    with catalogue._database.read() as connection:
        where, parameters = compile_filter(filter_, 1, connection)
    assert hostile not in where
    assert hostile in parameters
    assert catalogue.tensors.page("dataset", PageRequest(filter_)).tensors == []
