"""Clients that stall: their streams end, give back what they held, and are resumed; healthy clients beside them go on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import random_bits
from support.interrupted import WAIT_S, wait_until
from support.servers import running_server
from support.wire import announced, call_error, insert_message
from support.workers import HandInsert
from tensorus_codecs.checksum import crc32c
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.limits import INSERT_STREAM_BYTES
from tensorus_server.processes.server import Server
from tensorus_server.rpc import admission as admission_module

pytestmark = pytest.mark.timeout(120)

STALL_S = 0.5
LARGE = random_bits("uint8", (32 << 20,))
"""More than the windows of a stream hold."""


@contextmanager
def server_with_large(folder: Path, **settings: Any) -> Iterator[Server]:
    """A server with one large tensor in the dataset d."""
    with running_server(folder, **settings) as server:
        with tensorus.connect(server.address) as client:
            client.create_dataset("d", preset="none")
            client.insert("d", LARGE, id="large")
        yield server


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose streams may stall for half a second, for tests that only add to it."""
    with server_with_large(tmp_path_factory.mktemp("impatient") / "store", stall_timeout_s=STALL_S) as server:
        yield server


@pytest.fixture
def channel(impatient: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(impatient.address) as channel:
        yield channel


def wait_for_nobody(server: Server) -> None:
    """Wait until no stream holds anything."""
    admission = server._admission
    wait_until(lambda: not (admission._places or admission._calls or admission._borrowed_bytes))
    wait_until(lambda: not server.sessions._holders)
    wait_until(lambda: all("tensorus-insert" not in thread.name for thread in threading.enumerate()))


def begin_large_get(stub: TensorServiceStub) -> Any:
    """Begin to read what is larger than all windows, and stop after the first answer."""
    call = stub.Get(pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="large")]), timeout=WAIT_S)
    next(call)
    return call


def test_an_insert_that_falls_silent_is_told_so_and_leaves_nothing(impatient: Server, channel: grpc.Channel) -> None:
    insert = HandInsert(channel, "d", "silent")
    insert.opened()
    insert.send(insert_message(b"abcd", last=False, tensor=announced("half", [8])))
    with pytest.raises(grpc.RpcError) as caught:
        list(insert.call)
    error = call_error(caught.value)
    assert (error.code, error.reason) == ("ABORTED", "STREAM_STALLED")
    assert "limit is 0.5 s (stall_timeout_s)" in error.message
    wait_for_nobody(impatient)


def test_an_insert_that_never_says_anything_ends(impatient: Server, channel: grpc.Channel) -> None:
    may_end = threading.Event()

    def nothing() -> Iterator[pb.InsertRequest]:
        may_end.wait(WAIT_S)
        yield from ()

    with pytest.raises(grpc.RpcError) as caught:
        list(TensorServiceStub(channel).Insert(nothing(), timeout=WAIT_S))
    may_end.set()
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    wait_for_nobody(impatient)


def test_an_explanation_whose_sample_does_not_come_ends(impatient: Server, channel: grpc.Channel) -> None:
    may_end = threading.Event()

    def half() -> Iterator[pb.ExplainPolicyRequest]:
        spec = pb.TensorSpec(dtype=pb.DATA_TYPE_UINT8, shape=[8])
        yield pb.ExplainPolicyRequest(open=pb.OpenExplain(spec=spec), payload=b"abcd")
        may_end.wait(WAIT_S)

    with pytest.raises(grpc.RpcError) as caught:
        TensorServiceStub(channel).ExplainPolicy(half(), timeout=WAIT_S)
    may_end.set()
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    wait_for_nobody(impatient)


@pytest.mark.parametrize("name", ["Get", "Query"])
def test_a_read_whose_client_takes_nothing_ends(impatient: Server, channel: grpc.Channel, name: str) -> None:
    stub = TensorServiceStub(channel)
    if name == "Get":
        call = begin_large_get(stub)
    else:
        call = stub.Query(pb.QueryRequest(dataset="d"), timeout=WAIT_S)
        next(call)
    wait_for_nobody(impatient)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.CANCELLED


def test_an_insert_that_stalled_goes_on_where_it_was(
    impatient: Server, channel: grpc.Channel, small_limits: None
) -> None:
    data = LARGE[: 1 << 20].tobytes()
    with tensorus.connect(impatient.address) as client:
        client.create_dataset("marked", policy=tensorus.Policy(preset="none", chunk_bytes=64 * 1024))
        first = HandInsert(channel, "marked", "resumed")
        first.opened()
        tensor = announced("resumed", [len(data)])
        first.send(insert_message(data[: 1 << 19], last=False, tensor=tensor))
        committed = first.wait_committed(1)
        with pytest.raises(grpc.RpcError):
            list(first.call)
        second = HandInsert(channel, "marked", "resumed")
        (left,) = second.opened().items
        assert left.committed_bytes >= committed
        rest = data[left.committed_bytes :]
        checksum = pb.Checksum(algorithm="crc32c", value=crc32c(data).to_bytes(4, "big"))
        second.send(insert_message(rest, offset=left.committed_bytes, tensor=tensor, source_checksum=checksum))
        (result,) = second.finish()
        assert result.status.code == 0
        assert client.get("marked", "resumed", as_="numpy").tobytes() == data


def test_a_slow_client_that_moves_is_not_cut_off(impatient: Server, channel: grpc.Channel) -> None:
    pieces, piece = 8, b"x" * 2048
    insert = HandInsert(channel, "d", "slow")
    insert.opened()
    for number in range(pieces):
        # Twice as long as it may be silent, and never silent for a third of that.
        time.sleep(2 * STALL_S / pieces)
        tensor = announced("slow", [pieces * len(piece)]) if number == 0 else None
        offset, last = number * len(piece), number == pieces - 1
        insert.send(insert_message(piece, offset=offset, last=last, tensor=tensor))
    (result,) = insert.finish()
    assert result.status.code == 0


def test_an_insert_that_waits_for_its_commit_is_not_silent(
    impatient: Server, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = impatient._engine._catalogue.tensors
    commit, may_commit = tensors.commit, threading.Event()

    def slowly(*arguments: Any, **settings: Any) -> Any:
        may_commit.wait(WAIT_S)
        return commit(*arguments, **settings)

    monkeypatch.setattr(tensors, "commit", slowly)
    insert = HandInsert(channel, "d", "waits")
    insert.opened()
    insert.send(insert_message(b"abcd", tensor=announced("waits")))
    time.sleep(2 * STALL_S)
    may_commit.set()
    (result,) = insert.finish()
    assert result.status.code == 0


def test_a_stopped_client_frees_its_place(impatient: Server) -> None:
    source = """
import sys, grpc
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
channel = grpc.insecure_channel(sys.argv[1])
read = pb.GetRequest(dataset="d", reads=[pb.TensorRead(id="large")])
call = TensorServiceStub(channel).Get(read)
next(call)
print("reads", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", source, impatient.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as stopped:
        try:
            assert stopped.stdout is not None
            assert stopped.stdout.readline() == "reads\n"
            # Its kernel still answers for it: only silence tells.
            os.kill(stopped.pid, signal.SIGSTOP)
            wait_for_nobody(impatient)
        finally:
            stopped.kill()


def slowly() -> Iterator[tensorus.NewTensor]:
    """Yield tensors, and before each nothing for so long that the stream ends."""
    for number in range(2):
        time.sleep(2 * STALL_S)
        yield tensorus.NewTensor(np.full(10, number), f"t{number}")


def test_a_client_whose_source_takes_its_time_is_not_interrupted_for_good(impatient: Server, dataset: str) -> None:
    # Without patience: that there is nothing to send is nobody's fault.
    with tensorus.connect(impatient.address, retry_timeout_s=0.01) as client:
        client.create_dataset(dataset)
        assert [info.id for info in client.insert_many(dataset, slowly())] == ["t0", "t1"]
        assert client.get(dataset, "t1", as_="numpy").tolist() == [1] * 10


def test_a_source_that_takes_its_time_does_not_interrupt_the_asyncio_client_either(
    impatient: Server, dataset: str
) -> None:
    async def insert() -> list[str]:
        async with tensorus.aio.connect(impatient.address, retry_timeout_s=0.01) as client:
            await client.create_dataset(dataset)
            return [info.id for info in await client.insert_many(dataset, slowly())]

    assert asyncio.run(insert()) == ["t0", "t1"]


def test_a_client_that_takes_its_time_between_records_reads_them_all(impatient: Server, dataset: str) -> None:
    with tensorus.connect(impatient.address) as client:
        client.create_dataset(dataset, preset="none")
        # The windows hold less than what is left after each of the first two.
        client.insert(dataset, LARGE[: 16 << 20], id="first")
        client.insert(dataset, LARGE[: 16 << 20], id="second")
        client.insert(dataset, LARGE, id="third")
        found = []
        for record in client.query(dataset, as_="numpy"):
            found.append(record.info.id)
            if record.info.id != "third":
                time.sleep(2 * STALL_S)
    assert found == ["first", "second", "third"]


class Crowd:
    """Clients that began a transfer and then did nothing more."""

    def __init__(self, server: Server, *, inserts: int, gets: int) -> None:
        self._opened = ExitStack()
        self.refused = 0
        self._calls: list[Any] = []
        for number in range(inserts + gets):
            channel = self._opened.enter_context(
                grpc.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])
            )
            try:
                if number < inserts:
                    insert = HandInsert(channel, "d", f"stalled {number}")
                    insert.opened()
                    insert.send(insert_message(bytes(1 << 16), last=False, tensor=announced(f"s{number}", [1 << 20])))
                    self._calls.append(insert.call)
                else:
                    self._calls.append(begin_large_get(TensorServiceStub(channel)))
            except grpc.RpcError:
                self.refused += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for call in self._calls:
            call.cancel()
        self._opened.close()


@pytest.mark.parametrize(("inserts", "gets"), [(20, 0), (0, 20), (10, 10)], ids=["inserts", "gets", "both"])
def test_a_healthy_client_goes_on_beside_more_stalled_ones_than_there_are_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inserts: int, gets: int
) -> None:
    monkeypatch.setattr(admission_module, "_GIVE_WAY_S", 0.3)
    with (
        server_with_large(tmp_path / "store", streams_max=8, memory_budget_bytes=4 * INSERT_STREAM_BYTES) as server,
        Crowd(server, inserts=inserts, gets=gets),
        tensorus.connect(server.address, retry_timeout_s=10) as client,
    ):
        # It has to know the server before it is patient with it.
        client.datasets()
        for number in range(5):
            client.insert("d", LARGE[: 2 << 20], id=f"t{number}")
            assert np.array_equal(client.get("d", f"t{number}", as_="numpy"), LARGE[: 2 << 20])


def test_a_small_get_does_not_wait_behind_inserts_that_hold_all_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody gives anything back: as if all of them were at work.
    monkeypatch.setattr(admission_module, "_PAUSE_S", 600.0)
    monkeypatch.setattr(admission_module, "_GIVE_WAY_S", 600.0)
    with (
        server_with_large(tmp_path / "store", memory_budget_bytes=3 * INSERT_STREAM_BYTES, memory_wait_s=0.3) as server,
        tensorus.connect(server.address, retry_timeout_s=0) as client,
    ):
        client.insert("d", LARGE[:4096], id="small")
        with Crowd(server, inserts=3, gets=0):
            assert np.array_equal(client.get("d", "small", as_="numpy"), LARGE[:4096])
            with pytest.raises(tensorus.errors.OverloadedError, match=r"within 0.3 s \(memory_wait_s\)"):
                client.get("d", "large")
            with pytest.raises(tensorus.errors.OverloadedError, match=r"within 0.3 s \(memory_wait_s\)"):
                client.insert("d", LARGE[:4096], id="other")
        wait_for_nobody(server)
        client.get("d", "large")


def test_inserts_that_are_silent_lend_their_memory(tmp_path: Path) -> None:
    with server_with_large(tmp_path / "store", memory_budget_bytes=3 * INSERT_STREAM_BYTES) as server:
        with Crowd(server, inserts=20, gets=0) as crowd, tensorus.connect(server.address, retry_timeout_s=0) as client:
            assert crowd.refused == 0
            client.insert("d", LARGE, id="other")
        assert not any(place.dismissed for place in server._admission._places)
