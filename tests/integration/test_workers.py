"""One server of two processes: what one of them did, the other one knows at once, and of two that want the same one has it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import MIB, WAIT_S
from support.servers import ServerProcess, engine_config
from support.wire import announced, bytes_of, call_error, insert_message, read_all
from support.workers import HandInsert, channels, clients, of_each_worker
from tensorus import errors
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub
from tensorus_server.config import ServerConfig
from tensorus_server.errors import StoreUnavailableError
from tensorus_server.processes.server import Server
from tensorus_server.processes.supervisor import supervise
from tensorus_server.rpc.service import SERVICE_NAME

pytestmark = pytest.mark.timeout(120)

_numbers = itertools.count()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workers") / "store"


@pytest.fixture(scope="module")
def server(store: Path) -> Iterator[ServerProcess]:
    running = ServerProcess(store, workers=2)
    yield running
    assert running.terminate() == 0


@pytest.fixture(scope="module")
def both(server: ServerProcess) -> Iterator[tuple[tensorus.Client, tensorus.Client]]:
    """A client of each worker."""
    with of_each_worker(server, clients(server)) as found:
        one, other = found.values()
        yield one, other


@pytest.fixture(scope="module")
def raw(server: ServerProcess) -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    """A connection to each worker."""
    with of_each_worker(server, channels(server)) as found:
        one, other = found.values()
        yield one, other


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"name-{next(_numbers)}"


def test_every_worker_serves_and_describes_itself(raw: tuple[grpc.Channel, grpc.Channel]) -> None:
    for channel in raw:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE_NAME):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection.ServerReflectionInfo(iter([request]), timeout=WAIT_S)
        assert SERVICE_NAME in [found.name for found in answer.list_services_response.service]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_server_on_the_port_is_refused(server: ServerProcess, tmp_path: Path, workers: int) -> None:
    config = ServerConfig(engine_config(tmp_path), listen=server.address, workers=workers)
    with pytest.raises(StoreUnavailableError, match=rf"^cannot listen on {server.address}: is another server there\?$"):
        Server(config) if workers == 1 else supervise(config, [], lambda _: None)


class TestVisible:
    """What was acknowledged by one worker is there for the other one, at once."""

    def test_from_datasets_to_values_many_times_over(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        with ThreadPoolExecutor(4) as pool:
            lives = [pool.submit(_live, f"{name}-{number}", *_shuffled(both, number), number) for number in range(4)]
            for life in lives:
                life.result(WAIT_S)

    def test_tensors_of_many_writers_are_numbered_without_gaps(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")

        def write(writer: int) -> list[tensorus.TensorInfo]:
            tensors = [tensorus.NewTensor(np.float32(number), f"{writer}-{number}") for number in range(20)]
            return [both[writer % 2].insert(name, tensor.tensor, id=tensor.id) for tensor in tensors]

        with ThreadPoolExecutor(4) as pool:
            infos = [info for written in pool.map(write, range(4)) for info in written]
        for client in both:
            assert sorted(client.list(name), key=lambda info: info.id) == sorted(infos, key=lambda info: info.id)
        assert sorted(info.ordinal for info in infos) == list(range(1, 81))
        assert len({info.generation for info in infos}) == 80

    def test_a_listing_goes_on_at_the_other_worker(
        self, raw: tuple[grpc.Channel, grpc.Channel], both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")
        ids = [f"t{number:02}" for number in range(25)]
        both[0].insert_many(name, [tensorus.NewTensor(np.int8(1), tensor_id) for tensor_id in ids])
        stubs = itertools.cycle(map(TensorServiceStub, raw))
        request, listed = pb.ListTensorsRequest(dataset=name, page_size=10), []
        while True:
            page = next(stubs).ListTensors(request, timeout=WAIT_S)
            listed += [tensor.id for tensor in page.tensors]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        assert listed == ids


def _shuffled(both: Sequence[tensorus.Client], number: int) -> tuple[tensorus.Client, tensorus.Client]:
    one, other = both
    return (one, other) if number % 2 else (other, one)


def _live(name: str, here: tensorus.Client, there: tensorus.Client, seed: int) -> None:
    """Do everything to one dataset and its tensors, each step at the one worker, and look at the other one."""
    for turn in range(4):
        here, there = there, here
        here.create_dataset(name, preset="none")
        assert there.dataset(name).policy.preset == "none"
        small, large = random_bits("float32", (1000,), seed=seed), random_bits("float32", (40_000,), seed=seed + turn)
        there.insert(name, small, id="small", metadata={"turn": turn})
        first = here.insert(name, large, id="large")
        for client, (tensor_id, tensor) in itertools.product((here, there), [("small", small), ("large", large)]):
            assert_same_bits(client.get(name, tensor_id, as_="numpy"), tensor)
        here.update_metadata(name, "small", {"turn": -turn})
        assert there.info(name, "small").metadata == {"turn": -turn}
        assert [record.info.id for record in there.query(name, f"turn = {-turn}")] == ["small"]
        second = there.insert(name, large[:100], id="large", if_generation_match=first.generation)
        assert here.info(name, "large") == second
        assert_same_bits(here.get(name, "large", as_="numpy"), large[:100])
        here.update_dataset(name, preset="fp16_only", schema=tensorus.Schema(dtype="float32"))
        assert there.insert(name, large, id="half").ratio > 1.9
        with pytest.raises(errors.TensorusError, match="schema"):
            there.insert(name, np.arange(3), id="other dtype")
        there.delete(name, "small")
        assert [info.id for info in here.list(name)] == ["large", "half"]
        with pytest.raises(errors.NotFoundError):
            here.get(name, "small")
        there.delete_dataset(name)
        with pytest.raises(errors.NotFoundError):
            here.insert(name, small, id="too late")


class TestRaces:
    """Two workers want the same thing at the same moment."""

    @pytest.fixture
    def together(self) -> Iterator[Callable[[Sequence[Callable[[], Any]]], list[Any]]]:
        """Run two actions at once; returns what each returned or raised."""
        barrier = threading.Barrier(2)

        def run(action: Callable[[], Any]) -> Any:
            barrier.wait(WAIT_S)
            try:
                return action()
            except errors.TensorusError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            yield lambda actions: list(pool.map(run, actions))

    def test_of_two_replacements_exactly_one_wins(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str, together: Callable[..., list[Any]]
    ) -> None:
        both[0].create_dataset(name, preset="none")
        info = both[0].insert(name, np.array([-1]), id="t")
        for turn in range(20):
            values = [np.array([turn, number]) for number in range(2)]
            wanted = {"id": "t", "if_generation_match": info.generation}
            outcomes = together(
                [partial(client.insert, name, value, **wanted) for client, value in zip(both, values, strict=True)]
            )
            (winner,) = [number for number, found in enumerate(outcomes) if isinstance(found, tensorus.TensorInfo)]
            assert outcomes[1 - winner].reason == "GENERATION_MISMATCH"
            info = outcomes[winner]
            for client in both:
                assert client.get(name, "t", as_="numpy").tolist() == values[winner].tolist()

    def test_of_two_inserts_under_one_id_one_wins_or_they_are_the_same(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str, together: Callable[..., list[Any]]
    ) -> None:
        both[0].create_dataset(name, preset="none")
        for turn in range(10):
            one, two = together([partial(client.insert, name, np.arange(9), id=f"same-{turn}") for client in both])
            assert one == two
            outcomes = together(
                [partial(client.insert, name, np.array(value), id=f"other-{turn}") for value, client in enumerate(both)]
            )
            assert sorted(getattr(found, "reason", "") for found in outcomes) == ["", "ALREADY_EXISTS"]

    def test_of_two_datasets_under_one_name_one_is_made(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str, together: Callable[..., list[Any]]
    ) -> None:
        for turn in range(10):
            outcomes = together([partial(client.create_dataset, f"{name}-{turn}") for client in both])
            assert sorted(getattr(found, "reason", "") for found in outcomes) == ["", "ALREADY_EXISTS"]


class TestEdits:
    """Both workers change one tensor."""

    # No client has to come back twice: the workers wait for each other.
    @pytest.mark.filterwarnings("error:the call fails without progress")
    def test_appends_of_both_workers_are_ordered_and_none_is_lost(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")
        both[0].insert(name, np.zeros((0, 50), np.int32), id="t")

        def append(writer: int) -> None:
            for step in range(15):
                both[writer % 2].append(name, "t", np.full((3, 50), 100 * writer + step, np.int32))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(append, range(6)))
        found = both[1].get(name, "t", as_="numpy").reshape(-1, 150)
        assert (found == found[:, :1]).all()
        assert sorted(found[:, 0].tolist()) == [100 * writer + step for writer in range(6) for step in range(15)]
        for writer in range(6):
            mine = [value for value in found[:, 0].tolist() if value // 100 == writer]
            assert mine == sorted(mine)

    def test_equal_values_of_both_workers_are_appended_each_time(
        self, both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")
        both[0].insert(name, np.zeros(1, np.int8), id="t")
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda client: [client.append(name, "t", np.zeros(1, np.int8)) for _ in range(20)], both))
        assert both[0].info(name, "t").shape == (41,)

    def test_large_appends_of_both_workers_are_repeated_until_they_are_done(
        self, server: ServerProcess, both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")
        # Not whole chunks: each append changes the chunk that the one before it ends with.
        both[0].insert(name, np.zeros(100, np.int32), id="t")
        count = 400_000

        def append(writer: int) -> None:
            with tensorus.connect(server.address, retry_timeout_s=WAIT_S) as client:
                for step in range(3):
                    client.append(name, "t", np.full(count, 10 * writer + step, np.int32))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(append, range(4)))
        found = both[1].get(name, "t", as_="numpy")[100:].reshape(-1, count)
        assert (found == found[:, :1]).all()
        assert sorted(found[:, 0].tolist()) == [10 * writer + step for writer in range(4) for step in range(3)]

    def test_an_edit_by_one_worker_is_repeated_at_the_other_and_done_once(
        self, raw: tuple[grpc.Channel, grpc.Channel], both: tuple[tensorus.Client, tensorus.Client], name: str
    ) -> None:
        both[0].create_dataset(name, preset="none")
        both[0].insert(name, np.zeros(4, np.uint8), id="t")
        edit = pb.Edit(append=pb.AppendEdit(axis=0))
        first = HandInsert(raw[0], name, name)
        assert list(first.opened().items) == []
        first.send(insert_message(b"1234", item=0, tensor=announced("t", edit=edit)))
        (done,) = first.finish()
        (left,) = HandInsert(raw[1], name, name).opened().items
        assert left.tensor == done.tensor
        assert left.outcome == done.outcome == pb.INSERT_OUTCOME_CHANGED
        assert both[1].info(name, "t").shape == (8,)


SIZE = 40 * MIB
PIECE = MIB


@pytest.fixture(scope="module")
def data() -> bytes:
    """A tensor above the size from which on the server keeps what it has."""
    return bytes_of(SIZE)


@pytest.fixture
def half(raw: tuple[grpc.Channel, grpc.Channel], name: str, data: bytes) -> Iterator[HandInsert]:
    """An insert at the first worker, of whose one item 16 MiB are durable, and that is open still."""
    TensorServiceStub(raw[0]).CreateDataset(
        pb.CreateDatasetRequest(name=name, policy=pb.StoragePolicy(preset="none")), timeout=WAIT_S
    )
    stream = HandInsert(raw[0], name, name)
    assert list(stream.opened().items) == []
    for offset in range(0, 20 * MIB, PIECE):
        new = {"tensor": announced("t", (SIZE,))} if offset == 0 else {}
        stream.send(insert_message(data[offset : offset + PIECE], item=3, offset=offset, last=False, **new))
    stream.wait_committed(16 * MIB)
    yield stream
    TensorServiceStub(raw[0]).CancelInsert(pb.CancelInsertRequest(request_id=name), timeout=WAIT_S)


class TestResumed:
    """An insert that goes on at the other worker."""

    def test_a_newer_stream_takes_over_from_the_other_worker(
        self, raw: tuple[grpc.Channel, grpc.Channel], half: HandInsert, name: str, data: bytes
    ) -> None:
        newer = HandInsert(raw[1], name, name)
        (left,) = newer.opened().items
        assert (left.item, left.tensor.id) == (3, "t")
        assert left.committed_bytes >= 16 * MIB
        with pytest.raises(grpc.RpcError) as caught:
            list(half.call)
        error = call_error(caught.value)
        assert (error.code, error.reason) == ("ABORTED", "SESSION_TAKEN_OVER")
        for offset in range(left.committed_bytes, SIZE, PIECE):
            new = {"tensor": announced("t", (SIZE,))} if offset == left.committed_bytes else {}
            piece = data[offset : offset + PIECE]
            newer.send(insert_message(piece, item=3, offset=offset, last=offset + PIECE >= SIZE, **new))
        (result,) = newer.finish()
        assert (result.item, result.status.code, result.committed_bytes) == (3, 0, SIZE)
        for channel in raw:
            assert read_all(TensorServiceStub(channel), name, "t") == data

    def test_streams_that_go_to_and_fro_leave_the_newest(
        self, raw: tuple[grpc.Channel, grpc.Channel], name: str
    ) -> None:
        TensorServiceStub(raw[0]).CreateDataset(pb.CreateDatasetRequest(name=name), timeout=WAIT_S)
        streams = []
        for turn in range(10):
            streams.append(HandInsert(raw[turn % 2], name, name))
            streams[-1].opened()
        *older, newest = streams
        for stream in older:
            with pytest.raises(grpc.RpcError) as caught:
                list(stream.call)
            assert call_error(caught.value).reason == "SESSION_TAKEN_OVER"
        newest.send(insert_message(b"1234", item=0, tensor=announced("t")))
        (result,) = newest.finish()
        assert result.status.code == 0

    def test_its_status_is_told_by_both(
        self, raw: tuple[grpc.Channel, grpc.Channel], half: HandInsert, name: str
    ) -> None:
        for channel in raw:
            found = TensorServiceStub(channel).GetInsertStatus(
                pb.GetInsertStatusRequest(request_id=name), timeout=WAIT_S
            )
            (item,) = found.items
            assert (item.item, item.tensor.id, found.finished) == (3, "t", False)
            assert item.committed_bytes >= 16 * MIB

    def test_it_is_cancelled_by_the_other_worker(
        self, raw: tuple[grpc.Channel, grpc.Channel], half: HandInsert, name: str, store: Path
    ) -> None:
        stub = TensorServiceStub(raw[1])
        stub.CancelInsert(pb.CancelInsertRequest(request_id=name), timeout=WAIT_S)
        with pytest.raises(grpc.RpcError) as caught:
            list(half.call)
        assert call_error(caught.value).code == "ABORTED"
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetInsertStatus(pb.GetInsertStatusRequest(request_id=name), timeout=WAIT_S)
        assert call_error(caught.value).reason == "SESSION_EXPIRED"
        assert list((store / "uploads").iterdir()) == []
