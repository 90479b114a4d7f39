"""Dicts become filters in the text form, which the server's parser reads as they were meant."""

from __future__ import annotations

import enum
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.cases import each
from tensorus._where import filter_text
from tensorus_server.filter.text import parse_filter
from tensorus_server.filter.tree import AllOf, Compare, Key, OneOf, Operator, Property


@each(
    ("where", "text"),
    [
        pytest.param(None, "", id="nothing"),
        pytest.param("", "", id="empty text"),
        pytest.param("layer >= 3", "layer >= 3", id="text goes as it is"),
        pytest.param({}, "", id="an empty dict"),
        pytest.param({"layer": 3}, "`layer` = 3", id="an integer"),
        pytest.param({"layer": -3}, "`layer` = -3", id="a negative integer"),
        pytest.param({"rate": 0.5}, "`rate` = 0.5", id="a float"),
        pytest.param({"rate": 1e-7}, "`rate` = 1e-07", id="a small float"),
        pytest.param({"rate": 3.0}, "`rate` = 3.0", id="a whole float"),
        pytest.param({"best": True}, "`best` = true", id="True"),
        pytest.param({"best": False}, "`best` = false", id="False"),
        pytest.param({"kind": "attention"}, '`kind` = "attention"', id="text"),
        pytest.param({"kind": 'a"b'}, r'`kind` = "a\"b"', id="a quote"),
        pytest.param({"kind": "a\\b"}, r'`kind` = "a\\b"', id="a backslash"),
        pytest.param({"kind": '\\"'}, r'`kind` = "\\\""', id="a backslash before a quote"),
        pytest.param({"split": ["test", "dev"]}, '`split` IN ("test", "dev")', id="a list"),
        pytest.param({"split": ("test",)}, '`split` IN ("test")', id="a tuple"),
        pytest.param({"layer": {3}}, "`layer` IN (3)", id="a set"),
        pytest.param({"layer": frozenset([3])}, "`layer` IN (3)", id="a frozenset"),
        pytest.param({"a": 1, "b": "x"}, '`a` = 1 AND `b` = "x"', id="several, all of them"),
        pytest.param({"@dtype": "float32"}, '@dtype = "float32"', id="a property"),
        pytest.param({"@dim.0": [1, 2]}, "@dim.0 IN (1, 2)", id="a property and a list"),
        pytest.param({"a b.c": 1}, "`a b.c` = 1", id="a key with blanks and dots"),
    ],
)
def test_a_filter_has_one_text(where: Any, text: str) -> None:
    assert filter_text(where) == text


@each(
    ("where", "error", "match"),
    [
        pytest.param({"k": None}, TypeError, "a NoneType cannot be part of a filter", id="None"),
        pytest.param({"k": b"x"}, TypeError, "a bytes cannot be part of a filter", id="bytes"),
        pytest.param({"k": {"a": 1}}, TypeError, "a dict cannot be part of a filter", id="a dict"),
        pytest.param({"k": [[1]]}, TypeError, "a list cannot be part of a filter", id="a list in a list"),
        pytest.param({"k": 1j}, TypeError, "a complex cannot be part of a filter", id="a complex number"),
        pytest.param({"k": np.datetime64(1, "ns")}, TypeError, "a datetime64 cannot be part", id="a NumPy time"),
        pytest.param({"k": []}, ValueError, "values of 'k' are an empty list", id="an empty list"),
        pytest.param({"k": math.nan}, ValueError, "nan cannot be part of a filter: nothing equals it", id="NaN"),
        pytest.param({"k": math.inf}, ValueError, "inf cannot be part of a filter", id="infinity"),
        pytest.param({"k": [1, -math.inf]}, ValueError, "-inf cannot be part of a filter", id="infinity in a list"),
        pytest.param({"": 1}, ValueError, "key '' cannot be part of a filter", id="an empty key"),
        pytest.param({"a`b": 1}, ValueError, "key 'a`b' cannot be part of a filter", id="a key with a backquote"),
    ],
)
def test_what_nothing_can_equal_is_refused(where: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        filter_text(where)


class Colour(enum.IntEnum):
    RED = 3


@each(
    ("value", "text"),
    [
        pytest.param(np.float64(0.5), "`k` = 0.5", id="a NumPy float64, which is a float"),
        pytest.param(Colour.RED, "`k` = 3", id="an IntEnum, which is an int"),
        pytest.param(np.str_("x"), '`k` = "x"', id="a NumPy str, which is a str"),
        pytest.param(np.int8(3), "`k` = 3", id="a NumPy integer, as in metadata"),
        pytest.param(np.float32(0.5), "`k` = 0.5", id="a NumPy float32"),
        pytest.param([np.True_], "`k` IN (true)", id="a NumPy bool in a list"),
    ],
)
def test_a_subclass_and_a_numpy_scalar_count_as_what_they_are(value: Any, text: str) -> None:
    assert filter_text({"k": value}) == text


keys = st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), min_size=1, max_size=9).filter(
    lambda key: not key.startswith("@")
)
scalars = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
)


@given(key=keys, value=scalars)
def test_the_server_reads_an_equality_as_it_was_meant(key: str, value: Any) -> None:
    found = parse_filter(filter_text({key: value}))
    assert found == Compare(Key(key), Operator("="), value)
    assert isinstance(found, Compare)
    assert repr(found.value) == repr(value)


@given(key=keys, values=st.lists(scalars, min_size=1, max_size=4))
def test_the_server_reads_a_list_as_it_was_meant(key: str, values: list[Any]) -> None:
    found = parse_filter(filter_text({key: values}))
    assert found == OneOf(Key(key), tuple(values))
    assert isinstance(found, OneOf)
    assert repr(found.values) == repr(tuple(values))


def test_the_server_reads_several_keys_as_all_of_them() -> None:
    found = parse_filter(filter_text({"@dtype": "float32", "layer": 3}))
    assert found == AllOf(
        (Compare(Property("dtype"), Operator("="), "float32"), Compare(Key("layer"), Operator("="), 3))
    )
