"""The catalogue works behind pgbouncer in transaction mode, which gives each transaction another connection."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from support.engine import commit, create, ids_of, stored_tensor
from support.postgres import run_as, shared_server
from support.tools import skip
from tensorus_server.catalogue.postgres import PostgresCatalogue
from tensorus_server.filter.tree import Compare, Key, Operator

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture
def bouncer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a pgbouncer with three connections to the server."""
    if PROGRAM is None:
        skip("needs apt-get install pgbouncer")
    server = shared_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(server.socket_folder)
    (folder / "users").write_text('"postgres" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
postgres = host={folder} port={server.port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 3
"""
    )
    with run_as(server.user, [PROGRAM, str(folder / "pgbouncer.ini")]) as process:
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres?schema=bounced&pgbouncer=true"
        _wait_for(url.partition("?")[0], process)
        yield url


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert process.poll() is None
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        else:
            return


def test_many_clients_of_few_connections_insert_and_read(bouncer: str) -> None:
    catalogues = [PostgresCatalogue(bouncer) for _ in range(3)]
    dataset = create(catalogues[0])

    def work(number: int) -> None:
        catalogue = catalogues[number % 3]
        for step in range(10):
            # Groups are copied, single tensors inserted; statements are repeated more often than it takes to prepare them.
            group = [
                stored_tensor(dataset, f"{number}-{step}-{place}", metadata={"step": float(step)})
                for place in range(1 if step % 2 else 10)
            ]
            commit(catalogue, *group)
            found = catalogue.tensors.get("dataset", [stored.new.id for stored in group], with_payloads=True)
            assert all(tensor is not None and not isinstance(tensor, Exception) for tensor in found)

    with ThreadPoolExecutor(9) as threads:
        list(threads.map(work, range(9)))
    assert catalogues[0].totals().sizes.tensors == 9 * 55
    assert len(ids_of(catalogues[1], "dataset", Compare(Key("step"), Operator.EQUAL, 3.0))) == 9
    with catalogues[0]._database.read(timed=False) as connection:
        seqs = [seq for (seq,) in connection.scan("SELECT seq FROM tensor ORDER BY seq")]
    assert seqs == list(range(1, 9 * 55 + 1))
    for catalogue in catalogues:
        catalogue.close()
