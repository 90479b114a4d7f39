"""Edits through clients: of several at once, over connections that break, and while others read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import assert_same_bits, random_bits
from support.interrupted import MIB, WAIT_S, assert_settled, wait_until
from support.proxy import FaultProxy
from support.servers import engine_config
from tensorus import errors
from tensorus.embedded import EmbeddedBackend
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.catalogue.sql.tensors import SqlTensorTable
from tensorus_server.engine.insert import edit_writer
from tensorus_server.engine.insert.edit_writer import EditWriter
from tensorus_server.model import Outcome
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.timeout(120)

POLICY = tensorus.Policy("none", chunk_bytes=4096)
ROW = 64
"""Elements of a row; 16 rows of float32 are a chunk."""

THREADS = 8
TASKS = 2
APPENDS = 6
"""Of each thread and task."""


def rows(value: float, count: int = 5) -> np.ndarray[Any, Any]:
    """Return rows of equal values, by which an append is recognized."""
    return np.full((count, ROW), value, np.float32)


def assert_appended(appended: np.ndarray[Any, Any], writers: int) -> None:
    """Check that every append of every writer is there once and whole, and those of each writer in their order."""
    whole = appended.reshape(-1, 5 * ROW)
    assert (whole == whole[:, :1]).all()
    order = whole[:, 0].astype(int).tolist()
    assert sorted(order) == [100 * writer + step for writer in range(writers) for step in range(APPENDS)]
    for writer in range(writers):
        mine = [value for value in order if value // 100 == writer]
        assert mine == sorted(mine)


@pytest.fixture
def edits_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encode every edit as it arrives, so that it fails if another one changes the same chunks meanwhile."""
    monkeypatch.setattr(edit_writer, "EDIT_HELD_BYTES_MAX", 0)


class TestLostAnswers:
    """The connection breaks after the commit, and before the answer."""

    @pytest.fixture
    def cut(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
        """A proxy that ends its connections after the first commit of an edit, whose answer so is lost."""
        commit = SqlTensorTable.commit
        with FaultProxy(server.address) as proxy:

            def commit_and_cut(table: SqlTensorTable, group: Any, **options: Any) -> Any:
                outcomes = commit(table, group, **options)
                if not proxy.cuts and outcomes[0].outcome is Outcome.CHANGED:
                    proxy.cut()
                    wait_until(lambda: proxy.cuts > 0)
                return outcomes

            monkeypatch.setattr(SqlTensorTable, "commit", commit_and_cut)
            yield proxy

    @pytest.mark.parametrize("size", ["small", "large"])
    def test_values_are_appended_once(
        self, server: Server, remote: tensorus.Client, dataset: str, cut: FaultProxy, *, size: str, request: Any
    ) -> None:
        if size == "large":
            request.getfixturevalue("edits_are_large")
        remote.create_dataset(dataset, policy=POLICY)
        remote.insert(dataset, rows(0), id="t")
        with tensorus.connect(cut.address) as client:
            client.datasets()
            info = client.append(dataset, "t", rows(1))
        assert cut.cuts == 1
        assert (info.shape, info.inserted) == ((10, ROW), True)
        assert remote.info(dataset, "t") == info
        assert_same_bits(remote.get(dataset, "t", as_="numpy"), np.concatenate([rows(0), rows(1)]))
        assert_settled(server)

    def test_values_are_appended_once_with_asyncio(
        self, remote: tensorus.Client, dataset: str, cut: FaultProxy
    ) -> None:
        remote.create_dataset(dataset, policy=POLICY)
        remote.insert(dataset, rows(0), id="t")

        async def append() -> tensorus.TensorInfo:
            async with tensorus.aio.connect(cut.address) as client:
                await client.datasets()
                return await client.append(dataset, "t", rows(1))

        info = asyncio.run(append())
        assert cut.cuts == 1
        assert remote.info(dataset, "t") == info
        assert info.shape == (10, ROW)

    def test_a_write_is_done_once(self, remote: tensorus.Client, dataset: str, cut: FaultProxy) -> None:
        remote.create_dataset(dataset, policy=POLICY)
        before = remote.insert(dataset, rows(0), id="t")
        with tensorus.connect(cut.address) as client:
            client.datasets()
            info = client.write(dataset, "t", slice(1, 3), 7, if_generation_match=before.generation)
        assert cut.cuts == 1
        assert remote.info(dataset, "t") == info
        assert remote.get(dataset, "t", as_="numpy")[:, 0].tolist() == [0, 7, 7, 0, 0]


class TestManyWriters:
    """Several clients change one tensor at the same time."""

    @pytest.mark.parametrize("size", ["small", "large"])
    def test_appends_of_threads_and_tasks_are_ordered_and_none_is_lost(
        self, server: Server, remote: tensorus.Client, dataset: str, *, size: str, request: Any
    ) -> None:
        if size == "large":
            request.getfixturevalue("edits_are_large")
        remote.create_dataset(dataset, policy=POLICY)
        remote.insert(dataset, rows(-1), id="t")

        def append(writer: int) -> None:
            with tensorus.connect(server.address) as client:
                for step in range(APPENDS):
                    client.append(dataset, "t", rows(100 * writer + step))

        async def append_as_task(writer: int) -> None:
            async with tensorus.aio.connect(server.address) as client:
                for step in range(APPENDS):
                    await client.append(dataset, "t", rows(100 * writer + step))

        async def append_as_tasks() -> None:
            await asyncio.gather(*(append_as_task(THREADS + number) for number in range(TASKS)))

        with ThreadPoolExecutor(THREADS + 1) as pool:
            running = [pool.submit(append, writer) for writer in range(THREADS)]
            running.append(pool.submit(asyncio.run, append_as_tasks()))
            for writer in running:
                writer.result(WAIT_S)
        assert_appended(remote.get(dataset, "t", as_="numpy")[5:], THREADS + TASKS)
        assert_settled(server)

    def test_writes_to_parts_of_one_chunk_are_all_kept(self, client: tensorus.Client, dataset: str) -> None:
        client.create_dataset(dataset, policy=POLICY)
        client.insert(dataset, rows(-1, 16), id="t")

        def write(row: int) -> None:
            for step in range(APPENDS):
                client.write(dataset, "t", (row, slice(step, None)), step)

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(write, range(THREADS)))
        expected = np.minimum(np.arange(ROW), APPENDS - 1)
        found = client.get(dataset, "t", as_="numpy")
        assert (found[:THREADS] == expected).all()
        assert (found[THREADS:] == -1).all()


@pytest.mark.usefixtures("edits_are_large")
class TestConflicts:
    """Another edit changes the same chunks while a large one arrives."""

    @pytest.fixture
    def overtaken(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], list[int]]:
        """Let another edit be done after each of the next `times` edits has begun; returns the beginnings of all edits."""
        init = EditWriter.__init__
        begun: list[int] = []
        left = 0
        other: Callable[[], Any] = lambda: None  # noqa: E731 - replaced below

        def init_and_lose(writer: EditWriter, *arguments: Any, **named: Any) -> None:
            nonlocal left
            init(writer, *arguments, **named)
            begun.append(len(begun))
            if left:
                times, left = left, 0
                other()
                left = times - 1

        def arm(times: int, do: Callable[[], Any]) -> list[int]:
            nonlocal left, other
            left, other = times, do
            return begun

        monkeypatch.setattr(EditWriter, "__init__", init_and_lose)
        return arm

    def test_the_client_repeats_the_edit(
        self, client: tensorus.Client, dataset: str, overtaken: Callable[..., list[int]]
    ) -> None:
        client.create_dataset(dataset, policy=POLICY)
        client.insert(dataset, rows(0), id="t")
        begun = overtaken(3, lambda: client.append(dataset, "t", rows(1)))
        client.append(dataset, "t", rows(2))
        assert len(begun) == 7
        assert client.get(dataset, "t", as_="numpy")[:, 0].tolist() == [0] * 5 + [1] * 15 + [2] * 5

    def test_a_client_whose_first_call_it_is_repeats_it(
        self, server: Server, remote: tensorus.Client, dataset: str, overtaken: Callable[..., list[int]]
    ) -> None:
        remote.create_dataset(dataset, policy=POLICY)
        remote.insert(dataset, rows(0), id="t")
        overtaken(2, lambda: remote.append(dataset, "t", rows(1)))
        with tensorus.connect(server.address) as client:
            client.append(dataset, "t", rows(2))

        async def append() -> None:
            async with tensorus.aio.connect(server.address) as client:
                await client.append(dataset, "t", rows(3))

        overtaken(1, lambda: remote.append(dataset, "t", rows(1)))
        asyncio.run(append())
        found = remote.get(dataset, "t", as_="numpy")[::5, 0].tolist()
        assert found == [0, 1, 1, 2, 1, 3]

    def test_a_client_without_patience_is_told_the_reason(
        self, server: Server, remote: tensorus.Client, dataset: str, overtaken: Callable[..., list[int]]
    ) -> None:
        remote.create_dataset(dataset, policy=POLICY)
        remote.insert(dataset, rows(0), id="t")
        overtaken(1, lambda: remote.append(dataset, "t", rows(1)))
        with tensorus.connect(server.address, retry_timeout_s=0) as client:
            client.datasets()
            with pytest.raises(errors.UnavailableError, match="another edit changed the same part") as caught:
                client.append(dataset, "t", rows(2))
        assert caught.value.reason == "STORE_BUSY"
        assert remote.info(dataset, "t").shape == (10, ROW)

    def test_a_client_that_named_a_generation_is_told_that_it_has_changed(
        self, client: tensorus.Client, dataset: str, overtaken: Callable[..., list[int]]
    ) -> None:
        client.create_dataset(dataset, policy=POLICY)
        before = client.insert(dataset, rows(0), id="t")
        overtaken(1, lambda: client.append(dataset, "t", rows(1)))
        with pytest.raises(errors.GenerationMismatchError, match=f"{before.generation} was to be edited"):
            client.append(dataset, "t", rows(2), if_generation_match=before.generation)
        assert client.info(dataset, "t").shape == (10, ROW)

    def test_a_tensor_that_is_replaced_before_the_commit_is_edited_as_it_is_then(
        self, client: tensorus.Client, dataset: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # A whole tensor does not wait for edits.
        seal = EditWriter.seal
        replacing = [True]

        def seal_and_lose(writer: EditWriter, *arguments: Any) -> Any:
            sealed = seal(writer, *arguments)
            if replacing:
                replacing.clear()
                client.insert(dataset, rows(5), id="t", on_conflict="replace")
            return sealed

        monkeypatch.setattr(EditWriter, "seal", seal_and_lose)
        client.create_dataset(dataset, policy=POLICY)
        client.insert(dataset, rows(0), id="t")
        client.append(dataset, "t", rows(1))
        assert client.get(dataset, "t", as_="numpy")[::5, 0].tolist() == [5, 1]


class TestReaders:
    """Who began to read before an edit reads the old values to the end."""

    def test_a_read_from_a_server_is_not_disturbed(
        self, remote: tensorus.Client, stub: TensorServiceStub, server: Server, dataset: str
    ) -> None:
        old = random_bits("uint8", (24 * MIB,))
        remote.create_dataset(dataset, preset="none")
        remote.insert(dataset, old, id="t")
        responses = stub.Get(pb.GetRequest(dataset=dataset, reads=[pb.TensorRead(id="t")]), timeout=WAIT_S)
        # The network holds a few megabytes of it; the rest is read from the store after the edits.
        parts = [next(responses).payload]
        remote.write(dataset, "t", slice(20 * MIB, None), 1)
        remote.append(dataset, "t", old[:MIB])
        server._engine.sweep()
        parts += [response.payload for response in responses]
        assert b"".join(parts) == old.tobytes()
        found = remote.get(dataset, "t", as_="numpy")
        assert (found[20 * MIB : 24 * MIB] == 1).all()
        assert_same_bits(np.concatenate([found[: 20 * MIB], found[24 * MIB :]]), np.append(old[: 20 * MIB], old[:MIB]))

    def test_a_query_that_has_begun_is_not_disturbed(self, client: tensorus.Client, dataset: str) -> None:
        client.create_dataset(dataset, policy=POLICY)
        old = {name: random_bits("uint8", (300_000,), seed=number) for number, name in enumerate("abc")}
        for name, array in old.items():
            client.insert(dataset, array, id=name)
        for record in client.query(dataset, order_by="id", as_="numpy"):
            assert_same_bits(record.tensor, old[record.info.id])
            client.write(dataset, record.info.id, slice(None, None, 1000), 9)
        assert (client.get(dataset, "c", index=slice(None, None, 1000), as_="numpy") == 9).all()


def test_two_processes_of_one_store_wait_for_each_other(tmp_path: Any) -> None:
    # Two engines stand for two processes: they share nothing but the folder.
    folder = tmp_path / "store"
    clients = [tensorus.Client(EmbeddedBackend(folder, engine_config)) for _ in range(2)]
    try:
        clients[0].create_dataset("d", policy=POLICY)
        clients[0].insert("d", rows(-1), id="t")

        def append(writer: int) -> None:
            for step in range(APPENDS):
                clients[writer % 2].append("d", "t", rows(100 * writer + step))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(append, range(4)))
        assert_appended(clients[1].get("d", "t", as_="numpy")[5:], 4)
    finally:
        for client in clients:
            client.close()
