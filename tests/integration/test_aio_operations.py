"""The asynchronous client does what the synchronous one does: every operation has the same outcome with both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tensorus
from support.aio import AsyncClient, collected, run
from support.arrays import random_bits
from support.client import FIVE_IDS, MATRIX, Raised, comparable, fill_with_five, outcome_of
from support.copying import COPYING
from support.deltas import FIRST, next_step
from support.servers import running_server

MIB = 1024 * 1024

BIG = random_bits("uint8", (100_000,), seed=8)
"""Of what a store is asked first."""

OPERATIONS: dict[str, Callable[[Any, str], Any]] = {
    "create_dataset": lambda client, d: client.create_dataset(f"{d}/new", preset="balanced"),
    "create_dataset that is there": lambda client, d: client.create_dataset(d),
    "create_dataset, exist_ok": lambda client, d: client.create_dataset(d, exist_ok=True),
    "create_dataset of no name": lambda client, d: client.create_dataset(7),
    "create_dataset with two policies": lambda client, d: client.create_dataset(
        "x", preset="fast", policy=tensorus.Policy()
    ),
    "create_dataset of an unknown preset": lambda client, d: client.create_dataset("x", preset="best"),
    "create_dataset with a schema": lambda client, d: client.create_dataset(
        f"{d}/schema", schema=tensorus.Schema("float32", (None, 4), {"layer": int})
    ),
    "dataset": lambda client, d: client.dataset(d),
    "dataset that is not there": lambda client, d: client.dataset("nowhere"),
    "datasets": lambda client, d: client.datasets(),
    "update_dataset": lambda client, d: client.update_dataset(d, preset="lossless"),
    "stats": lambda client, d: client.stats(d),
    "insert": lambda client, d: client.insert(d, MATRIX, id="inserted", metadata={"layer": 9}),
    "insert again": lambda client, d: client.insert(d, MATRIX, id="inserted", metadata={"layer": 9}),
    "insert of other values": lambda client, d: client.insert(d, MATRIX + 1, id="inserted"),
    "insert again, without metadata": lambda client, d: client.insert(d, MATRIX, id="inserted"),
    "insert again, with other metadata": lambda client, d: client.insert(d, MATRIX, id="inserted", metadata={"a": 1}),
    "insert, on_conflict": lambda client, d: client.insert(
        d, MATRIX, id="inserted", metadata={"layer": 10}, on_conflict="replace"
    ),
    "insert, on_conflict of another kind": lambda client, d: client.insert(d, MATRIX, on_conflict="keep"),
    "insert, on_conflict and a generation": lambda client, d: client.insert(
        d, MATRIX, id="inserted", if_generation_match=0, on_conflict="replace"
    ),
    "insert of what must not be there": lambda client, d: client.insert(
        d, MATRIX + 1, id="inserted", if_generation_match=0
    ),
    "insert without an id": lambda client, d: client.insert(d, MATRIX),
    "insert of a large tensor": lambda client, d: client.insert(d, random_bits("uint8", (5 * MIB,)), id="large"),
    "insert of no array": lambda client, d: client.insert(d, object()),
    "insert of metadata that cannot be kept": lambda client, d: client.insert(d, MATRIX, metadata={"k": object()}),
    "insert of a generation that is not there": lambda client, d: client.insert(
        d, MATRIX, id="inserted", if_generation_match=1
    ),
    "insert, validate_only": lambda client, d: client.insert(d, MATRIX, validate_only=True),
    "insert, ask_first": lambda client, d: client.insert(d, BIG, id="asked", ask_first=True),
    "insert, ask_first of what is there": lambda client, d: client.insert(d, BIG, id="asked too", ask_first=True),
    "insert, ask_first and other metadata": lambda client, d: client.insert(
        d, BIG, id="asked", metadata={"a": 1}, ask_first=True
    ),
    "insert, ask_first and validate_only": lambda client, d: client.insert(d, BIG, ask_first=True, validate_only=True),
    "insert, ask_first into nothing": lambda client, d: client.insert("nowhere", BIG, ask_first=True),
    "insert_many, ask_first": lambda client, d: client.insert_many(
        d, [("asked", BIG), ("asked 3", BIG), ("asked 5", BIG[::-1])], ask_first=True
    ),
    "insert_many, ask_first of some that fail": lambda client, d: client.insert_many(
        d, [("asked", BIG[::-1]), ("asked 6", BIG), ("", BIG)], ask_first=True
    ),
    "insert_many, ask_first and all_or_nothing": lambda client, d: client.insert_many(
        d, [("asked", BIG)], ask_first=True, all_or_nothing=True
    ),
    "insert into nothing": lambda client, d: client.insert("nowhere", MATRIX),
    "insert_many": lambda client, d: client.insert_many(d, [("many-0", MATRIX), ("many-1", MATRIX.T), np.ones(3)]),
    "insert_many, on_conflict": lambda client, d: client.insert_many(
        d, [("many-0", MATRIX), ("many-1", MATRIX.T + 1)], on_conflict="replace"
    ),
    "insert_many again": lambda client, d: client.insert_many(d, [("many-0", MATRIX), ("many-1", MATRIX.T + 1)]),
    "insert_many of nothing": lambda client, d: client.insert_many(d, []),
    "insert_many of some that fail": lambda client, d: client.insert_many(
        d, [("many-0", MATRIX + 1), ("fine", MATRIX)]
    ),
    "insert_many of a wrong pair": lambda client, d: client.insert_many(d, [("fine-2", MATRIX), (1, 2, 3)]),
    "insert_many, all_or_nothing": lambda client, d: client.insert_many(
        d, [("none", MATRIX), ("many-0", MATRIX + 1)], all_or_nothing=True
    ),
    "insert of a base": lambda client, d: client.insert(d, FIRST, id="step 0"),
    "insert with a base": lambda client, d: client.insert(d, next_step(FIRST, 1), id="step 1", base="step 0"),
    "insert_many with bases": lambda client, d: client.insert_many(
        d,
        [tensorus.NewTensor(next_step(FIRST, step), f"step {step}", base=(d, "step 1")) for step in (2, 3)],
        # Otherwise either may be committed first.
        all_or_nothing=True,
    ),
    "insert with a base of another shape": lambda client, d: client.insert(d, MATRIX, base="step 0"),
    "insert with a base that is not there": lambda client, d: client.insert(d, MATRIX, base=("nowhere", "step 0")),
    "insert with a base of another kind": lambda client, d: client.insert(d, MATRIX, base=7),
    "append": lambda client, d: client.append(d, "many-0", MATRIX),
    "append along another axis": lambda client, d: client.append(d, "matrix", MATRIX, axis=1),
    "append of another dtype": lambda client, d: client.append(d, "matrix", np.ones((1, 4), np.int8)),
    "append to nothing": lambda client, d: client.append(d, "nothing", MATRIX),
    "append of no array": lambda client, d: client.append(d, "matrix", [1, 2]),
    "append to a generation that is not there": lambda client, d: client.append(
        d, "many-0", MATRIX, if_generation_match=1
    ),
    "append, and get": lambda client, d: client.get(d, "many-0", as_="numpy"),
    "write": lambda client, d: client.write(d, "many-0", (slice(None, None, -2), 1), 7),
    "write of an array": lambda client, d: client.write(d, "many-0", 0, np.ones(4, np.float32)),
    "write beyond the end": lambda client, d: client.write(d, "many-0", slice(0, 99), 7),
    "write of another shape": lambda client, d: client.write(d, "many-0", 0, np.ones(3, np.float32)),
    "write into nothing": lambda client, d: client.write(d, "nothing", 0, 7),
    "write, and get": lambda client, d: client.get(d, "many-0", as_="numpy"),
    "get": lambda client, d: client.get(d, "matrix", as_="numpy"),
    "get as torch": lambda client, d: client.get(d, "matrix"),
    "get of a large tensor": lambda client, d: client.get(d, "large", as_="numpy"),
    "get of a part": lambda client, d: client.get(d, "matrix", index=(slice(None, None, -1), 2), as_="numpy"),
    "get of an index out of bounds": lambda client, d: client.get(d, "matrix", index=9),
    "get of too many axes": lambda client, d: client.get(d, "matrix", index=(0, 0, 0)),
    "get of nothing": lambda client, d: client.get(d, "nothing"),
    "get of an unknown kind": lambda client, d: client.get(d, "matrix", as_="list"),
    "get_many": lambda client, d: client.get_many(d, FIVE_IDS, as_="numpy"),
    "get_many of none": lambda client, d: client.get_many(d, []),
    "get_many of one that is not there": lambda client, d: client.get_many(d, ["matrix", "nothing", "vector"]),
    "query": lambda client, d: client.query(d, "layer >= 2", as_="numpy"),
    "query by a dict": lambda client, d: client.query(d, {"kind": ["bias", "weight"]}, order_by="id desc", limit=2),
    "query without data": lambda client, d: client.query(d, with_data=False),
    "query of a sample": lambda client, d: client.query(d, "@rank >= 0", sample=2, seed=3, as_="numpy"),
    "query that does not parse": lambda client, d: client.query(d, "layer >="),
    "query of too many": lambda client, d: client.query(d, limit=-1),
    "list": lambda client, d: client.list(d),
    "list of some": lambda client, d: client.list(d, order_by="nbytes desc", limit=1),
    "list of none": lambda client, d: client.list(d, limit=0),
    "info": lambda client, d: client.info(d, "matrix"),
    "info of nothing": lambda client, d: client.info(d, "nothing"),
    "update_metadata": lambda client, d: client.update_metadata(d, "matrix", {"layer": 7}),
    "update_metadata that cannot be kept": lambda client, d: client.update_metadata(d, "matrix", {"k": object()}),
    "explain": lambda client, d: client.explain(MATRIX),
    "explain of some policies": lambda client, d: client.explain(MATRIX, policies=["fast", tensorus.Policy("maximum")]),
    "explain of a large tensor": lambda client, d: client.explain(random_bits("uint8", (70 * MIB,)), policies=["none"]),
    "explain of no array": lambda client, d: client.explain(object()),
    "explain of an unknown preset": lambda client, d: client.explain(MATRIX, policies=["best"]),
    "explain of one name": lambda client, d: client.explain(MATRIX, policies="fast"),
    "verify": lambda client, d: client.verify(),
    "verify of a dataset": lambda client, d: client.verify(d, max_bytes_per_second=2**70),
    "verify of some": lambda client, d: client.verify(d, iter(["matrix", "large"])),
    "verify of a dataset that is not there": lambda client, d: client.verify("nowhere"),
    "verify of one that is not there": lambda client, d: client.verify(d, "nothing"),
    "verify of ids without a dataset": lambda client, d: client.verify(None, "matrix"),
    "store_stats": lambda client, d: client.store_stats(),
    "server_status": lambda client, d: client.server_status(),
    "snapshot": lambda client, d: client.snapshot(d, "before"),
    "snapshot that is there": lambda client, d: client.snapshot(d, "before"),
    "snapshot of no name": lambda client, d: client.snapshot(d, 7),
    "snapshot of a name that is a generation": lambda client, d: client.snapshot(d, "7"),
    "snapshot of nothing": lambda client, d: client.snapshot("nowhere", "before"),
    "update_metadata of a tensor that is kept": lambda client, d: client.update_metadata(d, "scalar", {"layer": 33}),
    "delete of what is kept": lambda client, d: client.delete(d, ["vector", "bytes"]),
    "snapshot of another state": lambda client, d: client.snapshot(d, "after"),
    "snapshots": lambda client, d: client.snapshots(d),
    "snapshots of nothing": lambda client, d: client.snapshots("nowhere"),
    "get at a snapshot": lambda client, d: client.get(d, "vector", at="before", as_="numpy"),
    "get at a snapshot without it": lambda client, d: client.get(d, "vector", at="after"),
    "get at a snapshot that is not there": lambda client, d: client.get(d, "vector", at="never"),
    "get at a time": lambda client, d: client.get(d, "scalar", at=datetime.now(UTC), as_="numpy"),
    "get at a time long ago": lambda client, d: client.get(d, "scalar", at=datetime(2000, 1, 1)),  # noqa: DTZ001
    "get at a generation of the future": lambda client, d: client.get(d, "scalar", at=2**62),
    "get at no state": lambda client, d: client.get(d, "scalar", at=True),
    "get_many at a snapshot": lambda client, d: client.get_many(d, ["vector", "scalar"], at="before", as_="numpy"),
    "query at a snapshot": lambda client, d: client.query(d, "layer >= 2", at="before", as_="numpy"),
    "query of a sample at a snapshot": lambda client, d: client.query(
        d, "layer >= 2", sample=1, seed=1, at="before", with_data=False
    ),
    "query at a state that is not kept": lambda client, d: client.query(d, at=0),
    "list at a snapshot": lambda client, d: client.list(d, at="before"),
    "list at a snapshot that is not there": lambda client, d: client.list(d, at="never"),
    "info at a snapshot": lambda client, d: client.info(d, "scalar", at="before"),
    "stats at a snapshot": lambda client, d: client.stats(d, at="before"),
    "stats at a snapshot that is not there": lambda client, d: client.stats(d, at="never"),
    "restore": lambda client, d: client.restore(d, "before"),
    "restore, and list": lambda client, d: client.list(d, "@dtype = 'float32'"),
    "restore again": lambda client, d: client.restore(d, "before"),
    "restore of a snapshot that is not there": lambda client, d: client.restore(d, "never"),
    "restore of no state": lambda client, d: client.restore(d, None),
    "insert after the snapshots": lambda client, d: client.insert(d, MATRIX, id="newer"),
    "restore over a newer tensor": lambda client, d: client.restore(d, "before"),
    "restore over a newer tensor, discard_newer": lambda client, d: client.restore(d, "before", discard_newer=True),
    "delete_dataset with snapshots": lambda client, d: client.delete_dataset(d),
    "drop_snapshot": lambda client, d: client.drop_snapshot(d, "after"),
    "drop_snapshot again": lambda client, d: client.drop_snapshot(d, "after"),
    "update_dataset, retention": lambda client, d: client.update_dataset(d, retention=timedelta(days=7)),
    "update_dataset, retention of half a second": lambda client, d: client.update_dataset(
        d, retention=timedelta(seconds=0.5)
    ),
    "update_dataset, retention below zero": lambda client, d: client.update_dataset(d, retention=timedelta(days=-1)),
    "create_dataset, retention": lambda client, d: client.create_dataset(f"{d}/kept", retention=timedelta(hours=1)),
    "create_dataset, retention of no kind": lambda client, d: client.create_dataset(f"{d}/not kept", retention=3600),
    **COPYING,
    "delete": lambda client, d: client.delete(d, "vector"),
    "delete many": lambda client, d: client.delete(d, ["matrix", "nothing"]),
    "delete_dataset, drop_snapshots": lambda client, d: client.delete_dataset(d, drop_snapshots=True),
    "delete_dataset again": lambda client, d: client.delete_dataset(d),
}
"""In this order: later ones see what earlier ones did."""


def test_every_method_is_compared_here() -> None:
    others = {"close", "access"}
    methods = {name for name in dir(tensorus.Client) if not name.startswith("_")} - others
    assert {name for name in dir(AsyncClient) if not name.startswith("_")} - others == methods
    assert {name.split(",")[0].split(" ")[0] for name in OPERATIONS} == methods


def test_every_operation_has_the_same_outcome_with_both_clients(tmp_path: Path) -> None:
    with running_server(tmp_path / "sync") as server, tensorus.connect(server.address) as client:
        fill_with_five(client, "d")
        found = {name: outcome_of(partial(listed, operation, client)) for name, operation in OPERATIONS.items()}
    with running_server(tmp_path / "async") as server:
        with tensorus.connect(server.address) as client:
            fill_with_five(client, "d")

        async def outcomes(client: AsyncClient) -> dict[str, Any]:
            return {name: await async_outcome_of(operation, client) for name, operation in OPERATIONS.items()}

        found_async = run(outcomes, server.address)
    assert found_async == found
    refused = [name for name, outcome in found.items() if isinstance(outcome, Raised)]
    assert len(refused) == 99, refused


def listed(operation: Callable[[Any, str], Any], client: tensorus.Client) -> Any:
    found = operation(client, "d")
    return list(found) if isinstance(found, Iterator) else found


async def async_outcome_of(operation: Callable[[Any, str], Any], client: AsyncClient) -> Any:
    """Return what `support.client.outcome_of` does, of the asynchronous client."""
    try:
        found = await collected(operation(client, "d"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the two clients are compared by it
        raised = error

        def action() -> Any:
            raise raised

        return outcome_of(action)
    return comparable(found)
