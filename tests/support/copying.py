"""Copies, moves and new names as operations of any client on a dataset `d` that has the tensors "matrix" and "scalar"."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import numpy as np

import tensorus

__all__ = ["COPYING"]

COPYING: dict[str, Callable[[Any, str], Any]] = {
    "copy": lambda client, d: client.copy(d, "matrix", "copy"),
    "copy, and get": lambda client, d: client.get(d, "copy", as_="numpy"),
    "copy again": lambda client, d: client.copy(d, "matrix", "copy"),
    "copy over another": lambda client, d: client.copy(d, "scalar", "copy"),
    "copy over another, replace": lambda client, d: client.copy(d, "scalar", "copy", replace=True),
    "copy of itself": lambda client, d: client.copy(d, "scalar"),
    "copy of nothing": lambda client, d: client.copy(d, "nothing", "x"),
    "copy from nowhere": lambda client, d: client.copy("nowhere", "scalar", "x"),
    "copy to nowhere": lambda client, d: client.copy(d, "scalar", to="nowhere"),
    "copy to an id that is empty": lambda client, d: client.copy(d, "scalar", "a\nb"),
    "copy to an id that is a number": lambda client, d: client.copy(d, "scalar", 7),
    "copy to an id that is no Unicode": lambda client, d: client.copy(d, "scalar", "\ud800"),
    "copy at no state": lambda client, d: client.copy(d, "scalar", "x", at=True),
    "create_dataset of another policy": lambda client, d: client.create_dataset(
        f"{d}/other", preset="maximum", schema=tensorus.Schema("float32")
    ),
    "copy to another dataset": lambda client, d: client.copy(d, "matrix", to=f"{d}/other"),
    "copy to another dataset and id": lambda client, d: client.copy(d, "matrix", "new", to=f"{d}/other"),
    "insert of integers": lambda client, d: client.insert(d, np.arange(5), id="integers"),
    "copy against the schema": lambda client, d: client.copy(d, "integers", to=f"{d}/other"),
    "append to a copy": lambda client, d: client.append(f"{d}/other", "new", np.ones((1, 4), np.float32)),
    "append to a copy, and get": lambda client, d: client.get(f"{d}/other", "new", as_="numpy"),
    "get of the original": lambda client, d: client.get(d, "matrix", as_="numpy"),
    "copy_many": lambda client, d: client.copy_many(d, {"matrix": "m", "scalar": "s"}),
    "copy_many of nothing": lambda client, d: client.copy_many(d, {}),
    "copy_many of nothing from nowhere": lambda client, d: client.copy_many("nowhere", {}),
    "copy_many to their own ids": lambda client, d: client.copy_many(
        d, {"matrix": None, "scalar": None}, to=f"{d}/other"
    ),
    "copy_many of one that is not there": lambda client, d: client.copy_many(d, {"matrix": "x", "nothing": "y"}),
    "copy_many to one id": lambda client, d: client.copy_many(d, {"matrix": "x", "scalar": "x"}),
    "copy_many of no mapping": lambda client, d: client.copy_many(d, [("matrix", "x")]),
    "copy_many of too many": lambda client, d: client.copy_many(d, {f"{n}": f"{n}/new" for n in range(1001)}),
    "snapshot for copies": lambda client, d: client.snapshot(d, "copies"),
    "write after the snapshot": lambda client, d: client.write(d, "matrix", 0, 5),
    "copy at a snapshot": lambda client, d: client.copy(d, "matrix", "matrix/before", at="copies"),
    "copy at a snapshot, and get": lambda client, d: client.get(d, "matrix/before", as_="numpy"),
    "copy at a snapshot to its own id": lambda client, d: client.copy(d, "matrix", at="copies", replace=True),
    "copy at a snapshot that is not there": lambda client, d: client.copy(d, "matrix", "x", at="never"),
    "copy_many at a snapshot": lambda client, d: client.copy_many(
        d, {"m": "m/before", "s": "s/before"}, at="copies", to=f"{d}/other"
    ),
    "copy_dataset at a snapshot": lambda client, d: client.copy_dataset(d, f"{d}/before", at="copies"),
    "copy_dataset at a snapshot, and list": lambda client, d: client.list(f"{d}/before"),
    "copy_dataset at a time long ago": lambda client, d: client.copy_dataset(d, f"{d}/x", at=datetime(2000, 1, 1)),  # noqa: DTZ001
    "drop_snapshot for copies": lambda client, d: client.drop_snapshot(d, "copies"),
    "move": lambda client, d: client.move(d, "m", "moved"),
    "move again": lambda client, d: client.move(d, "m", "moved"),
    "move to itself": lambda client, d: client.move(d, "moved", "moved"),
    "move to another dataset": lambda client, d: client.move(d, "moved", to=f"{d}/other"),
    "move to an equal one": lambda client, d: client.move(f"{d}/other", "moved", "matrix"),
    "move_many that swaps": lambda client, d: client.move_many(d, {"copy": "s", "s": "copy"}),
    "move_many in a chain": lambda client, d: client.move_many(d, {"copy": "s", "s": "t"}),
    "move_many over another": lambda client, d: client.move_many(d, {"s": "matrix", "t": "x"}),
    "rename": lambda client, d: client.rename(d, "t", "renamed"),
    "rename to a taken id": lambda client, d: client.rename(d, "renamed", "matrix"),
    "rename of nothing": lambda client, d: client.rename(d, "nothing", "x"),
    "copy_dataset": lambda client, d: client.copy_dataset(d, f"{d}/copied"),
    "copy_dataset again": lambda client, d: client.copy_dataset(d, f"{d}/copied"),
    "copy_dataset to a name that is not allowed": lambda client, d: client.copy_dataset(d, "../a"),
    "copy_dataset of nothing": lambda client, d: client.copy_dataset("nowhere", "x"),
    "rename_dataset": lambda client, d: client.rename_dataset(f"{d}/copied", f"{d}/renamed"),
    "rename_dataset again": lambda client, d: client.rename_dataset(f"{d}/copied", f"{d}/renamed"),
    "rename_dataset to a taken name": lambda client, d: client.rename_dataset(f"{d}/renamed", d),
    "rename_dataset to its own name": lambda client, d: client.rename_dataset(d, d),
    "rename_dataset to no name": lambda client, d: client.rename_dataset(d, ""),
    "list of a dataset that was copied and renamed": lambda client, d: client.list(f"{d}/renamed"),
    "stats of a dataset that was copied and renamed": lambda client, d: client.stats(f"{d}/renamed"),
    "verify of copies": lambda client, d: client.verify(f"{d}/renamed"),
}
"""In this order: later ones see what earlier ones did. The first word of each name is the method."""
