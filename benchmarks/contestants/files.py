"""Stores without a server, in the process that uses them: Tensorus opened as a folder, safetensors, zarr-python, TensorStore.

Each function returns "write NAME", "write, synced NAME" where there is a choice, "read NAME" into a fresh array, and "remove":
every write is of something new. Libraries are loaded by the function that needs them, so that each process has its own alone.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common.client_process import Action
from common.settings import MIB
from common.values import Array, normal

__all__ = ["SAFETENSORS", "TENSORSTORES", "ZARRS", "safetensors", "tensorstores", "tensorus_stores", "zarrs"]

SAFETENSORS = ("safetensors",)
ZARRS = ("zarr raw", "zarr zstd-1", "zarr blosc bitshuffle lz4")
TENSORSTORES = ("TensorStore raw", "TensorStore zstd-1", "TensorStore blosc bitshuffle lz4")
"""Names of the formats that each function knows; each is a folder."""

CHUNK_VALUES = MIB // 4
"""Of chunked formats: 1 MiB, as Tensorus has."""

KEPT = "kept"
"""What is read."""

Write = Callable[[Path, Array], None]
Read = Callable[[Path], Array]


def tensorus_stores(folder: str, mebibytes: int, presets: Sequence[str]) -> dict[str, Action]:
    """Return the actions of an engine in this process, a store for each preset. Every insert is synced."""
    import tensorus  # noqa: PLC0415

    values = normal(mebibytes)
    actions: dict[str, Action] = {}
    for preset in presets:
        client = tensorus.open(Path(folder) / preset)
        client.create_dataset("d", preset=preset)
        client.insert("d", values, id=KEPT)
        actions[f"write, synced {preset}"] = partial(_insert, client, values)
        actions[f"read {preset}"] = partial(client.get, "d", KEPT, as_="numpy")
    return actions


def safetensors(folder: str, mebibytes: int) -> dict[str, Action]:
    """Return the actions of safetensors."""
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415

    def write(path: Path, values: Array) -> None:
        save_file({"values": values}, path)

    def read(path: Path) -> Array:
        values: Array = load_file(path)["values"]
        return values

    return _Format(Path(folder), SAFETENSORS[0], normal(mebibytes)).actions(write, read)


def zarrs(folder: str, mebibytes: int) -> dict[str, Action]:
    """Return the actions of zarr-python, format 3."""
    import zarr  # noqa: PLC0415
    from zarr.codecs import BloscCodec, ZstdCodec  # noqa: PLC0415

    values = normal(mebibytes)

    # `Any`: a codec of zarr, or None.
    def write(compressors: Any, path: Path, values: Array) -> None:
        array = zarr.create_array(
            str(path), shape=values.shape, chunks=(CHUNK_VALUES,), dtype=values.dtype, compressors=compressors
        )
        array[:] = values

    def read(path: Path) -> Array:
        array = zarr.open_array(str(path), mode="r")
        return np.asarray(array[:])

    compressors = (None, ZstdCodec(level=1), BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4))
    actions: dict[str, Action] = {}
    for name, codec in zip(ZARRS, compressors, strict=True):
        actions |= _Format(Path(folder), name, values).actions(partial(write, codec), read)
    return actions


def tensorstores(folder: str, mebibytes: int) -> dict[str, Action]:
    """Return the actions of TensorStore, zarr format 3. It syncs by itself, unless it is told not to."""
    import tensorstore  # noqa: PLC0415

    values = normal(mebibytes)

    def spec(path: Path) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}

    def write(codecs: list[dict[str, Any]], path: Path, values: Array, *, synced: bool) -> None:
        context = tensorstore.Context({"file_io_sync": synced})
        metadata = {
            "shape": list(values.shape),
            "data_type": "float32",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_VALUES]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, *codecs],
        }
        store = tensorstore.open({**spec(path), "metadata": metadata}, create=True, context=context).result()
        store.write(values).result()

    def read(path: Path) -> Array:
        return np.asarray(tensorstore.open(spec(path), open=True).result().read().result())

    blosc = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 4}
    zstd = {"level": 1}
    codecs: tuple[list[dict[str, Any]], ...] = (
        [],
        [{"name": "zstd", "configuration": zstd}],
        [{"name": "blosc", "configuration": blosc}],
    )
    actions: dict[str, Action] = {}
    for name, steps in zip(TENSORSTORES, codecs, strict=True):
        actions |= _Format(Path(folder), name, values).actions(
            partial(write, steps, synced=False), read, partial(write, steps, synced=True)
        )
    return actions


class _Format:
    """One format: what is kept, and what comes and goes."""

    def __init__(self, folder: Path, name: str, values: Array) -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._name = name
        self._values = values
        self._numbers = itertools.count()

    def actions(self, write: Write, read: Read, write_synced: Write | None = None) -> dict[str, Action]:
        """Return the actions; without `write_synced`, whatever was written is synced afterwards."""
        write(self._folder / KEPT, self._values)
        return {
            f"write {self._name}": lambda: write(self._next(), self._values),
            f"write, synced {self._name}": lambda: (write_synced or partial(_and_sync, write))(
                self._next(), self._values
            ),
            f"read {self._name}": lambda: read(self._folder / KEPT),
            f"remove {self._name}": self._remove,
        }

    def _next(self) -> Path:
        return self._folder / str(next(self._numbers))

    def _remove(self) -> None:
        for path in self._folder.iterdir():
            if path.name == KEPT:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _and_sync(write: Write, path: Path, values: Array) -> None:
    write(path, values)
    # Files first, then the folders that name them, from the leaves to the one that holds it all.
    for place in [*sorted(path.rglob("*"), reverse=True), path, path.parent]:
        _sync(place)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _insert(client: Any, values: Array) -> None:
    client.insert("d", values)
