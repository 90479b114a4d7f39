"""`get(index=...)` is NumPy's basic indexing: NumPy is the oracle, for the arithmetic alone and through real stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorus
from tensorus._arrays.indexing import parse_index

# Chunks of 4096 bytes, so that these tensors lie in one, in a few, and in many of them; 5 and 7 cut rows in the middle.
CHUNK_BYTES = 4096
SHAPES: list[tuple[int, ...]] = [(), (1,), (5000,), (0, 4), (40, 7, 30), (3, 5, 7, 11), (2048,), (1, 9000, 1)]


def values_of(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)


def bounds(size: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-size - 3, size + 3)


@st.composite
def parts(draw: st.DrawFn, size: int) -> Any:
    """Return an index of one axis: an integer, mostly within bounds, or a slice."""
    if draw(st.booleans()):
        number = draw(st.integers(-size, max(size - 1, 0)) | st.integers(-size - 2, size + 2))
        return draw(st.sampled_from([int, np.int64, np.int32]))(number)
    step = draw(st.none() | st.integers(-4, 4).filter(bool) | st.integers(-size - 2, size + 2).filter(bool))
    return slice(draw(bounds(size)), draw(bounds(size)), step)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Return a basic index for `shape`, with an Ellipsis anywhere or nowhere."""
    count = draw(st.integers(0, len(shape)))
    border = draw(st.integers(0, count))
    sizes = [*shape[:border], *shape[len(shape) - (count - border) :]] if count else []
    with_ellipsis = draw(st.booleans())
    if not with_ellipsis:
        sizes = list(shape[:count])
    found: list[Any] = [draw(parts(size)) for size in sizes]
    if with_ellipsis:
        found.insert(border, ...)
    if len(found) == 1 and draw(st.booleans()):
        return found[0]
    return tuple(found)


@given(data=st.data())
def test_the_arithmetic_is_numpy_s(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(SHAPES) | st.lists(st.integers(0, 5), max_size=5).map(tuple))
    array = values_of(shape)
    index = data.draw(indices(shape))
    parsed = parse_index(index)
    whole = (slice(None),) * (array.ndim - len(parsed.axes) - len(parsed.trailing_axes))
    read = array[(*parsed.axes, *whole, *parsed.trailing_axes)]
    compare(lambda: parsed.apply(read, shape), array, index)


@pytest.fixture(scope="session")
def dataset_of_shapes(remote: tensorus.Client, embedded: tensorus.Client) -> str:
    """Return a dataset with a tensor of every shape, in both stores; stored ones and compressed ones."""
    name = "indexing"
    for client in (remote, embedded):
        client.create_dataset(name)
        for preset in ("none", "lossless"):
            policy = tensorus.Policy(preset=preset, chunk_bytes=CHUNK_BYTES)
            client.insert_many(
                name,
                [tensorus.NewTensor(values_of(shape), f"{shape} {preset}", policy=policy) for shape in SHAPES],
            )
    return name


# The fixture decides which client, and gives the same one to all examples.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_part_of_a_stored_tensor_is_what_numpy_gives(
    client: tensorus.Client, dataset_of_shapes: str, data: st.DataObject
) -> None:
    shape = data.draw(st.sampled_from(SHAPES))
    preset = data.draw(st.sampled_from(["none", "lossless"]))
    index = data.draw(indices(shape))
    tensor_id = f"{shape} {preset}"
    compare(
        lambda: client.get(dataset_of_shapes, tensor_id, index=index, as_="numpy"),
        values_of(shape),
        index,
    )


def compare(find: Any, array: np.ndarray[Any, Any], index: Any) -> None:
    """Fail unless `find` returns what NumPy returns, or raises what NumPy raises."""
    try:
        expected = array[index]
    except IndexError as error:
        with pytest.raises(IndexError) as caught:
            find()
        assert str(caught.value) == str(error)  # noqa: PT017 - it is NumPy's error, with which ours is compared
    else:
        found = find()
        assert found.dtype == array.dtype
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)
