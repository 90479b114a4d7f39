"""Copies while tensors change, and copies whose client, server or destination fails in the middle."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import tensorus
from support.arrays import normal, random_bits
from support.client import run_process
from support.servers import ServerProcess, running_server
from support.store_copies import Meddling, assert_copied, copied, sums
from tensorus._moving.copying import CopyOptions, copy_datasets
from tensorus.embedded import EmbeddedBackend
from tensorus.errors import UnavailableError

pytestmark = pytest.mark.usefixtures("few_shards")


def test_tensors_that_change_or_go_while_they_are_copied_are_copied_as_they_are_then(tmp_path: Path) -> None:
    source = Meddling(tmp_path / "a")
    destination = EmbeddedBackend(tmp_path / "b")
    changed: set[str] = set()
    with tensorus.Client(source) as client, tensorus.Client(destination) as copy:
        client.create_dataset("d")
        for tensor_id in ("large", "large-gone"):
            client.insert("d", normal((600, 600)), id=tensor_id)
        for tensor_id in ("small", "small-gone"):
            client.insert("d", normal((6,)), id=tensor_id)

        def meddle(ids: list[str]) -> None:
            for tensor_id in set(ids) - changed:
                changed.add(tensor_id)
                if tensor_id.endswith("-gone"):
                    client.delete("d", tensor_id)
                else:
                    client.append("d", tensor_id, normal((1, 600) if tensor_id == "large" else (3,)))

        source.before_read = meddle  # type: ignore[method-assign]
        report = copy_datasets(source, destination, CopyOptions())
        assert report.is_complete
        assert (report.datasets[0].copied, report.datasets[0].gone) == (2, 2)
        source.before_read = lambda _: None  # type: ignore[method-assign]
        assert_copied(client, copy, "d")


KILLED = """
import os, signal, sys
import tensorus
from tensorus._moving.copying import CopyOptions, copy_datasets
from tensorus.embedded import EmbeddedBackend

class Killed(EmbeddedBackend):
    def get(self, dataset, ids, part, *, with_data, at=None):
        for number, arrival in enumerate(super().get(dataset, ids, part, with_data=with_data, at=at)):
            if ids == ["007"] and number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield arrival

with tensorus.connect(sys.argv[2]) as copy:
    copy_datasets(Killed(sys.argv[1]), copy._backend, CopyOptions(threads=2))
"""


def test_a_copy_that_was_killed_goes_on_when_it_is_repeated(tmp_path: Path) -> None:
    tensors = 12
    with tensorus.open(tmp_path / "a") as client:
        client.create_dataset("d", preset="none")
        for number in range(tensors):
            client.insert("d", random_bits("float32", (1024, 1024), number), id=f"{number:03}")
    with running_server(tmp_path / "b") as server, tensorus.connect(server.address) as copy:
        killed = run_process([sys.executable, "-c", KILLED, str(tmp_path / "a"), server.address])
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        there = copy.stats("d").tensors
        # Two threads: when the eighth is read, at least six of seven are stored.
        assert 6 <= there < tensors
        report = sums(copied(tmp_path / "a", server.address))
        assert report == {"present": there, "copied": tensors - there}
        with tensorus.open(tmp_path / "a") as client:
            assert_copied(client, copy, "d")


@pytest.mark.filterwarnings("ignore::tensorus.errors.ConnectionLostWarning")
def test_a_copy_goes_on_by_itself_when_the_server_comes_back(tmp_path: Path) -> None:
    source = Meddling(tmp_path / "a")
    servers = [ServerProcess(tmp_path / "b")]
    address = servers[0].address
    restarts = ["00", "07"]

    def restart(ids: list[str]) -> None:
        if restarts and ids == [restarts[0]]:
            del restarts[0]
            servers[-1].kill()
            servers.append(ServerProcess(tmp_path / "b", port=int(address.rpartition(":")[2])))

    try:
        with tensorus.Client(source) as client, tensorus.connect(address) as copy:
            client.create_dataset("d", preset="none")
            for number in range(10):
                client.insert("d", random_bits("float32", (1024, 512), number), id=f"{number:02}")
            source.before_read = restart  # type: ignore[method-assign]
            report = copy_datasets(source, copy._backend, CopyOptions(threads=2))
            assert report.is_complete, report
            assert report.datasets[0].copied == 10
            assert len(servers) == 3
            assert_copied(client, copy, "d")
    finally:
        servers[-1].kill()


def test_the_first_error_of_a_store_ends_a_copy(tmp_path: Path) -> None:
    class Gone(EmbeddedBackend):
        calls = 0

        def insert(self, *_: Any) -> Any:
            Gone.calls += 1
            raise UnavailableError("gone", reason="UNAVAILABLE")

    source, destination = EmbeddedBackend(tmp_path / "a"), Gone(tmp_path / "b")
    with tensorus.Client(source) as client, tensorus.Client(destination):
        client.create_dataset("d")
        for number in range(30):
            client.insert("d", random_bits("float32", (600, 600), number), id=str(number))
        with pytest.raises(UnavailableError, match="gone"):
            copy_datasets(source, destination, CopyOptions(threads=2))
        assert Gone.calls <= 2
