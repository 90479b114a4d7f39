"""Another program keeps the catalogue locked for a while: clients repeat what failed, and give up when their time is over."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import random_bits
from support.marks import mark_tensors
from support.servers import running_server
from tensorus import errors
from tensorus_server.catalogue.sqlite import database, sqlite_errors, writer_lock
from tensorus_server.chunk_store.abc import ChunkReader
from tensorus_server.chunk_store.local import LocalChunkStore
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.server import Server

SMALL = random_bits("uint8", (100,), seed=1)
MARKED = random_bits("uint8", (300_001,), seed=2)
BUSY_MS = 100


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    mark_tensors(monkeypatch, above_bytes=100_000, every_bytes=65_536)
    monkeypatch.setattr(sqlite_errors, "RETRY_AFTER_S", 0.05)
    monkeypatch.setattr(writer_lock, "BUSY_TIMEOUT_MS", BUSY_MS)
    with running_server(tmp_path / "store") as running:
        yield running


class Locked:
    """A transaction of another program, which ends when the server has met it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin it."""
        self._connection = apsw.Connection(str(folder / "catalogue.db"))
        self._connection.execute("BEGIN IMMEDIATE")
        self.met = threading.Semaphore(0)
        fault = database.engine_error

        def noted(*arguments: Any) -> Any:
            self.met.release()
            return fault(*arguments)

        monkeypatch.setattr(database, "engine_error", noted)

    def end_after(self, faults: int) -> None:
        """Wait until so many writes have met it, and end it."""
        for _ in range(faults):
            assert self.met.acquire(timeout=30)
        self.end()

    def end(self) -> None:
        """End it. Idempotent."""
        self._connection.close()


@pytest.fixture
def locked(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Locked]]:
    begun: list[Locked] = []

    def begin() -> Locked:
        begun.append(Locked(tmp_path / "store", monkeypatch))
        return begun[-1]

    yield begin
    for lock in begun:
        lock.end()


Inserts = Callable[[str, Sequence[np.ndarray[Any, Any]]], list[tensorus.TensorInfo]]


def plain(address: str, arrays: Sequence[np.ndarray[Any, Any]], **options: Any) -> list[tensorus.TensorInfo]:
    with tensorus.connect(address) as client:
        client.datasets()
        return client.insert_many("d", [(f"{number}", array) for number, array in enumerate(arrays)], **options)


def together(address: str, arrays: Sequence[np.ndarray[Any, Any]]) -> list[tensorus.TensorInfo]:
    return plain(address, arrays, all_or_nothing=True)


def asynchronous(address: str, arrays: Sequence[np.ndarray[Any, Any]]) -> list[tensorus.TensorInfo]:
    async def insert() -> list[tensorus.TensorInfo]:
        async with tensorus.aio.connect(address) as found:
            await found.datasets()
            return await found.insert_many("d", [(f"{number}", array) for number, array in enumerate(arrays)])

    return asyncio.run(insert())


@pytest.mark.parametrize(
    "arrays", [[SMALL] * 3, [MARKED], [SMALL, MARKED, SMALL, MARKED]], ids=["small", "marked", "both"]
)
@pytest.mark.parametrize("insert", [plain, together, asynchronous], ids=["plain", "together", "asyncio"])
def test_an_insert_waits_until_the_catalogue_is_free(
    server: Server, locked: Callable[[], Locked], insert: Inserts, arrays: list[np.ndarray[Any, Any]]
) -> None:
    with tensorus.connect(server.address) as client:
        client.create_dataset("d", preset="none")
        lock = locked()
        ending = threading.Thread(target=lock.end_after, args=(2,))
        ending.start()
        stored = insert(server.address, arrays)
        ending.join()
        assert [info.id for info in stored] == [f"{number}" for number in range(len(arrays))]
        for number, array in enumerate(arrays):
            assert np.array_equal(client.get("d", f"{number}", as_="numpy"), array)


def test_a_client_without_patience_is_told_the_reason(server: Server, locked: Callable[[], Locked]) -> None:
    with tensorus.connect(server.address, retry_timeout_s=0.0) as client:
        client.create_dataset("d", preset="none")
        locked()
        with pytest.raises(errors.UnavailableError, match="another program has the catalogue locked") as caught:
            client.insert("d", SMALL, id="t")
        assert caught.value.reason == "STORE_BUSY"
        assert float(caught.value.facts["retry_after_s"]) > 0
        with pytest.raises(errors.UnavailableError) as caught:
            client.create_dataset("other")
        assert caught.value.reason == "STORE_BUSY"
        # Reads do not need the lock.
        assert [found.name for found in client.datasets()] == ["d"]


@pytest.mark.parametrize("passes", [True, False], ids=["passes", "stays"])
def test_a_read_waits_for_a_part_of_the_store_that_is_away(
    server: Server, monkeypatch: pytest.MonkeyPatch, *, passes: bool
) -> None:
    values = {name: random_bits("uint8", (90_000,), seed=number) for number, name in enumerate("abc")}
    opened: list[str] = []
    open_payload = LocalChunkStore.open

    def open_or_fail(store: LocalChunkStore, key: str) -> ChunkReader:
        opened.append(key)
        if len(opened) in {2, 3}:
            raise StoreUnavailableError("the object store is away", **({"retry_after_s": 0.01} if passes else {}))
        return open_payload(store, key)

    with tensorus.connect(server.address) as client:
        client.create_dataset("d")
        for name, array in values.items():
            client.insert("d", array, id=name, preset="none")
        monkeypatch.setattr(LocalChunkStore, "open", open_or_fail)
        records = client.get_many("d", list(values), as_="numpy")
        assert (next(records).tensor == values["a"]).all()
        if passes:
            assert [(record.tensor == values[record.info.id]).all() for record in records] == [True, True]
        else:
            # It may be damage, which concerns this tensor alone.
            with pytest.raises(errors.UnavailableError, match="the payload cannot be opened: the object store is away"):
                next(records)
