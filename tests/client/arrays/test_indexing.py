"""An index is taken apart without knowing the shape, and its result looks as NumPy's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from support.cases import each
from tensorus._arrays.indexing import ParsedIndex, parse_index

ALL = slice(None)

PARSED: list[Any] = [
    pytest.param((), (), (), {}, id="an empty tuple"),
    pytest.param(..., (), (), {}, id="Ellipsis alone"),
    pytest.param(3, (slice(3, 4),), (), {0: 3}, id="an integer"),
    pytest.param(0, (slice(0, 1),), (), {0: 0}, id="zero"),
    pytest.param(-1, (slice(-1, None),), (), {0: -1}, id="the last one: no index comes after it"),
    pytest.param(-2, (slice(-2, -1),), (), {0: -2}, id="the last but one"),
    pytest.param(slice(1, 9, 2), (slice(1, 9, 2),), (), {}, id="a slice"),
    pytest.param(ALL, (ALL,), (), {}, id="a whole axis"),
    pytest.param((1, ALL, -3), (slice(1, 2), ALL, slice(-3, -2)), (), {0: 1, 2: -3}, id="several"),
    pytest.param((1, ...), (slice(1, 2),), (), {0: 1}, id="Ellipsis at the end"),
    pytest.param((..., 1), (), (slice(1, 2),), {-1: 1}, id="Ellipsis at the beginning"),
    pytest.param((2, ..., ALL, 1), (slice(2, 3),), (ALL, slice(1, 2)), {0: 2, -1: 1}, id="Ellipsis in the middle"),
    pytest.param((..., 1, ALL, 5), (), (slice(1, 2), ALL, slice(5, 6)), {-3: 1, -1: 5}, id="axes from the end"),
    pytest.param(slice(None, None, -1), (slice(None, None, -1),), (), {}, id="backwards"),
]


@each(("index", "axes", "trailing_axes", "integers"), PARSED)
def test_an_index_becomes_slices(
    index: Any, axes: tuple[slice, ...], trailing_axes: tuple[slice, ...], integers: dict[int, int]
) -> None:
    parsed = parse_index(index)
    assert (parsed.axes, parsed.trailing_axes, parsed.integers) == (axes, trailing_axes, integers)


@each(
    "make",
    [np.int8, np.uint64, np.intp, np.array, torch.tensor],
    ids=["int8", "uint64", "intp", "an array without axes", "a torch tensor without axes"],
)
def test_whatever_counts_as_an_integer_is_one(make: Callable[[int], Any]) -> None:
    parsed = parse_index((make(3), slice(make(1), make(5), make(2))))
    assert parsed == parse_index((3, slice(1, 5, 2)))
    assert [type(bound) for part in parsed.axes for bound in (part.start, part.stop)] == [int] * 4


@each(
    ("index", "kind"),
    [
        pytest.param(None, "NoneType", id="None"),
        pytest.param(True, "bool", id="a bool"),
        pytest.param(np.True_, "bool", id="a NumPy bool"),
        pytest.param(1.0, "float", id="a float"),
        pytest.param("a", "str", id="text"),
        pytest.param([0, 1], "list", id="a list"),
        pytest.param((0, None), "NoneType", id="None behind an integer"),
        pytest.param((0, (1, 2)), "tuple", id="a tuple in a tuple"),
        pytest.param(np.array([0, 1]), "ndarray", id="an array of integers"),
        pytest.param(np.array([True]), "ndarray", id="a mask"),
    ],
)
def test_what_is_no_basic_index_is_refused_by_its_kind(index: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^index has a {kind}, must have only integers, slices and \.\.\.$"):
        parse_index(index)


@each("part", [slice(1.0, 2), slice(None, "a"), slice(None, None, 1.5)])
def test_a_bound_of_a_slice_is_an_integer(part: slice) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        parse_index(part)


def test_a_second_ellipsis_is_refused_in_numpy_s_words() -> None:
    with pytest.raises(IndexError) as by_numpy:
        np.zeros(3)[..., ...]
    with pytest.raises(IndexError) as by_us:
        parse_index((..., 0, ...))
    assert str(by_us.value) == str(by_numpy.value)


# ---- apply --------------------------------------------------------------------------------------------------------------


def read(array: np.ndarray[Any, Any], parsed: ParsedIndex) -> np.ndarray[Any, Any]:
    """Return what a server sends: the slices, with every axis still there."""
    whole = (ALL,) * (array.ndim - len(parsed.axes) - len(parsed.trailing_axes))
    return np.ascontiguousarray(array[(*parsed.axes, *whole, *parsed.trailing_axes)]).reshape(
        array[(*parsed.axes, *whole, *parsed.trailing_axes)].shape
    )


def indexed(array: np.ndarray[Any, Any], index: Any) -> Any:
    """Return what the client makes of `array[index]`."""
    parsed = parse_index(index)
    return parsed.apply(read(array, parsed), array.shape)


CUBE = np.arange(60).reshape(3, 4, 5)

INDICES: list[Any] = [
    pytest.param(CUBE, (1,), id="one axis dropped"),
    pytest.param(CUBE, (1, 2, 3), id="every axis dropped"),
    pytest.param(CUBE, (-1, -2, -3), id="from the end"),
    pytest.param(CUBE, (1, 2, 3, ...), id="every axis dropped, and Ellipsis"),
    pytest.param(CUBE, (..., 1, 2, 3), id="Ellipsis, and every axis dropped"),
    pytest.param(CUBE, (0, ..., 0), id="first and last axis dropped"),
    pytest.param(CUBE, (ALL, 0), id="the middle axis dropped"),
    pytest.param(CUBE, (slice(0, 1), 0, slice(2, 3)), id="an axis of one element is not dropped"),
    pytest.param(CUBE, (slice(2, 2), 0), id="an empty slice"),
    pytest.param(CUBE, (slice(None, None, -2), ..., slice(4, 0, -3)), id="backwards"),
    pytest.param(CUBE, (), id="an empty tuple"),
    pytest.param(CUBE, ..., id="Ellipsis"),
    pytest.param(np.array(7), ..., id="Ellipsis of a scalar"),
    pytest.param(np.array(7), (), id="an empty tuple of a scalar"),
    pytest.param(np.zeros((0, 3)), (ALL, 1), id="an axis of an empty array"),
]


@each(("array", "index"), INDICES)
def test_the_result_is_numpy_s(array: np.ndarray[Any, Any], index: Any) -> None:
    found, expected = indexed(array, index), array[index]
    assert np.shape(found) == np.shape(expected)
    assert np.array_equal(found, expected)
    # NumPy gives a scalar where nothing but integers was asked for, and an array everywhere else.
    assert isinstance(found, np.generic) == isinstance(expected, np.generic)


OUT_OF_BOUNDS: list[Any] = [
    pytest.param(CUBE, 3, id="one too far"),
    pytest.param(CUBE, -4, id="one too far from the end"),
    pytest.param(CUBE, (0, 4), id="in the second axis"),
    pytest.param(CUBE, (..., 5), id="in the last axis"),
    pytest.param(CUBE, (..., -6, 0), id="in the last but one axis"),
    pytest.param(CUBE, (slice(0, 0), 9), id="behind an empty slice"),
    pytest.param(np.zeros((0, 3)), 0, id="in an empty axis"),
    pytest.param(np.zeros((0, 3)), -1, id="the last of an empty axis"),
    pytest.param(np.zeros((1, 3)), -2, id="in an axis of one"),
    pytest.param(CUBE, 10**12, id="far too far"),
]


@each(("array", "index"), OUT_OF_BOUNDS)
def test_an_index_out_of_bounds_is_refused_in_numpy_s_words(array: np.ndarray[Any, Any], index: Any) -> None:
    with pytest.raises(IndexError) as by_numpy:
        array[index]
    with pytest.raises(IndexError) as by_us:
        indexed(array, index)
    assert str(by_us.value) == str(by_numpy.value)


def test_the_result_is_a_view_of_what_was_read() -> None:
    array = np.arange(5).reshape(1, 5)
    assert np.shares_memory(parse_index((0,)).apply(array, (3, 5)), array)
