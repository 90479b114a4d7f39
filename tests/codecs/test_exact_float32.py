"""Narrow values as float32, on both of its ways: the same values, whatever they are."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tensorus_codecs.exact_float32 import exact_float32


@pytest.mark.parametrize("repeats", [1, 0.1], ids=["on the bits of all", "one after the other"])
def test_every_float16_stays_what_it_is(repeats: float) -> None:
    # 65,536 numbers are widened on their bits, a tenth of them is left to NumPy.
    values = np.arange(2**16, dtype=np.uint16).view(np.float16)[:: round(1 / repeats)]
    found = exact_float32(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(found[values == 0]), np.signbit(values[values == 0]))


def test_bfloat16_stays_what_it_is() -> None:
    values = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(exact_float32(values), values.astype(np.float32))


def test_float32_is_not_copied() -> None:
    values = np.ones(100_000, np.float32)
    assert exact_float32(values) is values
