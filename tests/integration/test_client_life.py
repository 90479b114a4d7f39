"""How a client begins and ends: closed, abandoned, and left alone by its server."""

from __future__ import annotations

import http.server
import importlib
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.client import stoppable_server
from support.servers import engine_config, running_server
from tensorus import errors
from tensorus.embedded import EmbeddedBackend
from tensorus.types import Progress
from tensorus_server.processes.server import Server

MIB = 1024 * 1024

CALLS: dict[str, Callable[[tensorus.Client], Any]] = {
    "create_dataset": lambda client: client.create_dataset("d"),
    "datasets": lambda client: client.datasets(),
    "dataset": lambda client: client.dataset("d"),
    "update_dataset": lambda client: client.update_dataset("d", preset="fast"),
    "delete_dataset": lambda client: client.delete_dataset("d"),
    "stats": lambda client: client.stats("d"),
    "insert": lambda client: client.insert("d", np.zeros(3)),
    "insert of a large tensor": lambda client: client.insert("d", np.zeros(8 * MIB, np.uint8)),
    "insert_many": lambda client: client.insert_many("d", [np.zeros(3)]),
    "append": lambda client: client.append("d", "t", np.zeros(3)),
    "write": lambda client: client.write("d", "t", 0, 1.0),
    "get": lambda client: client.get("d", "t"),
    "get_many": lambda client: list(client.get_many("d", ["t"])),
    "query": lambda client: list(client.query("d")),
    "list": lambda client: list(client.list("d")),
    "info": lambda client: client.info("d", "t"),
    "update_metadata": lambda client: client.update_metadata("d", "t", {}),
    "delete": lambda client: client.delete("d", "t"),
    "explain": lambda client: client.explain(np.zeros(3)),
    "verify": lambda client: client.verify(),
    "store_stats": lambda client: client.store_stats(),
}

each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def test_every_method_is_called_here() -> None:
    methods = {name for name in vars(tensorus.Client) if not name.startswith("_")} - {"close"}
    assert methods <= set(CALLS)


# ---- Interrupted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["insert of a large tensor", "insert_many", "explain", "get", "query"])
def test_ctrl_c_while_a_call_begins_leaves_the_client_as_it_was(
    fresh_server: Server, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = importlib.import_module("grpc._channel")
    begin, pending = channel._run_channel_spin_thread, [signal.SIGINT]

    def interrupted(state: Any) -> None:
        # The moment at which gRPC counts a call as begun, and nothing attends to it yet.
        if pending:
            os.kill(os.getpid(), pending.pop())
            time.sleep(0.05)
        begin(state)

    monkeypatch.setattr(channel, "_run_channel_spin_thread", interrupted)
    with tensorus.connect(fresh_server.address) as client:
        client.create_dataset("d")
        client.insert("d", np.arange(3), id="t")
        if name in {"get", "query"}:
            # They begin nothing that could be left alone.
            CALLS[name](client)
            assert pending
            return
        with pytest.raises(KeyboardInterrupt):
            CALLS[name](client)
        assert not pending
        CALLS[name](client)


# ---- Closed -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["remote", "embedded"])
def own_client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tensorus.Client]:
    """A client of this test alone, of either kind."""
    if request.param == "embedded":
        with tensorus.Client(EmbeddedBackend(tmp_path / "store", engine_config)) as client:
            yield client
    else:
        with (
            running_server(tmp_path / "store") as server,
            tensorus.connect(server.address, retry_timeout_s=0) as client,
        ):
            yield client


def test_a_client_can_be_closed_twice(own_client: tensorus.Client) -> None:
    own_client.create_dataset("d")
    own_client.close()
    own_client.close()


def test_a_client_that_was_never_used_can_be_closed(own_client: tensorus.Client) -> None:
    own_client.close()


def test_leaving_the_block_closes_the_client(own_client: tensorus.Client) -> None:
    with own_client as entered:
        assert entered is own_client
    with pytest.raises(errors.UnavailableError):
        own_client.datasets()


@pytest.fixture(scope="module", params=["remote", "embedded"])
def closed_client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, server: Server
) -> tensorus.Client:
    if request.param == "embedded":
        client = tensorus.Client(EmbeddedBackend(tmp_path_factory.mktemp("closed"), engine_config))
    else:
        client = tensorus.connect(server.address, retry_timeout_s=0)
    client.close()
    return client


@each_call
def test_a_closed_client_says_so(closed_client: tensorus.Client, call: Callable[[tensorus.Client], Any]) -> None:
    with pytest.raises(errors.UnavailableError, match="closed"):
        call(closed_client)


def test_an_iterator_ends_with_its_client(own_client: tensorus.Client) -> None:
    own_client.create_dataset("d", preset="none")
    own_client.insert_many("d", (BLOCK for _ in range(70)))
    begun, not_begun = own_client.query("d", as_="numpy"), own_client.query("d", as_="numpy")
    next(begun)
    own_client.close()
    for records in (begun, not_begun):
        with pytest.raises(errors.UnavailableError):
            list(records)


def test_what_nobody_foresaw_is_an_internal_error_without_a_server_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise OSError("the disk is gone")

    backend = EmbeddedBackend(tmp_path / "store", engine_config)
    with tensorus.Client(backend) as client:
        monkeypatch.setattr(backend._engine, "get_dataset", fail)
        with pytest.raises(errors.InternalError, match=r"^OSError: the disk is gone$"):
            client.dataset("d")


def test_a_store_can_be_opened_again_and_has_what_was_stored(tmp_path: Path) -> None:
    with tensorus.open(tmp_path / "new" / "store") as client:
        client.create_dataset("d")
        info = client.insert("d", np.arange(3), id="t")
    with tensorus.open(str(tmp_path / "new" / "store")) as client:
        assert client.info("d", "t") == info
        assert client.get("d", "t", as_="numpy").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "make", [lambda folder: folder / "file", lambda folder: folder / "file" / "store"], ids=["a file", "below a file"]
)
def test_what_cannot_be_a_folder_is_no_store(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(errors.UnavailableError, match="cannot open a store in"):
        tensorus.open(make(tmp_path))


def test_a_client_is_safe_in_many_threads(client: tensorus.Client, dataset: str) -> None:
    client.create_dataset(dataset)

    def work(number: int) -> list[int]:
        client.insert(dataset, np.full(5000, number), id=f"t{number}")
        found: list[int] = np.unique(client.get(dataset, f"t{number}", as_="numpy")).tolist()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(24))) == [[number] for number in range(24)]
    assert client.stats(dataset).tensors == 24


# ---- Abandoned ----------------------------------------------------------------------------------------------------------

BLOCK = random_bits("uint8", (MIB,))

LARGE = 24
"""MiB: more than the windows of a connection hold, so that a stream that is not read to its end stays open."""


@pytest.fixture(scope="module")
def one_stream_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that serves a single stream at a time, with more than a connection holds on its way."""
    folder = tmp_path_factory.mktemp("one-stream")
    with running_server(folder, streams_max=1) as server, tensorus.connect(server.address, retry_timeout_s=0) as client:
        client.create_dataset("d", preset="none")
        client.insert_many("d", ((f"t{number}", BLOCK) for number in range(LARGE)))
        client.create_dataset("large", preset="none")
        client.insert("large", np.tile(BLOCK, LARGE), id="t")
        yield server


@pytest.fixture
def one_stream(one_stream_server: Server) -> Iterator[tensorus.Client]:
    """A client of that server, whose stream is free."""
    with tensorus.connect(one_stream_server.address, retry_timeout_s=0) as client:
        require_free(client)
        admission = one_stream_server._admission
        with admission._changed:
            # Its own last call ends there a moment after here, too.
            assert admission._changed.wait_for(lambda: not admission._places, 30)
        yield client


ITERATORS: dict[str, Callable[[tensorus.Client], Iterator[Any]]] = {
    "query": lambda client: client.query("d", as_="numpy"),
    "get_many": lambda client: client.get_many("d", [f"t{number}" for number in range(LARGE)], as_="numpy"),
}

each_iterator = pytest.mark.parametrize("iterate", ITERATORS.values(), ids=ITERATORS)


def require_free(client: tensorus.Client) -> None:
    """Fail unless the server soon has a stream to spare: it hears of the end of a call a moment after the client."""
    for attempt in itertools.count():
        try:
            client.info("d", "t0")
        except errors.OverloadedError:
            assert attempt < 20_000
        else:
            return


@each_iterator
def test_a_stream_that_is_not_read_to_its_end_is_held(
    one_stream: tensorus.Client, iterate: Callable[[tensorus.Client], Iterator[Any]]
) -> None:
    records = iterate(one_stream)
    next(records)
    with pytest.raises(errors.OverloadedError, match=r"1 streams are open, limit is 1 \(streams_max\)") as caught:
        one_stream.info("d", "t0")
    assert caught.value.reason == "TOO_MANY_STREAMS"
    assert len(list(records)) == LARGE - 1
    require_free(one_stream)


@each_iterator
def test_an_iterator_that_is_let_go_frees_its_stream(
    one_stream: tensorus.Client, iterate: Callable[[tensorus.Client], Iterator[Any]]
) -> None:
    for _ in iterate(one_stream):
        break
    require_free(one_stream)


@each_iterator
def test_an_iterator_that_is_closed_frees_its_stream(
    one_stream: tensorus.Client, iterate: Callable[[tensorus.Client], Iterator[Any]]
) -> None:
    records: Any = iterate(one_stream)
    next(records)
    records.close()
    require_free(one_stream)


def test_an_iterator_that_was_never_read_takes_no_stream(one_stream: tensorus.Client) -> None:
    records = [iterate(one_stream) for iterate in ITERATORS.values()]
    assert one_stream.info("d", "t0").id == "t0"
    assert len(records) == 2


class MineError(Exception):
    """What a test raises in the middle."""


def test_a_get_that_its_reader_ends_frees_its_stream(one_stream: tensorus.Client) -> None:
    def on_progress(_: Progress) -> None:
        raise MineError

    with pytest.raises(MineError):
        one_stream.get("large", "t", on_progress=on_progress)
    require_free(one_stream)


def test_an_insert_that_its_sender_ends_frees_its_stream(one_stream: tensorus.Client) -> None:
    def tensors() -> Iterator[Any]:
        for _ in range(5):
            yield np.zeros(MIB, np.uint8)
        raise MineError

    with pytest.raises(MineError):
        one_stream.insert_many("large", tensors())
    require_free(one_stream)


def test_an_insert_beyond_what_the_server_serves_is_refused(one_stream: tensorus.Client) -> None:
    records = one_stream.query("d", as_="numpy")
    next(records)
    with pytest.raises(errors.OverloadedError):
        one_stream.insert("d", np.zeros(3))
    # Short calls have threads of their own.
    assert one_stream.stats("d").tensors == LARGE


# ---- Left alone ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed_port() -> Iterator[int]:
    """A port that is taken, and at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("call", ["create_dataset", "dataset", "insert of a large tensor", "get", "query"])
def test_a_server_that_is_not_there_is_unavailable(closed_port: int, call: str) -> None:
    with (
        tensorus.connect(f"127.0.0.1:{closed_port}", retry_timeout_s=0) as client,
        pytest.raises(errors.UnavailableError, match="Connection refused") as caught,
    ):
        CALLS[call](client)
    assert caught.value.reason == "UNAVAILABLE"
    assert isinstance(caught.value, ConnectionError)


def test_connecting_needs_no_server() -> None:
    with tensorus.connect("127.0.0.1:1", tune_allocator=False, retry_timeout_s=0) as client:
        assert isinstance(client, tensorus.Client)


@pytest.mark.parametrize(
    "address",
    ["no-such-host.invalid:7733", "127.0.0.1:99999", "", "\ud800"],
    ids=["host", "port", "empty", "no Unicode"],
)
def test_an_address_that_leads_nowhere_is_unavailable(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(errors.UnavailableError), tensorus.connect(address, timeout_s=5, retry_timeout_s=0) as client:
        client.create_dataset("d")


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("call", ["create_dataset", "insert", "get"])
def test_another_service_on_the_port_is_unavailable(call: str) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        with (
            tensorus.connect(f"127.0.0.1:{other.server_port}", retry_timeout_s=0) as client,
            pytest.raises(errors.UnavailableError),
        ):
            CALLS[call](client)
        other.shutdown()
        thread.join()


@pytest.mark.parametrize("call", ["create_dataset", "insert", "get"])
def test_another_grpc_service_on_the_port_does_not_implement_ours(call: str) -> None:
    other = grpc.server(ThreadPoolExecutor(1))
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    with (
        tensorus.connect(f"127.0.0.1:{port}", retry_timeout_s=0) as client,
        pytest.raises(errors.NotImplementedByServerError, match="UNIMPLEMENTED"),
    ):
        CALLS[call](client)
    other.stop(None).wait()


def test_a_get_ends_with_its_server(tmp_path: Path) -> None:
    with (
        stoppable_server(tmp_path / "store") as (address, stop),
        tensorus.connect(address, retry_timeout_s=0) as client,
    ):
        client.create_dataset("d", preset="none")
        client.insert("d", np.zeros(100 * MIB, np.uint8), id="t")
        with pytest.raises(errors.UnavailableError):
            client.get("d", "t", on_progress=lambda _: stop())


def test_a_query_ends_with_its_server(tmp_path: Path) -> None:
    with (
        stoppable_server(tmp_path / "store") as (address, stop),
        tensorus.connect(address, retry_timeout_s=0) as client,
    ):
        client.create_dataset("d", preset="none")
        client.insert_many("d", (np.zeros(MIB, np.uint8) for _ in range(60)))
        records = client.query("d", as_="numpy")
        next(records)
        stop()
        with pytest.raises(errors.UnavailableError):
            list(records)


def test_an_insert_ends_with_its_server(tmp_path: Path) -> None:
    # Endless: that it ends at all is the server's end.
    endless = (np.zeros(MIB, np.uint8) for _ in itertools.count())
    with (
        stoppable_server(tmp_path / "store") as (address, stop),
        tensorus.connect(address, retry_timeout_s=0) as client,
    ):
        client.create_dataset("d")
        with pytest.raises(errors.UnavailableError):
            client.insert_many("d", endless, on_progress=lambda _: stop())


def test_an_insert_that_waits_for_credit_ends_with_its_server(tmp_path: Path) -> None:
    tensor = np.zeros(200 * MIB, np.uint8)
    with (
        stoppable_server(tmp_path / "store") as (address, stop),
        tensorus.connect(address, retry_timeout_s=0) as client,
    ):
        client.create_dataset("d")
        with pytest.raises(errors.UnavailableError):
            client.insert("d", tensor, on_progress=lambda _: stop())


def test_a_client_finds_its_server_again(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tensorus.connect(f"127.0.0.1:{port}", retry_timeout_s=0) as client:
        with pytest.raises(errors.UnavailableError):
            client.create_dataset("d")
        with stoppable_server(tmp_path / "store", port=port):
            # gRPC may wait up to a second before it connects anew.
            for attempt in itertools.count():
                try:
                    assert client.datasets() == []
                except errors.UnavailableError:
                    assert attempt < 500
                    time.sleep(0.02)
                else:
                    break
