"""Two servers of one store, one of which is killed, stops or is not there: the client goes on at the other."""

from __future__ import annotations

import asyncio
import pickle
import re
import socket
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
import tensorus.aio
from support.arrays import assert_same_bits, random_bits
from support.client import run_command, scripted_server, status_details
from support.interrupted import MIB, wait_until
from support.servers import ServerProcess, black_hole, running_server
from tensorus import errors
from tensorus._grpc import insert_stream
from tensorus._grpc import servers as servers_module
from tensorus._grpc.servers import Server, Servers, _in_order
from tensorus.errors import UnavailableError

pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::tensorus.errors.ConnectionLostWarning")]

LARGE = random_bits("float32", (12 * MIB // 4,), 3)
SMALL = 1100
"""More than two pages of a listing."""


class Pair:
    """Two server processes on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers = [ServerProcess(folder) for _ in range(2)]

    @property
    def address(self) -> str:
        """Return both addresses."""
        return ",".join(server.address for server in self.servers)

    def first(self, key: str) -> ServerProcess:
        """Return the server that takes the calls with this key."""
        target = _in_order(key, [Server(server.address) for server in self.servers])[0].target
        return next(server for server in self.servers if server.address == target)

    def key_of(self, server: ServerProcess, form: str = "{}") -> str:
        """Return a name that, in this form, is the key of calls to a server."""
        return next(name for name in map(str, range(1000)) if self.first(form.format(name)) is server)

    def replace(self, server: ServerProcess) -> None:
        """Start a server in place of one that has ended."""
        self.servers[self.servers.index(server)] = ServerProcess(self.folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A pair with data, whose killed servers are replaced."""
    pair = Pair(tmp_path_factory.mktemp("several") / "store")
    try:
        with tensorus.connect(pair.address) as client:
            client.create_dataset("d", preset="none")
            client.create_dataset("many")
            client.insert("d", LARGE, id="large")
            client.insert_many("many", [tensorus.NewTensor(np.arange(4), f"t{n:04}") for n in range(SMALL)])
        yield pair
    finally:
        for server in pair.servers:
            server.kill()


@pytest.fixture
def pair(shared: Pair) -> Iterator[Pair]:
    """The shared pair; servers that the test ended are replaced."""
    yield shared
    for server in list(shared.servers):
        if server.process.poll() is not None:
            shared.replace(server)


@contextmanager
def request_id_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let the next insert have a request id that is known."""
    known = uuid.uuid4()
    with monkeypatch.context() as patch:
        patch.setattr(insert_stream.uuid, "uuid4", lambda: known)
        yield str(known)


class KillOnce:
    """Kills a server when an insert has made progress."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.interruptions = 0

    def __call__(self, progress: tensorus.Progress) -> None:
        self.interruptions = max(self.interruptions, progress.interruptions)
        if progress.done_bytes >= 2 * MIB and self._server.process.poll() is None:
            self._server.kill()


def test_an_insert_goes_on_at_the_other_server(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorus.connect(pair.address) as client, request_id_of(monkeypatch) as request_id:
        kill = KillOnce(pair.first(request_id))
        info = client.insert("d", LARGE, id=request_id, on_progress=kill)
        assert (info.inserted, kill.interruptions) == (True, 1)
        assert pair.first(request_id).process.poll() is not None
        assert_same_bits(client.get("d", request_id, as_="numpy"), LARGE)


def test_many_inserts_lose_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    with tensorus.connect(pair.address) as client, request_id_of(monkeypatch) as request_id:
        client.create_dataset("inserted", preset="none")
        given = {f"t{number}": random_bits("float32", (MIB // 4,), number) for number in range(24)}
        kill = KillOnce(pair.first(request_id))
        results = client.insert_many(
            "inserted", [tensorus.NewTensor(values, name) for name, values in given.items()], on_progress=kill
        )
        assert pair.first(request_id).process.poll() is not None
        assert {info.id for info in results} == given.keys()
        for record in client.query("inserted", as_="numpy"):
            assert_same_bits(record.tensor, given.pop(record.info.id))
        assert not given


def test_reads_and_listings_go_on_at_the_other_server(pair: Pair) -> None:
    with tensorus.connect(pair.address) as client:
        # Each of these has begun when a server is killed, and at least one of them at that server.
        begun = {
            "get_many": (record.info.id for record in client.get_many("many", [f"t{n:04}" for n in range(SMALL)])),
            "query": (record.info.id for record in client.query("many", as_="numpy")),
            "sample": (record.info.id for record in client.query("many", sample=SMALL, seed=7)),
            "list": (info.id for info in client.list("many")),
        }
        found = {name: [next(iteration)] for name, iteration in begun.items()}
        pair.first("many").kill()
        for name, iteration in begun.items():
            found[name].extend(iteration)
        assert {name: len(ids) for name, ids in found.items()} == dict.fromkeys(begun, SMALL)
        assert all(sorted(ids) == [f"t{n:04}" for n in range(SMALL)] for ids in found.values())


def test_a_large_read_goes_on_at_the_other_server(pair: Pair) -> None:
    first = pair.first("d\0large")
    with tensorus.connect(pair.address) as client:
        rest = client._backend.get("d", ["large"], None, with_data=True)
        arrived = [next(rest) for _ in range(3)]
        first.kill()
        arrived += rest
        assert sum(getattr(part, "decoded_length", 0) for part in arrived) >= LARGE.nbytes - 4 * MIB
        assert_same_bits(client.get("d", "large", as_="numpy"), LARGE)


def test_a_tensor_is_read_at_one_server_and_the_other_gets_no_connection(pair: Pair) -> None:
    with tensorus.connect(pair.address) as client:
        for _ in range(5):
            client.get("d", "large")
        assert list(client._backend._channels) == [pair.first("d\0large").address]


def test_a_server_that_stops_sends_its_calls_to_the_other(pair: Pair) -> None:
    stopping = pair.servers[0]
    name = pair.key_of(stopping, "created-{}")
    with tensorus.connect(stopping.address) as keeps_it_busy, tensorus.connect(pair.address) as client:
        client.datasets()
        # More than fits between server and client.
        reading = keeps_it_busy._backend.get("d", ["large"] * 8, None, with_data=True)
        next(reading)
        stopping.process.terminate()
        wait_until(lambda: is_draining(stopping))
        # A call that must not be done twice is done once, at the other one.
        client.create_dataset(f"created-{name}")
        with pytest.raises(errors.AlreadyExistsError):
            client.create_dataset(f"created-{name}")
        assert stopping.process.poll() is None
        reading.close()
    stopping.process.communicate(timeout=60)


def is_draining(server: ServerProcess) -> bool:
    with tensorus.connect(server.address, retry_timeout_s=0.0) as client:
        try:
            client.datasets()
        except errors.TensorusError as error:
            return error.reason == "DRAINING"
    return False


def test_if_none_can_be_reached_the_error_names_all() -> None:
    with tensorus.connect("127.0.0.1:1,127.0.0.2:1") as client, pytest.raises(UnavailableError) as caught:
        client.datasets()
    assert "127.0.0.1:1 (Connection refused)" in str(caught.value)
    assert "127.0.0.2:1 (Connection refused)" in str(caught.value)


def test_servers_that_end_for_good_are_both_named_in_the_end(tmp_path: Path) -> None:
    pair = Pair(tmp_path / "store")
    with tensorus.connect(pair.address, retry_timeout_s=0.5) as client:
        client.create_dataset("d")
        for server in pair.servers:
            server.kill()
        with pytest.raises(UnavailableError) as caught:
            client.datasets()
        with pytest.raises(UnavailableError):
            client.insert("d", np.arange(4))
    assert all(server.address in str(caught.value) for server in pair.servers)


def test_one_that_never_answers_does_not_hold_up_the_first_call(pair: Pair) -> None:
    with black_hole() as silent, tensorus.connect(f"{silent},{pair.servers[0].address}", timeout_s=10) as client:
        # A key whose first server is the silent one.
        servers = Servers(f"{silent},{pair.servers[0].address}")
        name = next(n for n in map(str, range(1000)) if _in_order(f"d\0{n}", servers._servers)[0].target == silent)
        client.insert("d", np.arange(4), id=name)
        assert client.get("d", name, as_="numpy").tolist() == [0, 1, 2, 3]


def test_a_name_stands_for_all_its_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tmp_path / "one") as one:
        port = int(one.address.rpartition(":")[2])
        with running_server(tmp_path / "two", listen=f"127.0.0.2:{port}"):
            found = [(socket.AF_INET, 1, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]
            monkeypatch.setattr(servers_module.socket, "getaddrinfo", lambda *_, **__: found)
            with tensorus.connect(f"dns:///replicas.example:{port}") as client:
                for name in map(str, range(20)):
                    client.create_dataset(name)
                    client.dataset(name)
                assert client._backend._channels.keys() == {f"127.0.0.1:{port}", f"127.0.0.2:{port}"}
                # The two have different stores here, so each has its own part.
                count = len(client.datasets())
                assert 0 < count < 20


def test_a_pickled_client_has_both_addresses(pair: Pair) -> None:
    with tensorus.connect(f"127.0.0.1:1,{pair.servers[0].address}") as client:
        with pickle.loads(pickle.dumps(client)) as copy:
            assert copy.info("d", "large").shape == LARGE.shape
        assert client.info("d", "large").shape == LARGE.shape


def test_two_that_refuse_are_not_asked_more_often_than_one() -> None:
    def attempts(count: int) -> int:
        asked: list[str] = []

        def refused(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            list(requests)
            asked.append("")
            context.set_trailing_metadata((("grpc-status-details-bin", status_details("STORE_UNAVAILABLE")),))
            context.abort(grpc.StatusCode.UNAVAILABLE, "what is wrong")
            yield b""

        def heard(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
            list(requests)
            yield b""

        with (
            scripted_server(GetDataset=refused, ListDatasets=heard) as one,
            scripted_server(GetDataset=refused, ListDatasets=heard) as two,
        ):
            address = ",".join([one, two][:count])
            with tensorus.connect(address, retry_timeout_s=1.0) as client:
                client.datasets()
                with pytest.raises(UnavailableError):
                    client.dataset("d")
        return len(asked)

    # The waits of one, the shortest of which are half as long; and each of the two once without a wait.
    assert 4 <= attempts(1) <= 8
    assert 4 <= attempts(2) <= 9


# ---- The asynchronous client, and the command line ----------------------------------------------------------------------


@asynccontextmanager
async def connected(pair: Pair) -> AsyncIterator[tensorus.aio.AsyncClient]:
    async with tensorus.aio.connect(pair.address) as client:
        yield client


def test_the_asynchronous_client_inserts_on_at_the_other_server(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(request_id: str) -> Any:
        async with connected(pair) as client:
            kill = KillOnce(pair.first(request_id))
            info = await client.insert("d", LARGE, id=request_id, on_progress=kill)
            assert (info.inserted, kill.interruptions) == (True, 1)
            return await client.get("d", request_id, as_="numpy")

    with request_id_of(monkeypatch) as request_id:
        assert_same_bits(asyncio.run(run(request_id)), LARGE)
        assert pair.first(request_id).process.poll() is not None


def test_the_asynchronous_client_reads_on_at_the_other_server(pair: Pair) -> None:
    async def run() -> tuple[list[str], list[str]]:
        async with connected(pair) as client:
            listing, query = client.list("many"), client.query("many", as_="numpy")
            listed, queried = [(await anext(listing)).id], [(await anext(query)).info.id]
            pair.first("many").kill()
            listed += [info.id async for info in listing]
            queried += [record.info.id async for record in query]
            return listed, queried

    listed, queried = asyncio.run(run())
    assert sorted(listed) == sorted(queried) == [f"t{n:04}" for n in range(SMALL)]


def test_the_asynchronous_client_names_all_that_it_cannot_reach() -> None:
    async def run() -> None:
        async with tensorus.aio.connect("127.0.0.1:1,127.0.0.2:1") as client:
            await client.datasets()

    with pytest.raises(UnavailableError, match=re.escape("127.0.0.1:1 (Connection refused), 127.0.0.2:1")):
        asyncio.run(run())


def test_commands_take_several_addresses(pair: Pair) -> None:
    address = f"127.0.0.1:1,{pair.servers[0].address}"
    ran = run_command("ls", "--server", address)
    assert (ran.exit_code, "many" in ran.output) == (0, True)
    ran = run_command("ls", env={"TENSORUS_ADDRESS": address})
    assert (ran.exit_code, "many" in ran.output) == (0, True)
    ran = run_command("ls", "--server", "127.0.0.1:1,127.0.0.2:1")
    assert ran.exit_code != 0
    assert "no server can be reached at '127.0.0.1:1,127.0.0.2:1'" in ran.errors
