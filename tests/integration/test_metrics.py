"""What a server tells Prometheus is right, complete, and never goes backwards."""

from __future__ import annotations

import math
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509

import tensorus
from support.certificates import server_pair, write_tls
from support.interrupted import wait_until
from support.servers import ServerProcess, running_server
from support.tools import require_tools
from support.verifying import flip
from support.workers import wait_for_workers, worker_pids
from tensorus_server.metrics.board import PLACES, Board
from tensorus_server.metrics.exposition import Exposition
from tensorus_server.metrics.families import FAMILIES, Kind

OFTEN_ABSENT = {
    "tensorus_certificate_expiry_timestamp_seconds",
    "tensorus_cache_stored_bytes",
    "tensorus_postgres_connections_used",
    "tensorus_postgres_connections_idle",
    "tensorus_postgres_connections_max",
}
"""Only servers with TLS, with a cache, or with PostgreSQL have these."""


def free_address() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


class Watched:
    """A server with metrics."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.metrics = free_address()
        self.process = ServerProcess(folder, workers=workers, grace_s=1.0, options=("--metrics-listen", self.metrics))
        self.address = self.process.address

    def text(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            text: bytes = answer.read()
        return text.decode()

    def value(self, series: str) -> float:
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.text(), re.MULTILINE)
        return -1.0 if found is None else float(found[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    watched = Watched(tmp_path_factory.mktemp("metrics") / "store")
    with tensorus.connect(watched.address) as client:
        client.create_dataset("secret-name", preset="none")
        client.insert("secret-name", np.arange(100_000, dtype="float32"), id="secret-id")
        client.get("secret-name", "secret-id", as_="numpy")
        with pytest.raises(tensorus.errors.NotFoundError):
            client.get("secret-name", "missing-id")
    yield watched
    watched.process.terminate()


def test_calls_bytes_and_errors_are_counted(server: Watched) -> None:
    wait_until(lambda: server.value("tensorus_committed_tensors_total") == 1)
    assert server.value("tensorus_read_bytes_total") == 400_000
    assert server.value('tensorus_calls_total{method="Insert",reason="OK"}') == 1
    assert server.value('tensorus_calls_total{method="CreateDataset",reason="OK"}') == 1
    assert server.value('tensorus_call_duration_seconds_count{method="Insert"}') == 1
    assert server.value("tensorus_inserted_bytes_total") == 400_000
    assert server.value("tensorus_commit_duration_seconds_count") == 1
    assert server.value("tensorus_sync_duration_seconds_count") >= 2
    assert 400_000 < server.value('tensorus_received_bytes_total{method="Insert"}') < 402_000
    assert 400_000 < server.value('tensorus_sent_bytes_total{method="Get"}') < 402_000
    wait_until(lambda: server.value('tensorus_errors_total{method="Get",reason="TENSOR_NOT_FOUND"}') == 1)
    assert server.value('tensorus_open_calls{method="Insert"}') == 0


def test_the_sizes_of_the_store_are_looked_up(server: Watched) -> None:
    wait_until(lambda: server.value("tensorus_store_datasets") >= 0)
    assert server.value("tensorus_disk_size_bytes") > server.value("tensorus_disk_free_bytes") > 0
    assert server.value("tensorus_healthy") == 1
    assert server.value("tensorus_draining") == 0
    wait_until(lambda: server.value("tensorus_sweep_duration_seconds_count") >= 1)


def test_every_metric_is_there_with_its_help_and_its_kind(server: Watched) -> None:
    wait_until(lambda: server.value("tensorus_store_datasets") >= 0)
    text = server.text()
    kinds = {Kind.COUNTER: "counter", Kind.HISTOGRAM: "histogram"}
    for family in FAMILIES:
        if family.name not in OFTEN_ABSENT:
            assert f"# HELP {family.name} {family.help}\n" in text
            assert f"# TYPE {family.name} {kinds.get(family.kind, 'gauge')}\n" in text
    for name in re.findall(r"^([a-z_]+)(?:\{| )", text, re.MULTILINE):
        family_name = re.sub(r"_(bucket|sum|count)$", "", name)
        assert f"# HELP {family_name} " in text or f"# HELP {name} " in text


def test_no_name_of_what_is_stored_is_shown(server: Watched) -> None:
    text = server.text()
    assert "secret-name" not in text
    assert "secret-id" not in text
    assert "missing-id" not in text


def test_promtool_finds_nothing_to_complain_about(server: Watched) -> None:
    require_tools("promtool")
    found = subprocess.run(
        ["promtool", "check", "metrics"],
        input=server.text(),
        text=True,
        capture_output=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_damage_that_a_read_comes_upon_is_counted(tmp_path: Path) -> None:
    board = Board()
    place = PLACES["tensorus_damage_found_total"].start
    with running_server(tmp_path / "store", board=board) as server, tensorus.connect(server.address) as client:
        assert server._sampler is not None
        before = board.values[place]
        client.create_dataset("d", preset="none")
        client.insert("d", np.arange(100_000, dtype="float32"), id="damaged")
        client.insert("d", np.arange(10), id="whole")
        (payload,) = [path for path in (tmp_path / "store" / "chunks").glob("*/*") if path.is_file()]
        flip(payload, 5000)
        with pytest.raises(tensorus.errors.DataCorruptError):
            client.get("d", "damaged")
        client.get("d", "whole")
        server._sampler.sample()
        assert board.values[place] == before + 1
        client.verify()
        server._sampler.sample()
        assert board.values[place] == before + 2


def test_requests_to_an_object_store_and_its_cache_are_counted(tmp_path: Path) -> None:
    board = Board()
    exposition = Exposition()
    exposition.add(1, board)
    with running_server(tmp_path / "s", board=board, chunks="memory://bucket", cache_dir=tmp_path / "cache") as server:
        assert server._sampler is not None
        with tensorus.connect(server.address) as client:
            client.create_dataset("d", preset="none")
            client.insert("d", np.arange(100_000, dtype="float32"), id="a")
            client.get("d", "a")
        server._sampler.sample()
        text = exposition.text().decode()
    for series in ('object_store_requests_total{request="put"}', "cache_misses_total", "cache_miss_bytes_total"):
        (value,) = re.findall(rf"^tensorus_{re.escape(series)} (\S+)$", text, re.MULTILINE)
        assert float(value) >= 1, series


def test_the_end_of_the_certificate_is_told(tmp_path: Path) -> None:
    board = Board()
    pair = server_pair()
    with running_server(tmp_path / "store", board=board, tls=write_tls(tmp_path, pair)) as server:
        assert server._sampler is not None
        expires = x509.load_pem_x509_certificate(pair.cert).not_valid_after_utc
        found = board.values[PLACES["tensorus_certificate_expiry_timestamp_seconds"].start]
        assert found == expires.timestamp()


@pytest.mark.parametrize("sweeps", [True, False])
def test_only_a_process_that_sweeps_says_when_it_did_so(tmp_path: Path, *, sweeps: bool) -> None:
    board = Board()
    with running_server(tmp_path / "store", board=board, sweeps=sweeps) as server:
        assert server._sampler is not None
        found = board.values[PLACES["tensorus_sweep_last_success_timestamp_seconds"].start]
        assert math.isnan(found) is not sweeps


def test_a_server_that_drains_says_so_and_its_probe_fails(tmp_path: Path) -> None:
    board = Board()
    with running_server(tmp_path / "store", board=board) as server:
        assert server._sampler is not None
        assert server.is_serving
        assert board.values[PLACES["tensorus_draining"].start] == 0
        server._admission.drain(0.0)
        server._sampler.sample()
        assert board.values[PLACES["tensorus_draining"].start] == 1
        assert not server.is_serving


def test_a_store_that_failed_says_so_and_its_probe_fails(tmp_path: Path) -> None:
    board = Board()
    with running_server(tmp_path / "store", board=board) as server:
        assert server._sampler is not None
        server._engine._health.fail("a test", RuntimeError("on purpose"))
        server._sampler.sample()
        assert board.values[PLACES["tensorus_healthy"].start] == 0
        assert not server.is_serving


@pytest.mark.slow
def test_counters_of_workers_go_on_when_one_is_killed(tmp_path: Path) -> None:
    server = Watched(tmp_path / "store", workers=2)
    try:
        done = 0

        def insert(count: int) -> None:
            nonlocal done
            # Each client has a connection of its own, which the kernel gives to either worker.
            for _ in range(count):
                with tensorus.connect(server.address) as client:
                    client.insert("d", np.arange(10), id=str(done))
                done += 1

        with tensorus.connect(server.address) as client:
            client.create_dataset("d")
        insert(20)
        series = 'tensorus_calls_total{method="Insert",reason="OK"}'
        wait_until(lambda: server.value(series) == 20)
        victim = worker_pids(server.process)[0]
        os.kill(victim, signal.SIGKILL)
        wait_for_workers(server.process, 2, without=victim)
        # It listens before it serves.
        wait_until(lambda: server.value("tensorus_workers_serving") == 2)
        assert server.value(series) == 20
        insert(10)
        wait_until(lambda: server.value(series) == 30)
        assert server.value("tensorus_workers") == 2
        assert server.value("tensorus_worker_restarts_total") == 1
        wait_until(lambda: server.value("tensorus_store_tensors") >= 0)
        # Twice the share of each worker, not the budget of the one that is left.
        assert server.value("tensorus_memory_budget_bytes") == 1024**3
    finally:
        server.process.terminate()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_for_metrics_that_is_taken_is_an_error_at_the_start(tmp_path: Path, workers: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "tensorus", "serve", "--listen", "127.0.0.1:0", "--workers", str(workers)]
        done = subprocess.run(
            [*command, "--data-dir", str(tmp_path / "store"), "--metrics-listen", address],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 4
    assert f"cannot listen on {address} for metrics (metrics_listen): Address already in use" in done.stderr
    assert not (tmp_path / "store").exists()
