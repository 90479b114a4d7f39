"""tensorus verify and tensorus df: tables, JSON, exit codes; and tensorus gc --now beside a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tensorus
from contract.chunk_store_raw import RawFolder
from support.arrays import random_bits
from support.client import run_command
from support.engine import wait_for_purge
from support.servers import engine_config, running_server
from support.verifying import flip
from tensorus.embedded import EmbeddedBackend
from tensorus_server.processes.server import Server

pytestmark = pytest.mark.usefixtures("few_shards")

IN_A_FILE = random_bits("uint8", (200_000,))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The folder of a store with two tensors in files and one in the catalogue, and damage in "file 1"."""
    found = tmp_path / "store"
    backend = EmbeddedBackend(found, engine_config)
    with tensorus.Client(backend) as client:
        client.create_dataset("d", preset="none")
        for number in range(2):
            client.insert("d", IN_A_FILE + number, id=f"file-{number}")
        client.insert("d", np.arange(10), id="row")
        key = backend._engine.get_tensor("d", "file-1").locator.key
    flip(found / "chunks" / key, 50)
    return found


@pytest.fixture(params=["folder", "server"])
def place(request: pytest.FixtureRequest, store: Path) -> Iterator[list[str]]:
    """The options that name the store to a command."""
    if request.param == "folder":
        yield ["--store", str(store)]
        return
    with running_server(store) as server:
        yield ["--server", server.address]


def test_damage_is_shown_in_a_table_and_is_exit_code_1(place: list[str]) -> None:
    ran = run_command("verify", *place)
    assert (ran.exit_code, ran.errors) == (1, "")
    head, row, empty, summary = ran.output.splitlines()
    assert head.split() == ["dataset", "id", "generation", "chunk", "file", "damage"]
    dataset, tensor_id, _, chunk, file, *message = row.split()
    assert (dataset, tensor_id, chunk) == ("d", "file-1", "0")
    assert file.startswith("chunks/")
    assert " ".join(message).startswith("CRC32C of chunk 0 is")
    assert empty == ""
    assert summary == "3 tensors verified, 391.1 KiB stored: 1 damage in 1 tensor"


def test_what_is_intact_is_exit_code_0(place: list[str]) -> None:
    for arguments in (["d", "file-0", "row"], ["d", "file-0", "row", "--bytes-per-second", "10GiB"]):
        ran = run_command("verify", *arguments, *place)
        assert (ran.exit_code, ran.errors) == (0, "")
        assert ran.output == "2 tensors verified, 195.6 KiB stored: no damage\n"


def test_json_has_the_whole_report(place: list[str]) -> None:
    ran = run_command("verify", "--json", *place)
    assert (ran.exit_code, ran.errors) == (1, "")
    report = json.loads(ran.output)
    assert (report["tensors"], report["damaged_tensors"], report["damage_count"], report["orphans"]) == (3, 1, 1, 0)
    (damage,) = report["damages"]
    assert damage.keys() == {"dataset", "id", "generation", "chunk", "file", "reason", "message"}
    assert (damage["dataset"], damage["id"], damage["chunk"], damage["reason"]) == ("d", "file-1", 0, "DATA_CORRUPT")
    intact = json.loads(run_command("verify", "d", "row", "--json", *place).output)
    assert (intact["tensors"], intact["damages"], intact["orphans"]) == (1, [], None)


def test_what_is_not_there_is_exit_code_3(place: list[str]) -> None:
    for arguments in (["nowhere"], ["d", "row", "nothing"]):
        ran = run_command("verify", *arguments, *place)
        assert (ran.exit_code, ran.output) == (3, "")
        assert ran.errors.startswith("tensorus: there is no such")


@pytest.mark.parametrize("size", ["0", "fast"])
def test_a_rate_that_is_none_is_refused(place: list[str], size: str) -> None:
    assert run_command("verify", "--bytes-per-second", size, *place).exit_code in {1, 2}


def test_df_shows_the_sizes_of_the_store(place: list[str]) -> None:
    ran = run_command("df", *place)
    assert (ran.exit_code, ran.errors) == (0, "")
    tensors, *rest = [line for line in ran.output.splitlines() if line]
    assert tensors == "3 tensors in 1 dataset"
    assert [" ".join(line.split()) for line in rest[:3]] == [
        "values stored",
        "each tensor by itself 390.7 KiB 391.1 KiB",
        "equal bytes once 390.7 KiB 391.1 KiB",
    ]
    lines = dict(line.split(maxsplit=1) for line in rest[3:])
    assert lines.keys() == {"past", "catalogue", "garbage", "quarantine", "uploads", "free"}
    assert lines["past"] == "0 B of 0 replaced or deleted tensors, 0 snapshots"
    assert (lines["garbage"], lines["quarantine"]) == ("none", "none")
    assert " of " in lines["free"]


def test_df_shows_garbage_until_it_is_collected(place: list[str], store: Path) -> None:
    assert run_command("rm", "d", "file-0", *place).exit_code == 0
    found = json.loads(run_command("df", "--json", *place).output)
    assert (found["garbage_payloads"], found["garbage_bytes_estimated"], found["tensors"]) == (1, False, 2)
    assert found["garbage_bytes"] > IN_A_FILE.nbytes
    line = next(line for line in run_command("df", *place).output.splitlines() if line.startswith("garbage"))
    assert "KiB in 1 payload, until 20" in line
    assert run_command("gc", store, "--now").exit_code == 0
    assert json.loads(run_command("df", "--json", *place).output)["garbage_payloads"] == 0


def test_gc_now_frees_the_space_of_deleted_tensors_beside_a_server(fresh_server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with tensorus.connect(fresh_server.address) as client:
        for first, name in ((0, "d"), (3, "deleted")):
            client.create_dataset(name, preset="none")
            client.insert_many(name, [(f"t{number}", IN_A_FILE + first + number) for number in range(3)])
        client.delete("d", "t0")
        client.delete_dataset("deleted")
        wait_for_purge(fresh_server._engine)
        assert len(RawFolder(folder).published()) == 6
        ran = run_command("gc", folder, "--now")
        assert (ran.exit_code, ran.errors) == (0, "")
        assert ran.output.startswith("4 payloads of deleted tensors removed")
        assert len(RawFolder(folder).published()) == 2
        assert client.store_stats().garbage_payloads == 0
        assert client.verify().is_intact
