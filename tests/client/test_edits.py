"""What a client sends for an edit is what NumPy's assignment does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, basic_indices

from support.arrays import random_bits
from support.arrivals import info_of
from tensorus._backend import Append, Upload, Write
from tensorus._edits import append_of, write_of
from tensorus.errors import InvalidSliceError


def sent(upload: Upload) -> np.ndarray[Any, Any]:
    """Return the values that an upload sends."""
    data = b"".join(bytes(block) for block in upload.blocks(64))
    assert len(data) == upload.canonical_bytes
    return np.frombuffer(data, upload.dtype).reshape(upload.shape)


def assert_written(old: np.ndarray[Any, Any], index: Any, values: Any) -> None:
    """Check that what is sent for a write, done as the server does it, is NumPy's assignment."""
    upload = write_of(info_of(old), index, values, 3)
    assert isinstance(upload.edit, Write)
    assert (upload.id, upload.if_generation_match, upload.edit.trailing_axes) == ("t", 3, ())
    assert all(part.step is None or part.step > 0 for part in upload.edit.axes)
    found, expected = old.copy(), old.copy()
    assert found[upload.edit.axes].shape == upload.shape
    found[upload.edit.axes] = sent(upload)
    expected[index] = values
    assert found.tobytes() == expected.tobytes()


@given(st.data(), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6), st.sampled_from(["uint8", "float32"]))
def test_a_write_by_any_index_is_numpys_assignment(data: st.DataObject, shape: tuple[int, ...], dtype: str) -> None:
    old = random_bits(dtype, shape, seed=1)
    index = data.draw(basic_indices(shape))
    assert_written(old, index, random_bits(dtype, old[index].shape, seed=2))


@pytest.mark.parametrize("values", [7, 2.5, np.float32(3), np.ones(4, np.float32), np.ones((3, 1), np.float32)])
def test_values_are_broadcast_to_the_index(values: Any) -> None:
    assert_written(np.zeros((3, 4, 2), np.float32), (..., 1), values)


@pytest.mark.parametrize("value", [True, 1, 2.0])
def test_a_number_becomes_a_value_of_the_tensors_dtype(value: Any) -> None:
    for dtype in ("bool", "int8", "float64", "complex64"):
        upload = write_of(info_of(np.zeros((2, 3), dtype)), 1, value, None)
        assert (upload.dtype, sent(upload).tolist()) == (dtype, np.full((1, 3), value, dtype).tolist())


def test_values_of_another_dtype_are_sent_as_they_are_and_refused_by_the_store() -> None:
    assert write_of(info_of(np.zeros(3, np.float32)), 0, np.float64(1), None).dtype == "float64"


@pytest.mark.parametrize(
    ("index", "values", "error", "message"),
    [
        (slice(2, 5), 1, InvalidSliceError, r"goes to 5 on axis 0, the tensor has size 4 there \[dataset=d, tensor=t\]"),
        ((..., slice(6, None)), 1, InvalidSliceError, "the write goes to 6 on axis 1, the tensor has size 5 there"),
        (slice(2, 4), np.ones((2, 4), np.float32), ValueError, r"shape \[2, 4\] do not fit the index, which selects \[2, 5\]"),
        (4, 1, IndexError, "out of bounds"),
        ((0, 0, 0), 1, IndexError, "too many indices"),
        ((..., ...), 1, IndexError, "single ellipsis"),
        (slice(None), "a", TypeError, "str"),
        (slice(None), [1], TypeError, "list"),
    ],
)  # fmt: skip
def test_a_write_that_does_not_fit_is_refused(index: Any, values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        write_of(info_of(np.zeros((4, 5), np.float32)), index, values, None)


def test_an_append_sends_the_values() -> None:
    array = random_bits("int16", (3, 4), seed=1)
    upload = append_of("t", array.T, -1, 5)
    assert (upload.id, upload.edit, upload.if_generation_match) == ("t", Append(-1), 5)
    assert (upload.metadata, upload.policy, upload.replace) == ({}, None, False)
    assert sent(upload).tolist() == array.T.tolist()


@pytest.mark.parametrize("values", [[1, 2], 3, None])
def test_only_arrays_are_appended(values: Any) -> None:
    with pytest.raises(TypeError):
        append_of("t", values, 0, None)
