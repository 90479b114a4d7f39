"""A large insert whose replica is killed again and again: it goes on at another one, and little is sent or read twice."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import random_bits
from support.cluster import Cluster
from support.postgres import own_server
from support.proxy import FaultProxy
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed, new_prefix

pytestmark = [pytest.mark.crash, pytest.mark.timeout(1200)]

SENT_TWICE_MAX = 32 * 1024 * 1024
READ_MAX = 64 * 1024 * 1024
OVERHEAD = 0.01
"""Of gRPC and HTTP/2, and of what is announced."""


class Insert(threading.Thread):
    """An insert on a thread of its own."""

    def __init__(self, address: str, array: np.ndarray) -> None:
        super().__init__(name="insert")
        self._address = address
        self._array = array
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with tensorus.connect(self._address, retry_timeout_s=120.0, tune_allocator=False) as client:
                client.insert("d", self._array, id="large", preset="none")
        except BaseException as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error


def kill_the_one_that_works(replicas: Cluster, before: list[int]) -> None:
    """Kill the replica that has got the most bytes since then, and start it again."""
    got = [proxy.upward_bytes - bytes_before for proxy, bytes_before in zip(replicas.proxies, before, strict=True)]
    number = got.index(max(got))
    replicas.kill(number)
    replicas.start(number)


@pytest.mark.parametrize(
    ("size_mib", "changes"), [(160, 2), pytest.param(2048, 5, marks=pytest.mark.long)], ids=["short", "long"]
)
def test_an_insert_that_changes_its_replica_sends_and_reads_little_twice(
    tmp_path: Path, size_mib: int, changes: int
) -> None:
    array = random_bits("uint8", (size_mib << 20,))
    seaweed = Seaweed(tmp_path / "seaweed", volume_mb=4096)
    prefix = new_prefix()
    try:
        with own_server() as server, ExitStack() as stack:
            ways = [stack.enter_context(FaultProxy(f"127.0.0.1:{seaweed.port}")) for _ in range(3)]
            chunks = [seaweed.url(prefix).replace(seaweed.endpoint, f"http://{way.address}") for way in ways]
            credentials = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
            replicas = stack.enter_context(
                Cluster(tmp_path, catalogue=server.dsn(), chunks=chunks, environment=credentials)
            )
            with tensorus.connect(replicas.address, tune_allocator=False) as client:
                client.create_dataset("d")
            read_before = sum(way.downward_bytes for way in ways)
            insert = Insert(replicas.address, array)
            insert.start()
            for change in range(changes):
                wanted = array.nbytes * (change + 1) // (changes + 1)
                before = [proxy.upward_bytes for proxy in replicas.proxies]
                while insert.is_alive() and sum(proxy.upward_bytes for proxy in replicas.proxies) < wanted:
                    time.sleep(0.01)
                assert insert.is_alive()
                kill_the_one_that_works(replicas, before)
            insert.join(600)
            assert not insert.is_alive()
            assert insert.failure is None
            sent = sum(proxy.upward_bytes for proxy in replicas.proxies)
            assert sent <= array.nbytes * (1 + OVERHEAD) + changes * SENT_TWICE_MAX
            assert sum(way.downward_bytes for way in ways) - read_before <= READ_MAX
            with tensorus.connect(replicas.address, tune_allocator=False) as client:
                assert np.array_equal(client.get("d", "large", as_="numpy"), array)
    finally:
        seaweed.close()
