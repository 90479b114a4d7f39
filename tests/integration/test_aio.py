"""The asynchronous client: it does what the synchronous one does, is cancelled, and leaves the event loop free."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import random_bits
from support.client import FIVE_IDS, MATRIX, Raised, comparable, fill_with_five, outcome_of, stoppable_server
from support.copying import COPYING
from support.deltas import FIRST, next_step
from support.servers import running_server
from tensorus import errors
from tensorus.types import Progress
from tensorus_server.errors import EngineError
from tensorus_server.processes.server import Server

MIB = 1024 * 1024
TIMEOUT_S = 30

BIG = random_bits("uint8", (100_000,), seed=8)
"""Of what a store is asked first."""

AsyncClient = tensorus.aio.AsyncClient


def run(action: Callable[[AsyncClient], Awaitable[Any]], address: str, **settings: Any) -> Any:
    """Run `action` with a client of its own, on an event loop of its own, bounded in time."""

    async def main() -> Any:
        async with asyncio.timeout(TIMEOUT_S), tensorus.aio.connect(address, **settings) as client:
            return await action(client)

    return asyncio.run(main())


async def collected(found: Any) -> Any:
    """Await a value, or the values of an iteration."""
    return await found if inspect.isawaitable(found) else [value async for value in found]


# ---- It does what the synchronous client does ---------------------------------------------------------------------------


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
    methods = {name for name in dir(tensorus.Client) if not name.startswith("_")} - {"close"}
    assert {name for name in dir(AsyncClient) if not name.startswith("_")} - {"close"} == methods
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


def test_an_asynchronous_iterable_is_stored_like_any_other(server: Server, dataset: str) -> None:
    async def tensors() -> AsyncIterator[Any]:
        for number in range(20):
            await asyncio.sleep(0)
            yield f"t{number}", np.full(100, number)

    async def action(client: AsyncClient) -> Any:
        await client.create_dataset(dataset)
        inserted = await client.insert_many(dataset, tensors())
        return [info.id for info in inserted], await client.get(dataset, "t7", as_="numpy")

    ids, array = run(action, server.address)
    assert ids == [f"t{number}" for number in range(20)]
    assert array.tolist() == [7] * 100


def test_what_an_asynchronous_iterable_raises_reaches_its_caller(server: Server, dataset: str) -> None:
    async def tensors() -> AsyncIterator[Any]:
        yield "first", MATRIX
        raise ZeroDivisionError("of the source")

    async def action(client: AsyncClient) -> None:
        await client.create_dataset(dataset)
        with pytest.raises(ZeroDivisionError, match="of the source"):
            await client.insert_many(dataset, tensors())

    run(action, server.address)


def test_progress_is_told_on_the_event_loop(server: Server, dataset: str) -> None:
    async def action(client: AsyncClient) -> tuple[list[Progress], set[threading.Thread]]:
        told: list[Progress] = []
        threads: set[threading.Thread] = set()

        def on_progress(progress: Progress) -> None:
            told.append(progress)
            threads.add(threading.current_thread())

        await client.create_dataset(dataset, preset="none")
        await client.insert(dataset, np.zeros(5 * MIB, np.uint8), id="t", on_progress=on_progress)
        assert told[-1].done_bytes == 5 * MIB
        told.clear()
        await client.get(dataset, "t", on_progress=on_progress)
        return told, threads

    told, threads = run(action, server.address)
    assert told[-1] == Progress("t", 5 * MIB, 5 * MIB)
    assert threads == {threading.main_thread()}


# ---- Many at once -------------------------------------------------------------------------------------------------------


def test_thirty_two_gets_at_once_and_as_many_inserts(server: Server, dataset: str) -> None:
    values = [random_bits("float32", (100, 1000), seed=number) for number in range(32)]

    async def action(client: AsyncClient) -> list[Any]:
        await client.create_dataset(dataset)
        await asyncio.gather(*(client.insert(dataset, value, id=str(n)) for n, value in enumerate(values)))
        return await asyncio.gather(*(client.get(dataset, str(n), as_="numpy") for n in range(32)))

    for found, expected in zip(run(action, server.address), values, strict=True):
        assert found.tobytes() == expected.tobytes()


def test_the_event_loop_goes_on_during_a_large_insert_and_a_large_get(server: Server, dataset: str) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def action(client: AsyncClient) -> tuple[int, int]:
        await client.create_dataset(dataset, preset="balanced")
        await client.datasets()
        ticking = asyncio.create_task(tick())
        await client.insert(dataset, np.zeros(8 * MIB, np.float32), id="t")
        inserted = ticks
        await client.get(dataset, "t")
        ticking.cancel()
        return inserted, ticks - inserted

    # 32 MiB are 32 messages each way: far more turns of the loop than messages.
    inserting, getting = run(action, server.address)
    assert inserting > 64
    assert getting > 64


# ---- Cancelled ----------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is about to be true; the test's timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - what is waited for happens on threads of others
        await asyncio.sleep(0.01)


def test_a_cancelled_insert_ends_its_call_and_keeps_nothing(fresh_server: Server) -> None:
    sent = threading.Event()

    async def endless() -> AsyncIterator[Any]:
        yield "small", MATRIX
        sent.set()
        await asyncio.Event().wait()

    async def action(client: AsyncClient) -> list[str]:
        await client.create_dataset("d")
        inserting = asyncio.create_task(client.insert_many("d", endless()))
        await until(sent.is_set)
        inserting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inserting
        await until(lambda: not any(t.name.startswith("tensorus-insert") for t in threading.enumerate()))
        return [info.id async for info in client.list("d")]

    assert run(action, fresh_server.address) in ([], ["small"])


def test_a_cancelled_insert_of_a_large_tensor_is_dropped_at_the_server(fresh_server: Server, tmp_path: Path) -> None:
    async def action(client: AsyncClient) -> None:
        await client.create_dataset("d", preset="none")
        marked = asyncio.Event()

        def on_progress(progress: Progress) -> None:
            if progress.done_bytes > 40 * MIB:
                marked.set()

        values = np.zeros(256 * MIB, np.uint8)
        inserting = asyncio.create_task(client.insert("d", values, id="large", on_progress=on_progress))
        await marked.wait()
        inserting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await inserting
        uploads = tmp_path / "store" / "uploads"
        await until(lambda: not any(path.is_file() for path in uploads.rglob("*")))
        with pytest.raises(errors.TensorNotFoundError):
            await client.info("d", "large")

    run(action, fresh_server.address)


def test_a_cancelled_get_ends_and_the_client_goes_on(server: Server, dataset: str) -> None:
    async def action(client: AsyncClient) -> Any:
        await client.create_dataset(dataset, preset="none")
        await client.insert(dataset, np.zeros(64 * MIB, np.uint8), id="t")
        began = asyncio.Event()
        getting = asyncio.create_task(client.get(dataset, "t", on_progress=lambda _: began.set()))
        await began.wait()
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting
        return await client.get(dataset, "t", index=slice(0, 3), as_="numpy")

    assert run(action, server.address).tolist() == [0, 0, 0]


def test_streams_that_are_left_early_or_cancelled_are_free_for_others(tmp_path: Path) -> None:
    async def action(client: AsyncClient) -> list[str]:
        await client.create_dataset("d", preset="none")
        await client.insert_many("d", [(str(number), np.zeros(8 * MIB, np.uint8)) for number in range(3)])
        for _ in range(6):
            async with aclosing(client.query("d")) as found:
                async for _record in found:
                    break
            getting = asyncio.create_task(client.get("d", "0"))
            await asyncio.sleep(0)
            getting.cancel()
            await asyncio.gather(getting, return_exceptions=True)
        return [record.info.id async for record in client.query("d")]

    # Two streams at once: one that stayed open would keep the next one out.
    with running_server(tmp_path / "store", streams_max=2) as server:
        assert run(action, server.address, retry_timeout_s=10) == ["0", "1", "2"]


# ---- Interrupted, closed ------------------------------------------------------------------------------------------------


async def inserted(client: AsyncClient, values: Any, interrupt: Callable[[], None]) -> list[bytes]:
    await client.insert("d", values, id="more", on_progress=at_10_mib(interrupt))
    return [(await client.get("d", "more", as_="numpy")).tobytes()]


async def got(client: AsyncClient, values: Any, interrupt: Callable[[], None]) -> list[bytes]:
    return [(await client.get("d", "t", as_="numpy", on_progress=at_10_mib(interrupt))).tobytes()]


async def queried(client: AsyncClient, values: Any, interrupt: Callable[[], None]) -> list[bytes]:
    tensors = [(f"u{number}", values[number : 8 * MIB]) for number in range(3)]
    # Together: large ones are otherwise committed in the order in which the disk was ready.
    await client.insert_many("d", tensors, all_or_nothing=True)
    found: list[bytes] = []
    async for record in client.query("d", as_="numpy"):
        found.append(record.tensor.tobytes())
        if record.info.id == "u0":
            interrupt()
    assert found.pop(2) == values[1 : 8 * MIB].tobytes()
    return found[:1]


def at_10_mib(interrupt: Callable[[], None]) -> Callable[[Progress], None]:
    return lambda progress: interrupt() if progress.done_bytes > 10 * MIB else None


@pytest.mark.parametrize("transfer", [inserted, got, queried])
@pytest.mark.usefixtures("small_limits")
def test_a_transfer_goes_on_after_a_restart_of_the_server(tmp_path: Path, transfer: Callable[..., Any]) -> None:
    values = random_bits("uint8", (24 * MIB,))

    async def action(client: AsyncClient, stop: Callable[[], None], restart: Callable[[], None]) -> list[bytes]:
        restarting: list[asyncio.Future[None]] = []

        def interrupt() -> None:
            if not restarting:
                stop()
                restarting.append(asyncio.get_running_loop().run_in_executor(None, restart))

        await client.create_dataset("d", preset="none")
        await client.insert("d", values, id="t")
        found: list[bytes] = await transfer(client, values, interrupt)
        await restarting[0]
        return found

    with ExitStack() as servers:
        address, stop = servers.enter_context(stoppable_server(tmp_path / "store"))
        port = int(address.rpartition(":")[2])

        def restart() -> None:
            for _ in range(200):
                # The port and the store are free when the first server has stopped.
                with suppress(OSError, RuntimeError, EngineError):
                    servers.enter_context(stoppable_server(tmp_path / "store", port=port))
                    return
                threading.Event().wait(0.05)

        found = run(lambda client: action(client, stop, restart), address)
    assert found == [values.tobytes()]


def test_closing_ends_what_is_under_way_and_every_call_after_it(server: Server, dataset: str) -> None:
    async def action(client: AsyncClient) -> None:
        await client.create_dataset(dataset, preset="none")
        await client.insert(dataset, np.zeros(64 * MIB, np.uint8), id="t")
        began = asyncio.Event()
        getting = asyncio.create_task(client.get(dataset, "t", on_progress=lambda _: began.set()))
        await began.wait()
        await client.close()
        with pytest.raises(errors.UnavailableError):
            await getting
        await client.close()
        for call in (client.datasets, lambda: client.get(dataset, "t"), lambda: collected(client.query(dataset))):
            with pytest.raises(errors.UnavailableError, match="the client is closed"):
                await call()

    run(action, server.address)


def test_a_client_is_of_one_event_loop(server: Server) -> None:
    client = tensorus.aio.connect(server.address)
    asyncio.run(client.datasets())
    with pytest.raises(errors.UnavailableError, match="of another event loop"):
        asyncio.run(client.datasets())
    asyncio.run(client.close())
    gc.collect()


def test_a_server_that_never_answers_is_reported_at_once() -> None:
    async def action(client: AsyncClient) -> None:
        with pytest.raises(errors.UnavailableError):
            await client.get("d", "t")

    run(action, "127.0.0.1:1")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(errors.UnavailableError, match="address is ''"):
        tensorus.aio.connect("")
