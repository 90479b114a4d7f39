"""The limits of a filter, and what of the metadata filters see."""

from __future__ import annotations

import math
from typing import Any

import pytest

from support.cases import each
from tensorus_server import limits
from tensorus_server.errors import InvalidFilterError, LimitExceededError
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
    check_filter,
    flatten_metadata,
    indexed,
    join_key,
)

CONDITION = Exists(Key("a"))


def nested(depth: int) -> Filter:
    """Return a filter of this depth."""
    filter_: Filter = CONDITION
    for _ in range(depth - 1):
        filter_ = Not(filter_)
    return filter_


def one_of(count: int) -> OneOf:
    """Return a condition with so many values."""
    return OneOf(Key("a"), tuple(range(count)))


ALLOWED = [
    pytest.param(nested(limits.FILTER_DEPTH_MAX), id="as deep as may be"),
    pytest.param(AllOf((CONDITION,) * limits.FILTER_CONDITIONS_MAX), id="as many conditions as may be"),
    pytest.param(one_of(limits.FILTER_VALUES_MAX), id="as many values as may be"),
    pytest.param(AnyOf((one_of(1000),) * 4 + (one_of(96),)), id="as many values in all as may be"),
    pytest.param(AllOf(()), id="nothing that must hold"),
    pytest.param(AnyOf(()), id="no alternative"),
    pytest.param(OneOf(Key("a"), ()), id="no value"),
    pytest.param(Compare(Key("a"), Operator.EQUAL, 2**53), id="the largest exact integer"),
    pytest.param(Compare(Key("a"), Operator.EQUAL, math.inf), id="infinity"),
    pytest.param(Prefix(Key("a"), "x" * limits.INDEXED_TEXT_BYTES_MAX), id="the longest text"),
]

REFUSED = [
    pytest.param(nested(9), LimitExceededError, r"depth of the filter is at least 9, limit is 8", id="too deep"),
    pytest.param(
        AllOf((CONDITION,) * 65),
        LimitExceededError,
        r"number of conditions of the filter is at least 65, limit is 64",
        id="too many conditions",
    ),
    pytest.param(
        AllOf((AnyOf((CONDITION,) * 33), AnyOf((CONDITION,) * 32))),
        LimitExceededError,
        "number of conditions",
        id="too many conditions in two places",
    ),
    pytest.param(
        AllOf((AllOf((CONDITION,) * 33), *(CONDITION,) * 32)),
        LimitExceededError,
        "number of conditions",
        id="too many conditions on two levels",
    ),
    pytest.param(
        AnyOf((AllOf(()),) * 65), LimitExceededError, "number of conditions", id="too many lists without conditions"
    ),
    pytest.param(
        one_of(1001), LimitExceededError, r"number of values of a one_of is 1001, limit is 1000", id="too many values"
    ),
    pytest.param(
        AnyOf((one_of(1000),) * 4 + (one_of(97),)),
        LimitExceededError,
        r"number of one_of values of the filter is at least 4097, limit is 4096",
        id="too many values in all",
    ),
    pytest.param(Compare(Key("a"), Operator.EQUAL, math.nan), InvalidFilterError, "with nan: it is NaN", id="NaN"),
    pytest.param(
        Compare(Key("a"), Operator.EQUAL, 2**53 + 1),
        InvalidFilterError,
        "nothing compares with 9007199254740993: it is NaN, beyond 2",
        id="an integer that is not exact",
    ),
    pytest.param(
        OneOf(Key("a"), (1, -(2**53) - 1)), InvalidFilterError, "nothing compares with -9007199254740993", id="one of"
    ),
    pytest.param(Prefix(Key("a"), "x\0"), InvalidFilterError, r"nothing compares with 'x\\x00'", id="a NUL"),
    pytest.param(
        Compare(Key("a"), Operator.LESS, "x" * 1025),
        InvalidFilterError,
        r"nothing compares with 'x{76}\.\.\.: ",
        id="too long a text, which is cut in the message",
    ),
    pytest.param(
        Not(AllOf((nested(2), Prefix(Key("a"), "\0")))), InvalidFilterError, "nothing compares", id="deep down"
    ),
]


@each("filter_", ALLOWED)
def test_a_filter_within_the_limits_is_allowed(filter_: Filter) -> None:
    check_filter(filter_)


@each(("filter_", "error", "message"), REFUSED)
def test_a_filter_beyond_the_limits_is_refused(filter_: Filter, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_filter(filter_)


def test_a_refusal_names_its_limit() -> None:
    with pytest.raises(LimitExceededError) as caught:
        check_filter(nested(20))
    assert caught.value.facts == {"limit": "8"}


def test_a_hostile_tree_is_refused_before_all_of_it_is_walked() -> None:
    # A million conditions that cannot even be looked at: the first level says enough.
    with pytest.raises(LimitExceededError):
        check_filter(AllOf((None,) * 1_000_000))  # type: ignore[arg-type]


def test_text_that_is_no_unicode_is_a_bad_value_and_no_unforeseen_error() -> None:
    with pytest.raises(InvalidFilterError):
        check_filter(Compare(Key("a"), Operator.EQUAL, "\ud800"))


INDEXED = [
    (True, 1.0),
    (False, 0.0),
    (-3, -3.0),
    (2**53, 2.0**53),
    (-(2**53), -(2.0**53)),
    (2**53 + 1, None),
    (-(2**53) - 1, None),
    (1.5, 1.5),
    (math.inf, math.inf),
    (math.nan, None),
    (None, None),
    ("", ""),
    ("ä", "ä"),
    ("a\0", None),
    ("x" * 1024, "x" * 1024),
    ("x" * 1025, None),
    ("é" * 513, None),
    ([], None),
    ({}, None),
]


@each(("value", "expected"), INDEXED)
def test_an_index_holds_numbers_as_float64_and_short_text(value: object, expected: float | str | None) -> None:
    found = indexed(value)
    assert found == expected
    assert type(found) is type(expected)


KEYS = [
    (["a"], "a"),
    (["a", "b", "c"], "a.b.c"),
    (["a.b"], r"a\.b"),
    (["@dim.0"], r"\@dim\.0"),
    (["\\", "."], r"\\.\."),
    (["a@b"], r"a\@b"),
    ([""], ""),
    (["", ""], "."),
]


@each(("parts", "name"), KEYS)
def test_a_nested_keys_name_is_its_parts_escaped(parts: list[str], name: str) -> None:
    assert join_key(parts) == name


FLATTENED: list[tuple[dict[str, Any], list[tuple[str, float | str | None]]]] = [
    ({}, []),
    ({"a": 1, "b": "x"}, [("a", 1.0), ("b", "x")]),
    ({"a": {"b": {"c": True}}}, [("a.b.c", 1.0)]),
    ({"a": [1, "x", None]}, [("a", 1.0), ("a", "x"), ("a", None)]),
    ({"a": [[1, [2]], []]}, [("a", 1.0), ("a", 2.0), ("a", None)]),
    ({"a": [{"b": 1}, {"b": 2}, 3]}, [("a.b", 1.0), ("a.b", 2.0), ("a", 3.0)]),
    ({"a": [], "b": {}}, [("a", None), ("b", None)]),
    ({"a": [1, 1.0, True]}, [("a", 1.0)]),
    ({"a": {"b": 1}, "a.b": 2}, [("a.b", 1.0), (r"a\.b", 2.0)]),
]


@each(("metadata", "expected"), FLATTENED)
def test_filters_see_every_scalar_of_the_metadata_once(
    metadata: dict[str, Any], expected: list[tuple[str, float | str | None]]
) -> None:
    found = flatten_metadata(metadata)
    assert sorted(found, key=repr) == sorted(expected, key=repr)
