"""Replicas on PostgreSQL and an object store, of which something is killed all the time.

Clients of all replicas insert, read what they have just inserted, replace and delete. Meanwhile replicas, the database and the
object store are killed and started again. Whatever was acknowledged is there and exact, nothing is there twice, and in the end
the object store has nothing that no row refers to.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.cluster import Cluster
from support.orphans import orphans, rows_of
from support.postgres import PostgresServer, own_server
from support.seaweed import ACCESS_KEY, SECRET_KEY, Seaweed
from support.seaweed_cluster import SeaweedCluster

pytestmark = [pytest.mark.crash, pytest.mark.timeout(900)]

_log = logging.getLogger(__name__)

CLIENTS = 16
KILL_EVERY_S = 2.0
RETRY_S = 120.0

PREFIX = "replicas"

ORPHANS_S = 180.0
"""How long after the last kill the test waits until objects that no row needs are gone. Twice the lease of a process and the
time until a sweep notices it take about 45 s, and longer on a busy machine."""

SIZES = (1, 100, 1_000, 5_000, 30_000, 30_000, 300_000, 2_500_000)
"""Elements of float32: in the catalogue, in packs, and in segments."""


def content(tensor_id: str) -> np.ndarray:
    """Return the values of a tensor, which follow from its id."""
    source = random.Random(tensor_id)
    return random_bits("float32", (source.choice(SIZES),), seed=source.randrange(2**32))


@dataclass
class Journal:
    """What one client did."""

    tried: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    """Acknowledged, and not deleted since."""
    deleted: set[str] = field(default_factory=set)
    """Tensors whose deletion was acknowledged, or was tried: they may be there or not."""
    gone: set[str] = field(default_factory=set)
    """Tensors whose deletion was acknowledged."""
    reads: int = 0


class Worker(threading.Thread):
    """A client that works until it is told to stop, on a thread of its own."""

    def __init__(self, number: int, address: str, stop: threading.Event) -> None:
        super().__init__(name=f"client-{number}")
        self.journal = Journal()
        self.failure: BaseException | None = None
        self._number = number
        self._address = address
        self._stop_event = stop

    def run(self) -> None:
        try:
            with (
                tensorus.connect(self._address, retry_timeout_s=RETRY_S, tune_allocator=False) as client,
                tensorus.connect(self._address, retry_timeout_s=RETRY_S, tune_allocator=False) as other,
            ):
                self._work(client, other)
        except BaseException as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error

    def _work(self, client: tensorus.Client, other: tensorus.Client) -> None:
        source = random.Random(self._number)
        journal = self.journal
        number = 0
        while not self._stop_event.is_set():
            tensor_id = f"{self._number}-{number}"
            number += 1
            journal.tried.add(tensor_id)
            client.insert("d", content(tensor_id), id=tensor_id, preset=source.choice(("none", "lossless")))
            journal.stored.add(tensor_id)
            assert_same_bits(other.get("d", tensor_id, as_="numpy"), content(tensor_id))
            journal.reads += 1
            if source.random() < 0.2:
                victim = source.choice(sorted(journal.stored))
                journal.stored.discard(victim)
                client.delete("d", [victim])
                journal.gone.add(victim)


@contextmanager
def killing(every_s: float, kill: Callable[[], None]) -> Iterator[None]:
    """Call `kill` on a thread of its own, again and again during the block."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            kill()

    thread = threading.Thread(target=run, name="killer")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def work(replicas: Cluster, seconds: float, kills: list[tuple[float, Callable[[], None]]]) -> list[Journal]:
    """Let clients work for a while, while replicas are killed, and each of `kills` happens at its time; return the journals."""
    stop = threading.Event()
    workers = [Worker(number, replicas.address, stop) for number in range(CLIENTS)]
    source = random.Random(15)

    def kill_one() -> None:
        number = source.randrange(len(replicas.proxies))
        replicas.kill(number)
        replicas.start(number)

    begun_s = time.monotonic()
    for worker in workers:
        worker.start()
    with killing(KILL_EVERY_S, kill_one):
        for after_s, kill in kills:
            time.sleep(max(0.0, begun_s + after_s - time.monotonic()))
            kill()
        time.sleep(max(0.0, begun_s + seconds - time.monotonic()))
    stop.set()
    for worker in workers:
        worker.join(2 * RETRY_S)
        assert not worker.is_alive(), f"{worker.name} hangs"
    failures = [worker.failure for worker in workers if worker.failure is not None]
    assert not failures, "\n".join(map(repr, failures))
    return [worker.journal for worker in workers]


def check(client: tensorus.Client, journals: list[Journal]) -> None:
    """Compare what is there with what must be."""
    listed = [info.id for info in client.list("d")]
    found = set(listed)
    assert len(listed) == len(found)
    stored = set().union(*(journal.stored for journal in journals))
    assert stored - found == set()
    assert found - set().union(*(journal.tried for journal in journals)) == set()
    assert found & set().union(*(journal.gone for journal in journals)) == set()
    for record in client.get_many("d", sorted(found), as_="numpy"):
        assert_same_bits(record.tensor, content(record.info.id))


def create(address: str) -> None:
    """Create the dataset. The first call of a client is not retried, so all replicas must be up."""
    with tensorus.connect(address, tune_allocator=False) as client:
        client.create_dataset("d", exist_ok=True)


@contextmanager
def replicas_of(folder: Path, count: int, server: PostgresServer, chunks: str) -> Iterator[Cluster]:
    """Run replicas on a database and an object store."""
    with Cluster(
        folder,
        catalogue=server.dsn(),
        chunks=[chunks] * count,
        environment={"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY},
        cache=True,
    ) as replicas:
        create(replicas.address)
        yield replicas


def restart(server: PostgresServer | Seaweed) -> Callable[[], None]:
    """Return a function that kills a server and starts it again."""

    def kill_and_start() -> None:
        server.kill()
        server.start()

    return kill_and_start


def wait_for_no_orphans(endpoint: str, server: PostgresServer) -> float:
    """Wait until the object store has nothing that no row needs, and return how long that took, in seconds."""
    begun_s = time.monotonic()
    while left := orphans(endpoint, PREFIX, server.dsn()):
        if time.monotonic() - begun_s > ORPHANS_S:
            known = "\n".join(rows_of(server.dsn(), name) for name in sorted(left)[:5])
            pytest.fail(f"{len(left)} orphans after {ORPHANS_S:.0f} s:\n{known}")
        time.sleep(1.0)
    return time.monotonic() - begun_s


def run(
    folder: Path,
    server: PostgresServer,
    endpoint: str,
    *,
    chunks: str,
    seconds: float,
    kill_objects: Callable[[], None],
) -> None:
    """Let clients work while everything is killed, and check what is there afterwards."""
    with replicas_of(folder, 3, server, chunks) as replicas:
        restart_database = restart(server)
        kills = [(0.25 * seconds, restart_database), (0.5 * seconds, kill_objects), (0.75 * seconds, restart_database)]
        journals = work(replicas, seconds, kills)
        with tensorus.connect(replicas.address, retry_timeout_s=RETRY_S, tune_allocator=False) as client:
            check(client, journals)
        waited_s = wait_for_no_orphans(endpoint, server)
    inserted = sum(len(journal.stored) + len(journal.gone) for journal in journals)
    reads = sum(journal.reads for journal in journals)
    _log.info("%d inserted, %d read at once, no orphans after %.0f s", inserted, reads, waited_s)
    assert inserted > CLIENTS
    assert reads == inserted


def test_nothing_acknowledged_is_lost_whatever_is_killed(tmp_path: Path) -> None:
    seaweed = Seaweed(tmp_path / "seaweed", volume_mb=1024)
    try:
        with own_server() as server:
            run(
                tmp_path,
                server,
                seaweed.endpoint,
                chunks=seaweed.url(PREFIX),
                seconds=30.0,
                kill_objects=restart(seaweed),
            )
    finally:
        seaweed.close()


@pytest.mark.long
def test_nothing_acknowledged_is_lost_on_a_cluster(tmp_path: Path) -> None:
    with SeaweedCluster(tmp_path / "cluster") as cluster, own_server() as server:

        def restart_volume() -> None:
            cluster.kill("volume-1")
            time.sleep(10.0)
            cluster.start_volume(1)

        run(
            tmp_path,
            server,
            cluster.endpoint(0),
            chunks=cluster.url(0, PREFIX),
            seconds=300.0,
            kill_objects=restart_volume,
        )
