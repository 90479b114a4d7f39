"""What goes in comes out: every dtype and shape, through both kinds of client."""

from __future__ import annotations

import numpy as np
import pytest

import tensorus
from support.arrays import DTYPE_NAMES, SHAPES, assert_same_bits, random_bits


@pytest.mark.parametrize("dtype", DTYPE_NAMES)
def test_every_dtype_and_shape_comes_back_bit_exact(client: tensorus.Client, dataset: str, dtype: str) -> None:
    client.create_dataset(dataset, preset="lossless")
    arrays = {f"{number}": random_bits(dtype, shape, seed=number) for number, shape in enumerate(SHAPES)}
    client.insert_many(dataset, arrays.items())
    for name, array in arrays.items():
        found = client.get(dataset, name, as_="numpy")
        assert_same_bits(np.asarray(found), array)
