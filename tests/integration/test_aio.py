"""The asynchronous client: it takes asynchronous iterables, is cancelled, and leaves the event loop free."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus.aio
from support.aio import AsyncClient, collected, run
from support.arrays import random_bits
from support.client import MATRIX, stoppable_server
from support.servers import running_server
from tensorus import errors
from tensorus.types import Progress
from tensorus_server.errors import EngineError
from tensorus_server.processes.server import Server

MIB = 1024 * 1024

# ---- Asynchronous iterables and progress --------------------------------------------------------------------------------


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
