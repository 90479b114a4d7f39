"""Slices of a tensor in chunks are NumPy's slices, read from exactly the chunks that hold a selected element."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.cases import each
from tensorus_server.engine.read.slices import SlicePlan, resolve_slices
from tensorus_server.errors import InvalidSliceError
from tensorus_server.model import SliceSet


def numpy_index(slices: SliceSet) -> tuple[Any, ...]:
    """Return the index with which NumPy selects the same."""
    return (*slices.axes, ..., *slices.trailing_axes)


def plan_of(slices: SliceSet, shape: tuple[int, ...], chunk_elements: int) -> SlicePlan:
    """Return the plan to read slices of a tensor."""
    return SlicePlan(shape, resolve_slices(slices, shape, dataset="d", tensor="t"), chunk_elements)


def gathered(plan: SlicePlan, values: np.ndarray[Any, Any], chunk_elements: int) -> np.ndarray[Any, Any]:
    """Read the plan's chunks and put the pieces together; refuses overlaps and holes."""
    flat = values.reshape(-1)
    result = np.zeros(plan.result_elements, values.dtype)
    times = np.zeros(plan.result_elements, int)
    for chunk in plan.chunks():
        held = flat[chunk * chunk_elements : (chunk + 1) * chunk_elements]
        pieces = list(plan.pieces(chunk, held))
        assert pieces
        # At most 2 * rank - 1 boxes make a chunk.
        assert len(pieces) <= max(1, 2 * values.ndim - 1)
        for piece in pieces:
            size = piece.values.size
            result[piece.offset : piece.offset + size] = piece.values.reshape(-1)
            times[piece.offset : piece.offset + size] += 1
    assert (times == 1).all()
    return result.reshape(plan.result_shape)


bounds = st.one_of(st.none(), st.integers(-9, 9))
steps = st.one_of(st.none(), st.integers(-4, 4).filter(bool), st.sampled_from([100, -100]))
slices_of_an_axis = st.one_of(st.just(slice(None)), st.builds(slice, bounds, bounds, steps))


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], SliceSet, int]:
    """Draw a shape, slices of some of its axes from either end, and a number of elements per chunk."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    given_axes = draw(st.integers(0, len(shape)))
    leading = draw(st.integers(0, given_axes))
    drawn = [draw(slices_of_an_axis) for _ in range(given_axes)]
    slices = SliceSet(tuple(drawn[:leading]), tuple(drawn[leading:]))
    return shape, slices, draw(st.integers(1, 40))


@settings(max_examples=4 * settings.default.max_examples)
@given(cases())
@example(((), SliceSet(()), 3))
@example(((4, 10), SliceSet((slice(None, None, -1), slice(7, 2, -2))), 7))
@example(((2, 3, 4), SliceSet((slice(1, None),), (slice(None, None, 3),)), 5))
@example(((6,), SliceSet((slice(5, None, -1),)), 4))
def test_slices_are_numpys_slices(case: tuple[tuple[int, ...], SliceSet, int]) -> None:
    shape, slices, chunk_elements = case
    values = np.arange(int(np.prod(shape))).reshape(shape)
    expected = values[numpy_index(slices)]
    plan = plan_of(slices, shape, chunk_elements)
    assert plan.result_shape == expected.shape
    assert plan.result_elements == expected.size
    # The values of the array are the positions of its elements.
    positions = expected.reshape(-1)
    assert list(plan.chunks()) == sorted(set((positions // chunk_elements).tolist()))
    if expected.size:
        assert np.array_equal(gathered(plan, values, chunk_elements), expected)
    is_run = bool((np.diff(positions) == 1).all())
    run = plan.contiguous()
    assert (run is not None) == is_run
    if run is not None and expected.size:
        assert run == (positions[0], positions.size)


@given(cases(), st.integers(0, 2**32))
def test_the_order_in_which_chunks_are_read_does_not_matter(
    case: tuple[tuple[int, ...], SliceSet, int], seed: int
) -> None:
    shape, slices, chunk_elements = case
    values = np.arange(int(np.prod(shape))).reshape(shape)
    expected = values[numpy_index(slices)]
    if expected.size == 0:
        return
    plan = plan_of(slices, shape, chunk_elements)
    chunks = list(plan.chunks())
    np.random.default_rng(seed).shuffle(chunks)
    result = np.full(plan.result_elements, -1)
    for chunk in chunks:
        for piece in plan.pieces(chunk, values.reshape(-1)[chunk * chunk_elements : (chunk + 1) * chunk_elements]):
            result[piece.offset : piece.offset + piece.values.size] = piece.values.reshape(-1)
    assert np.array_equal(result.reshape(plan.result_shape), expected)


class Case(NamedTuple):
    """Rows of a tensor of shape (4096, 256), 1,024 rows to a chunk."""

    rows: slice
    chunks: list[int]
    run: tuple[int, int] | None


ROWS = [
    pytest.param(Case(slice(1023, 1025), [0, 1], (1023 * 256, 512)), id="across a border"),
    pytest.param(Case(slice(0, 1024), [0], (0, 1024 * 256)), id="stop is exclusive"),
    pytest.param(Case(slice(1024, 1025), [1], (1024 * 256, 256)), id="from a border on"),
    pytest.param(Case(slice(5, 5), [], (0, 0)), id="an empty slice reads nothing"),
    pytest.param(Case(slice(7, 3), [], (0, 0)), id="a slice that ends before it begins"),
    pytest.param(Case(slice(-1, None), [3], (4095 * 256, 256)), id="a negative start counts from the end"),
    pytest.param(Case(slice(None), [0, 1, 2, 3], (0, 4096 * 256)), id="everything"),
    pytest.param(Case(slice(-(10**30), 10**30), [0, 1, 2, 3], (0, 4096 * 256)), id="bounds beyond all sizes"),
    pytest.param(Case(slice(0, None, 2048), [0, 2], None), id="a step across a chunk"),
    pytest.param(Case(slice(1023, None, 3000), [0, 3], None), id="a step from a border"),
    pytest.param(Case(slice(None, None, -1), [0, 1, 2, 3], None), id="backwards"),
    pytest.param(Case(slice(1024, 1023, -1), [1], (1024 * 256, 256)), id="one row backwards"),
    pytest.param(Case(slice(0, None, 10**30), [0], (0, 256)), id="a step beyond all sizes"),
]


@each("case", ROWS)
def test_rows_are_read_from_the_chunks_that_hold_them(case: Case) -> None:
    plan = plan_of(SliceSet((case.rows,)), (4096, 256), 1024 * 256)
    assert list(plan.chunks()) == case.chunks
    assert plan.contiguous() == case.run


def test_columns_are_read_from_every_chunk() -> None:
    plan = plan_of(SliceSet((), (slice(3, 4),)), (4096, 256), 1024 * 256)
    assert list(plan.chunks()) == [0, 1, 2, 3]
    assert plan.contiguous() is None
    assert plan.result_shape == (4096, 1)


def test_a_single_element_of_many_axes_is_one_chunk() -> None:
    plan = plan_of(SliceSet((slice(2, 3),) * 10), (5,) * 10, 1000)
    position = sum(2 * 5**power for power in range(10))
    assert list(plan.chunks()) == [position // 1000]
    assert plan.contiguous() == (position, 1)


def test_a_sparse_slice_of_a_huge_tensor_is_planned_without_walking_it() -> None:
    # Ten elements of 2**60, in chunks of 2**18: the plan may look at the ten alone.
    plan = plan_of(SliceSet((slice(None, None, 2**57),)), (2**60,), 2**18)
    assert list(plan.chunks()) == [index * 2**57 // 2**18 for index in range(8)]


REFUSED = [
    pytest.param(
        SliceSet((slice(0, 9, 0),)),
        (4, 4),
        r"step of axis 0 is 0, must not be 0 \[dataset=d, tensor=t\]",
        id="step zero",
    ),
    pytest.param(
        SliceSet((), (slice(None, None, 0),)), (4, 4), "step of axis 1 is 0", id="step zero of a trailing axis"
    ),
    pytest.param(
        SliceSet((slice(None),) * 3), (4, 4), "number of slices is 3, the tensor has 2 axes", id="too many slices"
    ),
    pytest.param(
        SliceSet((slice(None),), (slice(None),) * 2),
        (4, 4),
        "number of slices is 3, the tensor has 2 axes",
        id="too many slices from both ends",
    ),
    pytest.param(SliceSet((slice(None),)), (), "number of slices is 1, the tensor has 0 axes", id="of a scalar"),
]


@each(("slices", "shape", "message"), REFUSED)
def test_slices_that_the_tensor_does_not_have_are_refused(
    slices: SliceSet, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidSliceError, match=message) as caught:
        resolve_slices(slices, shape, dataset="d", tensor="t")
    assert caught.value.facts.items() >= {"dataset": "d", "tensor": "t"}.items()
