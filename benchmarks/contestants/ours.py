"""Tensorus: clients of a server, each function for one kind of work."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from common.client_process import Action
from common.settings import KIB, MIB
from common.values import Array, bfloat16_weights, normal
from common.work import Load, at_once, repeat

import tensorus

__all__ = [
    "MAX_RELATIVE_ERROR",
    "SLICES",
    "SLICES_OF",
    "SMALL_COUNT",
    "bfloat16_transfers",
    "fill",
    "once",
    "probes",
    "sizes",
    "slices",
    "small",
    "streams",
    "transfers",
]

MAX_RELATIVE_ERROR = 1e-2
"""What the preset "auto" is allowed."""

SMALL_COUNT = 4000
"""Small tensors in a run."""
ONE_BY_ONE_COUNT = 200

SLICES = 20
"""Parts of a tensor in a run."""

SLICES_OF = (
    "big, first byte",
    "big, 1 MiB",
    "big, 1 MiB across two chunks",
    "big, 4 KiB",
    "big, a column of 64 rows",
    "floats, first byte",
    "floats, 1 MiB",
    "floats, 4 KiB",
)
"""What `slices` returns."""


def transfers(address: str, mebibytes: Mapping[str, int], **connection: str) -> dict[str, Action]:
    """Return "insert PRESET" and "get PRESET", float32 N(0, 0.02), of so many MiB for each preset.

    Every insert is of a new id, since the space of a deleted tensor is given back only after an hour.

    Args:
        connection: further arguments of `tensorus.connect`.
    """
    client = _connected(address, connection)
    values = normal(max(mebibytes.values()))
    actions: dict[str, Action] = {}
    for preset, size in mebibytes.items():
        part = values[: size * MIB // 4]
        policy = tensorus.Policy(preset=preset, max_relative_error=MAX_RELATIVE_ERROR if preset == "auto" else None)
        client.create_dataset(preset, policy=policy)
        actions |= _insert_and_get(client, preset, preset, part)
    return actions


def bfloat16_transfers(address: str, mebibytes: int, presets: Sequence[str]) -> dict[str, Action]:
    """Return "insert PRESET" and "get PRESET" for bfloat16 weights."""
    client = tensorus.connect(address)
    values = bfloat16_weights(mebibytes)
    actions: dict[str, Action] = {}
    for preset in presets:
        client.create_dataset(f"bfloat16-{preset}", preset=preset)
        actions |= _insert_and_get(client, f"bfloat16-{preset}", preset, values)
    return actions


def sizes(address: str, mebibytes: Sequence[int], preset: str, run_bytes: int) -> dict[str, Action]:
    """Return "insert SIZE" and "get SIZE": as many tensors, one by one, as make `run_bytes`, and at least one."""
    client = tensorus.connect(address)
    client.create_dataset("d", preset=preset)
    values = normal(max(mebibytes))
    actions: dict[str, Action] = {}
    for size in mebibytes:
        part = values[: size * MIB // 4]
        count = max(1, run_bytes // part.nbytes)
        actions[f"insert {size}"] = partial(repeat, count, partial(_insert, client, "d", part))
        client.insert("d", part, id=str(size))
        actions[f"get {size}"] = partial(repeat, count, partial(client.get, "d", str(size), as_="numpy"))
    return actions


def once(address: str, mebibytes: int, preset: str) -> dict[str, Action]:
    """Return "insert" and "get" of one tensor, in a process that has done nothing before but connect."""
    client = tensorus.connect(address)
    client.create_dataset("d", preset=preset, exist_ok=True)
    values = normal(mebibytes)
    return {
        "insert": partial(_insert, client, "d", values, "t"),
        "get": lambda: client.get("d", "t", as_="numpy"),
    }


def small(address: str, **connection: str) -> dict[str, Action]:
    """Return ways to move tensors of 4 KiB; `connection` as for `transfers`."""
    client = _connected(address, connection)
    values = normal(1)[: 4 * KIB // 4].reshape(32, 32)
    client.create_dataset("d", preset="none")
    names = [f"kept-{number}" for number in range(SMALL_COUNT)]
    client.insert_many("d", ((name, values) for name in names))
    numbers = itertools.count()

    def insert_many() -> None:
        client.insert_many("d", ((str(next(numbers)), values) for _ in range(SMALL_COUNT)))

    def insert_one_by_one() -> None:
        for _ in range(ONE_BY_ONE_COUNT):
            client.insert("d", values, id=str(next(numbers)))

    def get_one_by_one() -> None:
        for name in names[:ONE_BY_ONE_COUNT]:
            client.get("d", name, as_="numpy")

    return {
        "insert_many": insert_many,
        "get_many": lambda: sum(1 for _ in client.get_many("d", names, as_="numpy")),
        "query, with the values": lambda: sum(1 for _ in client.query("d", limit=SMALL_COUNT, as_="numpy")),
        "query, headers only": lambda: sum(1 for _ in client.query("d", limit=SMALL_COUNT, with_data=False)),
        "insert, one by one": insert_one_by_one,
        "get, one by one": get_one_by_one,
    }


def slices(address: str, big_mebibytes: int, mebibytes: int) -> dict[str, Action]:
    """Return parts of a big int8 tensor of rows of 1 MiB, as it is, and of a float32 one, stored losslessly.

    Every action but "first byte" reads `SLICES` parts, each at a place of its own.
    """
    client = tensorus.connect(address)
    client.create_dataset("d")
    # Zeros that nobody has written take no memory here, and every byte of them goes through a real insert.
    client.insert("d", np.zeros((big_mebibytes, MIB), np.int8), id="big", preset="none")
    client.insert("d", normal(mebibytes).reshape(mebibytes, -1), id="floats", preset="lossless")
    random = np.random.default_rng(0)

    def rows(tensor: str, count: int, columns: slice | int) -> list[Array]:
        size = big_mebibytes if tensor == "big" else mebibytes
        starts = random.integers(0, max(1, size - count), SLICES)
        return [client.get("d", tensor, index=(slice(at, at + count), columns), as_="numpy") for at in starts]

    works: tuple[Action, ...] = (
        lambda: _first_byte(client, "big"),
        lambda: rows("big", 1, slice(None)),
        lambda: rows("big", 2, slice(MIB // 2)),
        lambda: rows("big", 1, slice(4 * KIB)),
        lambda: rows("big", 64, 7),
        lambda: _first_byte(client, "floats"),
        lambda: rows("floats", 1, slice(None)),
        lambda: rows("floats", 1, slice(1024)),
    )
    return dict(zip(SLICES_OF, works, strict=True))


def streams(address: str, process: int, load: Load) -> dict[str, Action]:
    """Return "insert COUNT" and "get COUNT": what this process does of a load.

    Each stream is a client of its own, on a thread of its own.
    """
    values = normal(load.mebibytes)
    with tensorus.connect(address) as client:
        client.create_dataset("d", preset="none", exist_ok=True)
        if process == 0:
            client.insert("d", values, id="kept")
    clients = [tensorus.connect(address) for _ in load.streams_of(process)]
    pool = ThreadPoolExecutor(len(clients))
    actions: dict[str, Action] = {}
    for count in load.counts:
        mine = clients[: len(load.streams_of(process, count))]
        if mine:
            inserts = [partial(_insert, client, "d", values) for client in mine]
            gets = [partial(client.get, "d", "kept", as_="numpy") for client in mine]
            actions[f"insert {count}"] = partial(at_once, pool, inserts, load.tensors // count)
            actions[f"get {count}"] = partial(at_once, pool, gets, load.tensors // count)
    return actions


def probes(address: str, dataset: str, count: int) -> dict[str, Action]:
    """Return "insert" and "get" of `count` tensors of 4 KiB, one by one, and "delete" of what was inserted."""
    client = tensorus.connect(address)
    values = normal(1)[: 4 * KIB // 4]
    client.insert(dataset, values, id="probe")
    inserted: list[str] = []

    def insert() -> None:
        inserted.extend(client.insert(dataset, values, metadata={"probe": True}).id for _ in range(count))

    def get() -> None:
        for _ in range(count):
            client.get(dataset, "probe", as_="numpy")

    def delete() -> None:
        client.delete(dataset, inserted)
        inserted.clear()

    return {"insert": insert, "get": get, "delete": delete}


def fill(folder: str, dataset: str, count: int) -> dict[str, Action]:
    """Return "fill": put `count` tensors of 64 bytes into a new store, by an engine in this process."""

    def run() -> None:
        values = np.arange(16, dtype=np.float32)
        with tensorus.open(folder) as store:
            store.create_dataset(dataset, preset="none")
            store.insert_many(dataset, itertools.repeat(values, count))

    return {"fill": run}


def _connected(address: str, connection: Mapping[str, str]) -> tensorus.Client:
    return tensorus.connect(address, ca=connection.get("ca"), token=connection.get("token"))


def _insert_and_get(client: tensorus.Client, dataset: str, preset: str, values: Array) -> dict[str, Action]:
    client.insert(dataset, values, id="kept")
    return {
        f"insert {preset}": partial(_insert, client, dataset, values),
        f"get {preset}": partial(client.get, dataset, "kept", as_="numpy"),
    }


def _insert(client: tensorus.Client, dataset: str, values: Array, name: str | None = None) -> None:
    client.insert(dataset, values, id=name)


class _Enough(Exception):  # noqa: N818 - nothing is wrong
    """The first byte is there."""


def _first_byte(client: tensorus.Client, name: str) -> None:
    def stop(_: tensorus.Progress) -> None:
        raise _Enough

    try:
        client.get("d", name, as_="numpy", on_progress=stop)
    except _Enough:
        return
