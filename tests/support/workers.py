"""Servers of several processes: who of them has which connection, clients of a chosen one, and streams by hand."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import grpc
import psutil

import tensorus
from support.interrupted import WAIT_S, wait_until
from support.servers import ServerProcess
from support.wire import open_insert
from tensorus_protos.v1 import tensorus_pb2 as pb
from tensorus_protos.v1.tensorus_pb2_grpc import TensorServiceStub

T = TypeVar("T")

CONNECTIONS_MAX = 64
"""Until each of two workers has one: the kernel spreads them at random."""

_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


def worker_pids(server: ServerProcess) -> list[int]:
    """Return the process ids of a server's workers."""
    return sorted(child.pid for child in psutil.Process(server.process.pid).children())


def wait_for_workers(server: ServerProcess, count: int, *, without: int) -> None:
    """Wait until so many workers listen, the process `without` not among them."""
    port = int(server.address.rpartition(":")[2])

    def all_listen() -> bool:
        pids = worker_pids(server)
        return without not in pids and sum(_has(pid, port, psutil.CONN_LISTEN) for pid in pids) == count

    wait_until(all_listen)


def _has(pid: int, port: int, status: str) -> int:
    """Return how many of a process's sockets have this local port and status."""
    try:
        found = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.NoSuchProcess:
        return 0
    return sum(connection.laddr.port == port and connection.status == status for connection in found)


@contextmanager
def of_each_worker(server: ServerProcess, connect: Callable[[], Any]) -> Iterator[dict[int, Any]]:
    """Yield something that is connected to each worker, by the worker's process id.

    Args:
        connect: returns a context manager, of what is connected when it is entered.
    """
    port = int(server.address.rpartition(":")[2])
    pids = worker_pids(server)

    def connections() -> dict[int, int]:
        return {pid: _has(pid, port, psutil.CONN_ESTABLISHED) for pid in pids}

    found: dict[int, Any] = {}
    with ExitStack() as opened:
        for _ in range(CONNECTIONS_MAX):
            before = connections()
            made = opened.enter_context(connect())
            (pid,) = [pid for pid, count in connections().items() if count > before[pid]]
            found.setdefault(pid, made)
            if len(found) == len(pids):
                yield found
                return
        raise AssertionError(f"{CONNECTIONS_MAX} connections came to processes {sorted(found)} alone, of {pids}")


def clients(server: ServerProcess, *, retry_timeout_s: float = 0.0) -> Callable[[], Any]:
    """Return what connects a client, for `of_each_worker`."""

    @contextmanager
    def connect() -> Iterator[tensorus.Client]:
        with tensorus.connect(server.address, tune_allocator=False, retry_timeout_s=retry_timeout_s) as client:
            client.datasets()
            yield client

    return connect


def channels(server: ServerProcess) -> Callable[[], Any]:
    """Return what connects a channel, for `of_each_worker`."""

    @contextmanager
    def connect() -> Iterator[grpc.Channel]:
        with grpc.insecure_channel(server.address, options=_OWN_CONNECTION) as channel:
            TensorServiceStub(channel).ListDatasets(pb.ListDatasetsRequest(), timeout=WAIT_S)
            yield channel

    return connect


class HandInsert:
    """An Insert stream whose messages are sent one by one."""

    def __init__(self, channel: grpc.Channel, dataset: str, request_id: str) -> None:
        """Open it."""
        self._messages: queue.SimpleQueue[pb.InsertRequest | None] = queue.SimpleQueue()
        self.send(open_insert(dataset, request_id=request_id))
        self.call: Any = TensorServiceStub(channel).Insert(iter(self._messages.get, None), timeout=WAIT_S)
        # However the call ends, nobody waits for another message.
        self.call.add_callback(lambda: self.send(None))

    def send(self, message: pb.InsertRequest | None) -> None:
        """Send a message, or, with None, no more of them."""
        self._messages.put(message)

    def opened(self) -> pb.InsertOpened:
        """Return what the server had, which it answers with first."""
        response: pb.InsertResponse = next(self.call)
        assert response.HasField("opened")
        return response.opened

    def wait_committed(self, wanted: int) -> int:
        """Read answers until so much of an item is durable."""
        for response in self.call:
            for status in response.progress.items:
                if status.committed_bytes >= wanted:
                    return int(status.committed_bytes)
        raise AssertionError(f"the stream ended before {wanted} bytes were durable")

    def finish(self) -> list[pb.ItemStatus]:
        """Send the finish, and return the results that are still to come."""
        self.send(pb.InsertRequest(finish=True))
        self.send(None)
        return [result for response in self.call for result in response.results]
