"""Replicas whose database or object store is away for a while: what can go on does, and all goes on by itself afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'tensorus[postgres]'")
pytest.importorskip("obstore", reason="obstore is not installed: pip install 'tensorus[object-store]'")

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.orphans import objects_of
from support.postgres import PostgresServer, own_server
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed
from support.servers import running_server
from tensorus_server.engine import engine as engine_module

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

PREFIX = "outages"
AWAY_S = 3.0
RETRY_S = 120.0

LEFT_S = 90.0
"""How long a sweep may take to delete an object without a grace period: a sweep of another process has to end before."""
CLIENTS = 4
SIZES = (100, 5_000, 30_000, 1_500_000)
CACHED = "cached"


class Working(threading.Thread):
    """A client that inserts, reads and deletes until it is told to stop."""

    def __init__(self, number: int, address: str, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}")
        self._number, self._address, self._told = number, address, stop
        self.stored: dict[str, int] = {}
        self.gone: set[str] = set()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with tensorus.connect(self._address, retry_timeout_s=RETRY_S, tune_allocator=False) as client:
                for number in range(1_000_000):
                    if self._told.is_set():
                        return
                    self._work(client, number)
        except BaseException as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error

    def _work(self, client: tensorus.Client, number: int) -> None:
        tensor_id = f"{self._number}-{number}"
        size = SIZES[number % len(SIZES)]
        seed = 1000 * self._number + number
        client.insert("d", random_bits("uint8", (size,), seed=seed), id=tensor_id, preset="none")
        self.stored[tensor_id] = number
        assert_same_bits(client.get("d", tensor_id, as_="numpy"), random_bits("uint8", (size,), seed=seed))
        if number % 5 == 4:
            victim = f"{self._number}-{number - 2}"
            client.delete("d", [victim])
            del self.stored[victim]
            self.gone.add(victim)

    def check(self, client: tensorus.Client) -> None:
        """Compare what is there with what must be."""
        for tensor_id, number in self.stored.items():
            wanted = random_bits("uint8", (SIZES[number % len(SIZES)],), seed=1000 * self._number + number)
            assert_same_bits(client.get("d", tensor_id, as_="numpy"), wanted)


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with own_server() as server:
        yield server


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[Seaweed]:
    seaweed = Seaweed(tmp_path / "seaweed")
    yield seaweed
    seaweed.close()


def wait_until(happens: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Wait for something."""
    give_up_s = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < give_up_s, what
        time.sleep(0.1)


def test_everything_goes_on_after_the_database_or_the_object_store_was_away(
    tmp_path: Path, database: PostgresServer, objects: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "_SWEEP_SHARED_EVERY_S", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    places = {"catalogue": database.dsn(), "chunks": objects.url(PREFIX), "delete_grace_s": 0.0}
    stop = threading.Event()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_server(tmp_path / name, cache_dir=tmp_path / f"cache-{name}", **places))
            for name in "ab"
        ]
        address = ",".join(server.address for server in servers)
        client = stack.enter_context(tensorus.connect(address, retry_timeout_s=RETRY_S))
        reader = stack.enter_context(
            tensorus.connect(servers[0].address, retry_timeout_s=0.001, direct_reads=False, tune_allocator=False)
        )
        client.create_dataset("d")
        cached = random_bits("uint8", (1_500_000,), seed=1)
        client.insert("d", cached, id=CACHED, preset="none")
        assert_same_bits(reader.get("d", CACHED, as_="numpy"), cached)
        clients = [Working(number, address, stop) for number in range(CLIENTS)]

        def work_goes_on() -> None:
            before = [len(one.stored) + len(one.gone) for one in clients]
            wait_until(
                lambda: all(
                    len(one.stored) + len(one.gone) > was + 1 or one.failure is not None
                    for one, was in zip(clients, before, strict=True)
                ),
                "the clients do not go on",
            )

        stack.callback(stop.set)
        for one in clients:
            one.start()
        work_goes_on()
        database.suspend()
        time.sleep(AWAY_S)
        database.go_on()
        work_goes_on()
        database.kill()
        time.sleep(AWAY_S)
        database.start()
        work_goes_on()
        objects.kill()
        away_until_s = time.monotonic() + AWAY_S
        while time.monotonic() < away_until_s:
            assert_same_bits(reader.get("d", CACHED, as_="numpy"), cached)
        objects.start()
        work_goes_on()
        stop.set()
        for one in clients:
            one.join(2 * RETRY_S)
            assert not one.is_alive(), f"{one.name} hangs"
            assert one.failure is None
            one.check(client)
        found = [info.id for info in client.list("d")]
        assert sorted(found) == sorted([CACHED, *(name for one in clients for name in one.stored)])
        # Those who sweep do so still.
        client.delete("d", found)
        before = set(objects_of(objects.endpoint, PREFIX))
        client.insert("d", random_bits("uint8", (6_000_000,), seed=2), id="last", preset="none")
        last = set(objects_of(objects.endpoint, PREFIX)) - before
        assert last
        client.delete("d", ["last"])
        wait_until(lambda: not last & set(objects_of(objects.endpoint, PREFIX)), "objects are left", LEFT_S)
