"""tensorus gc: what is garbage, what waits in quarantine, and what comes back from there."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path

import pytest

import tensorus
from contract.chunk_store_raw import RawFolder
from support.arrays import assert_same_bits, random_bits
from support.client import run_command
from support.servers import engine_config
from tensorus.cli.gc import _Collected, _print_collected
from tensorus.embedded import EmbeddedBackend
from tensorus_server.chunk_store.local import LocalChunkStore

IN_A_FILE = random_bits("uint8", (200_000,))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of three tensors, each in a file of its own."""
    found = tmp_path / "store"
    with tensorus.Client(EmbeddedBackend(found, engine_config)) as client:
        client.create_dataset("d", preset="none")
        for number in range(3):
            client.insert("d", IN_A_FILE[number:], id=f"{number}")
    return found


def set_aside(folder: Path) -> list[str]:
    """Move the payloads of a store to quarantine, and return their keys."""
    store = LocalChunkStore(folder)
    keys = sorted(stored.key for stored in store.published())
    for key in keys:
        store.quarantine.put(key, until_s=time.time() + 3600)
    store.close()
    return keys


def test_the_space_of_deleted_tensors_is_free_at_once_when_asked_for(folder: Path) -> None:
    with tensorus.Client(EmbeddedBackend(folder, engine_config)) as client:
        client.delete("d", ["0", "1"])
    assert len(RawFolder(folder).published()) == 3
    assert run_command("gc", folder).output.startswith("0 payloads of deleted tensors removed")
    assert len(RawFolder(folder).published()) == 3
    ran = run_command("gc", folder, "--now")
    assert (ran.exit_code, ran.errors) == (0, "")
    assert ran.output == (
        "2 payloads of deleted tensors removed, 0 of interrupted inserts, 0 unfinished; 0 moved to quarantine, "
        "0 deleted from it\n"
    )
    assert len(RawFolder(folder).published()) == 1
    assert json.loads(run_command("gc", folder, "--now", "--json").output)["deleted"] == 0


def test_what_is_in_quarantine_is_listed_and_restored(folder: Path) -> None:
    assert run_command("gc", folder, "--list").output == "the quarantine is empty\n"
    keys = set_aside(folder)
    head, *lines = run_command("gc", folder, "--list").output.splitlines()
    assert head.split() == ["key", "bytes", "deleted", "from", "why"]
    assert sorted(line.split()[0] for line in lines) == keys
    assert all(line.endswith("belongs to no tensor") for line in lines)
    ran = run_command("gc", folder, "--restore", keys[0])
    assert ran.output == "1 payload restored; to recover their rows, run tensorus recover\n"
    listed = json.loads(run_command("gc", folder, "--list", "--json").output)
    assert sorted(entry["key"] for entry in listed) == keys[1:]
    assert {"key", "stored_bytes", "until", "why"} == listed[0].keys()
    assert json.loads(run_command("gc", folder, "--restore-all", "--json").output) == [entry["key"] for entry in listed]
    with tensorus.open(folder) as client:
        for number in range(3):
            assert_same_bits(client.get("d", f"{number}", as_="numpy"), IN_A_FILE[number:])


def test_what_is_not_in_quarantine_cannot_be_restored(folder: Path) -> None:
    (key, *_) = set_aside(folder)
    missing = "00/" + "0" * 32
    ran = run_command("gc", folder, "--restore", key, "--restore", missing)
    assert (ran.exit_code, ran.errors) == (3, f"tensorus: no payload in quarantine has the key {missing}\n")
    assert RawFolder(folder).published() == {}


def test_the_quarantine_is_emptied_when_asked_for(folder: Path) -> None:
    set_aside(folder)
    assert "0 deleted from it" in run_command("gc", folder).output
    assert "3 deleted from it" in run_command("gc", folder, "--purge").output
    assert run_command("gc", folder, "--list").output == "the quarantine is empty\n"


def test_a_store_without_its_catalogue_is_refused_until_the_loss_is_accepted(folder: Path) -> None:
    (folder / "catalogue.db").unlink()
    refused = run_command("gc", folder)
    assert refused.exit_code == 4
    assert f"tensorus recover {folder}" in refused.errors
    assert f"tensorus gc {folder} --accept-loss" in refused.errors
    served = run_command("serve", "--data-dir", folder, "--listen", "127.0.0.1:0")
    assert (served.exit_code, served.output) == (4, "")
    assert "there is no catalogue" in served.errors
    with pytest.raises(tensorus.errors.UnavailableError, match="there is no catalogue"):
        tensorus.open(folder)
    assert len(RawFolder(folder).published()) == 3
    accepted = run_command("gc", folder, "--accept-loss")
    assert (accepted.exit_code, accepted.errors) == (0, "")
    assert len(json.loads(run_command("gc", folder, "--list", "--json").output)) == 3


def test_too_many_unknown_payloads_are_a_failure(folder: Path) -> None:
    shards = folder / "chunks"
    for number in range(20):
        path = shards / "00" / f"{number:032x}"
        path.write_bytes(b"x")
        os.utime(path, (1.0, 1.0))
    ran = run_command("gc", folder)
    assert ran.exit_code == 1
    assert "the catalogue does not know 20 of 23 payloads, limit is 11" in ran.errors


@pytest.mark.parametrize("options", [["--list", "--now"], ["--restore", "x", "--purge"], ["--restore-all", "--list"]])
def test_looking_and_deleting_are_not_mixed(folder: Path, options: list[str]) -> None:
    ran = run_command("gc", folder, *options)
    assert ran.exit_code == 2
    assert "cannot be combined" in ran.errors


def test_a_folder_that_is_no_store_is_left_as_it_is(tmp_path: Path) -> None:
    ran = run_command("gc", tmp_path)
    assert (ran.exit_code, ran.errors) == (3, f"tensorus: {tmp_path} is not a store\n")
    assert list(tmp_path.iterdir()) == []


def test_packs_are_told_of_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = dict.fromkeys((field.name for field in fields(_Collected)), 0)
    _print_collected(_Collected(**nothing), as_json=False)
    assert "pack" not in capsys.readouterr().out
    moved = {"packs_deleted": 2, "payloads_moved": 5, "bytes_moved": 3 * 1024 * 1024}
    _print_collected(_Collected(**(nothing | moved)), as_json=False)
    assert (
        "2 packs removed; 5 payloads, 3.0 MiB, moved out of packs that were mostly garbage" in capsys.readouterr().out
    )
