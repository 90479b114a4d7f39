"""Reading in another dtype: the values are those that NumPy's cast gives, on both clients, whole and in parts."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorus
from support.arrays import normal
from tensorus import errors

ARRAY = normal((300, 211))


@pytest.fixture
def stored(client: tensorus.Client, dataset: str) -> str:
    client.create_dataset(dataset)
    client.insert(dataset, ARRAY, id="t")
    client.insert(dataset, np.arange(12).reshape(3, 4), id="integers")
    return dataset


def dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float64", "float8_e5m2"])
@pytest.mark.parametrize("index", [None, (slice(3, 50), slice(None, None, -2)), (7,), (7, 8)], ids=str)
def test_values_are_cast_as_numpy_does(client: tensorus.Client, stored: str, name: str, index: Any) -> None:
    found = client.get(stored, "t", index=index, dtype=name, as_="numpy")
    expected = ARRAY[... if index is None else index].astype(dtype(name))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def test_integers_become_floats(client: tensorus.Client, stored: str) -> None:
    found = client.get(stored, "integers", dtype="float32", as_="numpy")
    np.testing.assert_array_equal(found, np.arange(12, dtype=np.float32).reshape(3, 4))


def test_the_same_dtype_is_no_cast(client: tensorus.Client, stored: str) -> None:
    assert client.get(stored, "t", dtype="float32", as_="numpy").tobytes() == ARRAY.tobytes()


def test_a_dtype_that_is_not_known_is_refused(client: tensorus.Client, stored: str) -> None:
    with pytest.raises(errors.UnsupportedDTypeError, match="dtype 'float33' is not one of bool, "):
        client.get(stored, "t", dtype="float33")


def test_a_cast_that_does_not_exist_is_refused(client: tensorus.Client, stored: str) -> None:
    with pytest.raises(errors.InvalidRequestError, match="as_dtype is int8, the tensor is float32"):
        client.get(stored, "t", dtype="int8")
