"""Queries and lists through both kinds of client: which tensors, in which order, how many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits
from support.client import FIVE_IDS, fill_with_five
from tensorus import errors
from tensorus._grpc import calls


@pytest.fixture(scope="module")
def filled(remote: tensorus.Client, embedded: tensorus.Client) -> str:
    """The dataset of the tests that only read, in both stores."""
    for client in (remote, embedded):
        fill_with_five(client, "query")
    return "query"


def ids(records: Any) -> list[str]:
    return [record.info.id for record in records]


QUERIES: list[Any] = [
    pytest.param(None, FIVE_IDS, id="all"),
    pytest.param("", FIVE_IDS, id="an empty text"),
    pytest.param({}, FIVE_IDS, id="an empty dict"),
    pytest.param("layer >= 2", ["vector", "scalar", "bytes"], id="a comparison"),
    pytest.param("layer >= 2 AND kind = 'bias'", ["vector", "scalar"], id="two conditions"),
    pytest.param("NOT (layer EXISTS)", ["empty"], id="what is not there"),
    pytest.param({"kind": "bias"}, ["vector", "scalar"], id="text in a dict"),
    pytest.param({"layer": 2}, ["vector", "bytes"], id="a number: 2 equals 2.0"),
    pytest.param({"layer": 2.0}, ["vector", "bytes"], id="a float: 2.0 equals 2"),
    pytest.param({"layer": [1, 3]}, ["matrix", "scalar"], id="one of several"),
    pytest.param({"kind": "bias", "layer": 3}, ["scalar"], id="two keys"),
    pytest.param({"best": True}, ["scalar"], id="a bool"),
    pytest.param({"kind": 'a "quoted" \\ kind'}, ["empty"], id="text with quotes"),
    pytest.param({"tags.split": "test"}, ["bytes"], id="nested metadata"),
    pytest.param({"@dtype": "float32"}, ["matrix", "scalar"], id="a property"),
    pytest.param({"@dtype": ["int8", "int64"], "layer": 2}, ["vector", "bytes"], id="a property and a key"),
    pytest.param({"@id": "vector"}, ["vector"], id="the id"),
    pytest.param({"@dim.0": 3}, ["matrix"], id="a size"),
    pytest.param({"kind": "nothing"}, [], id="nothing"),
]


@pytest.mark.parametrize(("where", "expected"), QUERIES)
def test_a_query_gives_what_matches(client: tensorus.Client, filled: str, where: Any, expected: list[str]) -> None:
    records = list(client.query(filled, where, as_="numpy"))
    assert ids(records) == expected
    for record in records:
        assert_same_bits(record.tensor, client.get(filled, record.info.id, as_="numpy"))


@pytest.mark.parametrize(("where", "expected"), QUERIES)
def test_a_list_gives_the_same_without_the_values(
    client: tensorus.Client, filled: str, where: Any, expected: list[str]
) -> None:
    infos = list(client.list(filled, where))
    assert [info.id for info in infos] == expected
    assert infos == [client.info(filled, tensor_id) for tensor_id in expected]


def test_a_query_without_data_gives_the_rest(client: tensorus.Client, filled: str) -> None:
    records = list(client.query(filled, {"layer": 2}, with_data=False))
    assert [record.tensor for record in records] == [None, None]
    assert [record.info for record in records] == list(client.list(filled, {"layer": 2}))


ORDERS: list[Any] = [
    pytest.param(None, FIVE_IDS, id="as they were committed"),
    pytest.param("created", FIVE_IDS, id="created"),
    pytest.param("created desc", FIVE_IDS[::-1], id="created desc"),
    pytest.param("id", sorted(FIVE_IDS), id="id"),
    pytest.param("id desc", sorted(FIVE_IDS)[::-1], id="id desc"),
    pytest.param("nbytes", ["empty", "scalar", "matrix", "bytes", "vector"], id="nbytes"),
    pytest.param("nbytes desc", ["vector", "bytes", "matrix", "scalar", "empty"], id="nbytes desc"),
    pytest.param("stored_bytes desc", ["vector", "bytes", "matrix", "scalar", "empty"], id="stored_bytes desc"),
]


@pytest.mark.parametrize(("order_by", "expected"), ORDERS)
def test_a_query_and_a_list_come_in_the_order_asked_for(
    client: tensorus.Client, filled: str, order_by: str | None, expected: list[str]
) -> None:
    assert ids(client.query(filled, order_by=order_by)) == expected
    assert [info.id for info in client.list(filled, order_by=order_by)] == expected


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (1, 1), (3, 3), (5, 5), (100, 5), (None, 5)])
def test_a_limit_is_a_limit(client: tensorus.Client, filled: str, limit: int | None, count: int) -> None:
    assert ids(client.query(filled, limit=limit)) == FIVE_IDS[:count]
    assert ids(client.query(filled, limit=limit, with_data=False)) == FIVE_IDS[:count]
    assert [info.id for info in client.list(filled, limit=limit)] == FIVE_IDS[:count]


def test_a_limit_counts_what_matches_in_its_order(client: tensorus.Client, filled: str) -> None:
    assert ids(client.query(filled, "layer EXISTS", order_by="id", limit=2)) == ["bytes", "matrix"]


@pytest.mark.parametrize(("sample", "count"), [(0, 0), (1, 1), (3, 3), (5, 5), (100, 5)])
def test_a_sample_has_so_many_and_none_twice(client: tensorus.Client, filled: str, sample: int, count: int) -> None:
    found = ids(client.query(filled, sample=sample))
    assert len(found) == len(set(found)) == count
    assert set(found) <= set(FIVE_IDS)


def test_a_sample_with_a_seed_can_be_had_again(client: tensorus.Client, filled: str) -> None:
    first = ids(client.query(filled, sample=3, seed=5))
    assert ids(client.query(filled, sample=3, seed=5)) == first
    others = {tuple(ids(client.query(filled, sample=3, seed=seed))) for seed in range(20)}
    assert len(others) > 5


def test_a_sample_is_taken_of_what_matches(client: tensorus.Client, filled: str) -> None:
    assert set(ids(client.query(filled, {"kind": "bias"}, sample=5))) == {"vector", "scalar"}
    assert len(ids(client.query(filled, sample=4, limit=2))) == 2


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        pytest.param(
            {"where": "layer =="}, errors.InvalidFilterError, r"^filter does not parse at character 7", id="text"
        ),
        pytest.param({"where": "@nothing = 1"}, errors.InvalidFilterError, r"nothing", id="an unknown property"),
        pytest.param(
            {"order_by": "size"}, errors.InvalidRequestError, r"^order_by is 'size', must be one of", id="order"
        ),
        pytest.param(
            {"where": " AND ".join(["a = 1"] * 65)}, errors.LimitExceededError, r"limit is 64", id="too many conditions"
        ),
    ],
)
def test_a_query_or_list_that_cannot_be_is_refused(
    client: tensorus.Client, filled: str, settings: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        next(client.query(filled, **settings))
    with pytest.raises(error, match=match):
        next(client.list(filled, **settings))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        pytest.param(
            {"sample": 1, "order_by": "id"}, r"^order_by and sample exclude each other", id="sample and order"
        ),
        pytest.param({"limit": -1}, r"limit", id="a negative limit"),
        pytest.param({"sample": -1}, r"sample", id="a negative sample"),
        pytest.param({"sample": 1_000_001}, r"^sample is 1000001, limit is 1000000 tensors", id="a large sample"),
    ],
)
def test_a_query_that_cannot_be_is_refused(
    client: tensorus.Client, filled: str, settings: dict[str, Any], match: str
) -> None:
    with pytest.raises(errors.InvalidRequestError, match=match):
        next(client.query(filled, **settings))


@pytest.mark.parametrize(("where", "error"), [({"k": None}, TypeError), ({"k": math.nan}, ValueError)], ids=str)
def test_a_filter_that_nothing_can_match_is_refused_at_once(
    client: tensorus.Client, filled: str, where: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="cannot be part of a filter"):
        client.query(filled, where)
    with pytest.raises(error, match="cannot be part of a filter"):
        client.list(filled, where)


@pytest.mark.parametrize("value", [2**53, 2**53 - 1, -(2**53)])
def test_an_integer_is_found_by_all_of_its_digits(client: tensorus.Client, dataset: str, value: int) -> None:
    client.create_dataset(dataset)
    neighbour = value + 1 if value < 0 else value - 1
    client.insert_many(
        dataset,
        [
            tensorus.NewTensor(np.zeros(1), "it", {"number": value}),
            tensorus.NewTensor(np.zeros(1), "its neighbour", {"number": neighbour}),
        ],
    )
    assert [info.id for info in client.list(dataset, {"number": value})] == ["it"]


@pytest.mark.parametrize("value", [2**53 + 1, 10**18 + 1, 2**63 - 1, -(2**63)])
def test_an_integer_beyond_what_is_indexed_is_refused_and_not_rounded(
    client: tensorus.Client, dataset: str, value: int
) -> None:
    client.create_dataset(dataset)
    client.insert(dataset, np.zeros(1), metadata={"number": value})
    with pytest.raises(errors.InvalidFilterError, match=rf"nothing compares with {value}: "):
        next(client.list(dataset, {"number": value}))


def test_a_list_goes_on_over_pages(client: tensorus.Client, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # More than a page of the engine's with data, and several of the client's.
    monkeypatch.setattr(calls, "PAGE_SIZE", 40)
    client.create_dataset(dataset)
    names = [f"t{number:04}" for number in range(150)]
    client.insert_many(dataset, ((name, np.zeros(1, np.int8)) for name in names))
    assert [info.id for info in client.list(dataset, order_by="id")] == names
    assert [info.id for info in client.list(dataset, order_by="id desc", limit=90)] == names[:-91:-1]
    assert ids(client.query(dataset, order_by="id")) == names
