"""Everything at once through a bad network."""

from __future__ import annotations

import logging
import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import KIB, MIB, RETRY_S, assert_settled
from support.proxy import FaultProxy, random_faults
from tensorus import errors
from tensorus_server.processes.server import Server

_log = logging.getLogger(__name__)

WORKERS = 4


class Worker:
    """Inserts and reads through the proxy, and knows what must be there."""

    def __init__(self, number: int, proxy: FaultProxy, operations: int) -> None:
        self._source = random.Random(number)
        self._proxy = proxy
        self._operations = operations
        self._prefix = f"w{number}"
        self.stored: dict[str, np.ndarray[Any, Any]] = {}

    def run(self) -> None:
        with tensorus.connect(self._proxy.address, retry_timeout_s=RETRY_S, tune_allocator=False) as client:
            while not self._has_heard(client):
                pass
            for number in range(self._operations):
                if self._source.random() < 0.1:
                    self._proxy.cut(after_s=0.05 * self._source.random())
                if self.stored and self._source.random() < 0.4:
                    self._read(client)
                else:
                    self._insert(client, number)

    def _has_heard(self, client: tensorus.Client) -> bool:
        # A client has no patience with a server that has never answered.
        try:
            client.datasets()
        except errors.UnavailableError:
            return False
        return True

    def _insert(self, client: tensorus.Client, number: int) -> None:
        def array(size: int) -> np.ndarray[Any, Any]:
            return random_bits("uint8", (size,), seed=self._source.randrange(2**32))

        if self._source.random() < 0.2:
            sizes = [int(2 ** self._source.uniform(0, 19)) for _ in range(8)]
            many = {f"{self._prefix}-{number}-{part}": array(size) for part, size in enumerate(sizes)}
            together = self._source.random() < 0.5
            assert [info.id for info in client.insert_many("none", many.items(), all_or_nothing=together)] == [*many]
            self.stored |= many
        else:
            tensor_id = f"{self._prefix}-{number}"
            self.stored[tensor_id] = array(int(2 ** self._source.uniform(0, 21.58)))
            assert client.insert("none", self.stored[tensor_id], id=tensor_id).id == tensor_id

    def _read(self, client: tensorus.Client) -> None:
        if self._source.random() < 0.2:
            ids = self._source.sample(list(self.stored), min(8, len(self.stored)))
            for record in client.get_many("none", ids, as_="numpy"):
                assert_same_bits(record.tensor, self.stored[record.info.id])
            return
        tensor_id = self._source.choice(list(self.stored))
        array = self.stored[tensor_id]
        start = self._source.randrange(array.size)
        index = self._source.choice([None, slice(start, None), slice(None, start + 1, 3)])
        expected = array if index is None else array[index]
        assert_same_bits(client.get("none", tensor_id, index=index, as_="numpy"), expected)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("operations", [120, pytest.param(2_000, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
def test_hundreds_of_transfers_through_a_bad_network_are_all_exact(
    fresh_server: Server, proxy: FaultProxy, direct: tensorus.Client, operations: int
) -> None:
    proxy.faults = random_faults(13, mean_bytes=2 * MIB, pause_s=0.02)
    workers = [Worker(number, proxy, operations // WORKERS) for number in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for running in [pool.submit(worker.run) for worker in workers]:
            running.result()
    stored = {tensor_id: array for worker in workers for tensor_id, array in worker.stored.items()}
    _log.info("%d tensors, %d of %d connections were cut", len(stored), proxy.cuts, proxy.connections)
    assert proxy.cuts >= operations / 15
    assert sorted(info.id for info in direct.list("none")) == sorted(stored)
    for record in direct.get_many("none", stored, as_="numpy"):
        assert_same_bits(record.tensor, stored[record.info.id])
    assert_settled(fresh_server)
    in_files = [info for info in direct.list("none") if info.stored_bytes > 64 * KIB]
    store = fresh_server._config.engine.data_dir
    assert len(list((store / "chunks").glob("*/*"))) == len(in_files)
