"""Parts of an array in a file or a folder of this machine, read without a server: safetensors, zarr-python, TensorStore."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common.client_process import Action
from common.settings import MIB
from common.values import Array, normal

__all__ = ["LIBRARIES", "SIZES", "readers"]

LIBRARIES = ("zarr-python raw", "TensorStore raw", "safetensors")

SIZES = {"1 MiB": slice(None), "4 KiB": slice(1024)}
"""Columns of a row that are read."""

PARTS = 20
"""Read in a run, each at a place of its own; as many as of ours."""


def readers(folder: str, mebibytes: int) -> dict[str, Action]:
    """Return "LIBRARY, 1 MiB" and "LIBRARY, 4 KiB" of a float32 array of rows of 1 MiB; a row is a chunk, if there are any."""
    import tensorstore  # noqa: PLC0415 - the package has one process for each of its modules
    import zarr  # noqa: PLC0415
    from safetensors import safe_open  # noqa: PLC0415
    from safetensors.numpy import save_file  # noqa: PLC0415

    values = normal(mebibytes).reshape(mebibytes, -1)
    place = Path(folder)
    chunks = (1, MIB // 4)
    array = zarr.create_array(
        str(place / "zarr"), shape=values.shape, chunks=chunks, dtype=values.dtype, compressors=None
    )
    array[:] = values
    save_file({"values": values}, place / "file.safetensors")
    store = tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(place / "zarr")}}).result()
    # `Any`: it carries no types.
    opened: Any = safe_open(place / "file.safetensors", framework="numpy")
    saved = opened.get_slice("values")
    random = np.random.default_rng(0)

    def read(one: Callable[[int, slice], Array], columns: slice) -> list[Array]:
        return [one(int(row), columns) for row in random.integers(0, mebibytes, PARTS)]

    libraries: tuple[Callable[[int, slice], Array], ...] = (
        lambda row, columns: np.asarray(array[row, columns]),
        lambda row, columns: np.asarray(store[row, columns].read().result()),
        lambda row, columns: np.array(saved[row : row + 1, columns]),
    )
    return {
        f"{library}, {size}": partial(read, one, columns)
        for library, one in zip(LIBRARIES, libraries, strict=True)
        for size, columns in SIZES.items()
    }
