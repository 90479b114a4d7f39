"""tensorus backup: create, verify and restore, while nothing goes wrong, and where something does."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorus
from support.arrays import assert_same_bits, normal, random_bits
from support.client import Ran, run_command
from support.interrupted import wait_until
from support.servers import engine_config, running_server
from tensorus_server.app import open_engine
from tensorus_server.backup import create as creating
from tensorus_server.backup.checking import missing_payloads
from tensorus_server.backup.errors import BackupError
from tensorus_server.backup.manifest import find_manifest
from tensorus_server.chunk_store import backup_lock
from tensorus_server.chunk_store.backup_lock import BackupLock
from tensorus_server.chunk_store.files import Files

pytestmark = pytest.mark.usefixtures("few_shards")


def fill(folder: Path, count: int = 4, seed: int = 0) -> None:
    """Store tensors of about 400 KB each, a small one, and what needs several payloads."""
    with tensorus.open(folder) as client:
        client.create_dataset("d", preset="lossless", exist_ok=True)
        for number in range(seed, seed + count):
            client.insert("d", random_bits("float32", (100, 1000), number), id=f"t{number}")
        if not seed:
            client.insert("d", normal((3,)), id="small")
            client.append("d", "t0", normal((10, 1000)))
            client.insert("d", random_bits("float32", (100, 1000), 1), id="delta", base="t1")
            client.snapshot("d", "before")
            client.delete("d", "t1")


def made(*arguments: object) -> dict[str, Any]:
    ran = run_command("backup", *arguments, "--json")
    assert ran.exit_code == 0, ran.errors
    found: dict[str, Any] = json.loads(ran.output)
    return found


def refused(*arguments: object) -> Ran:
    ran = run_command("backup", *arguments)
    assert ran.exit_code == 1, (arguments, ran)
    assert not ran.output
    return ran


def contents(folder: Path) -> dict[str, str]:
    """Return the value checksums of a store's tensors by id, now and in the snapshot, after a verification."""
    with tensorus.open(folder) as client:
        report = client.verify()
        assert report.is_intact
        assert not report.orphans
        past = {f"{info.id}@before": info.value_checksum for info in client.list("d", at="before")}
        return past | {info.id: info.value_checksum for info in client.list("d")}


@pytest.mark.parametrize("option", [[], ["--copy"]], ids=["linked", "copied"])
def test_a_restored_backup_has_every_tensor_of_every_state_and_a_life_of_its_own(
    option: list[str], tmp_path: Path
) -> None:
    store, backup, restored = tmp_path / "store", tmp_path / "backup", tmp_path / "restored"
    fill(store)
    with running_server(store):
        # The server has the store open, and the log has commits.
        report = made("create", store, backup, *option)
    payloads = report["manifest"]["payloads"]
    assert (report["linked"], report["copied"]) == ((0, payloads) if option else (payloads, 0))
    assert run_command("backup", "verify", backup).exit_code == 0
    before = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    assert made("restore", backup, restored, *option)["manifest"] == report["manifest"]
    assert contents(restored) == contents(store)
    with tensorus.open(restored) as client:
        client.delete_dataset("d", drop_snapshots=True)
    assert run_command("gc", restored, "--now").exit_code == 0
    assert {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()} == before
    assert run_command("backup", "verify", backup).exit_code == 0
    assert contents(store)


def test_a_second_backup_brings_only_what_is_new_and_removes_what_nothing_needs(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    fill(store)
    first = made("create", store, backup, "--copy")
    fill(store, 2, seed=10)
    with tensorus.open(store) as client:
        client.drop_snapshot("d", "before")
        client.delete("d", ["t2", "t3"])
    assert run_command("gc", store, "--now").exit_code == 0
    second = made("create", store, backup, "--copy")
    assert second["copied"] == 2
    assert second["present"] == second["manifest"]["payloads"] - 2
    assert second["removed"] == first["manifest"]["payloads"] - second["present"] > 0
    files = [path for path in (backup / "chunks").glob("??/*") if path.is_file()]
    assert len(files) == second["manifest"]["payloads"]
    assert run_command("backup", "verify", backup).exit_code == 0


def test_a_backup_can_be_opened_as_a_store_but_is_then_no_backup_any_more(tmp_path: Path) -> None:
    fill(tmp_path / "store")
    made("create", tmp_path / "store", tmp_path / "backup")
    assert contents(tmp_path / "backup") == contents(tmp_path / "store")
    with tensorus.open(tmp_path / "backup") as client:
        client.insert("d", normal((5,)), id="new")
    for arguments in (("verify", tmp_path / "backup"), ("create", tmp_path / "store", tmp_path / "backup")):
        assert "is not the one that was backed up" in refused(*arguments).errors


def test_no_sweep_deletes_payloads_while_a_backup_has_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    with closing(open_engine(engine_config(store, delete_grace_s=0.0, sweeps=False))) as engine:
        engine.create_dataset("d")
        with tensorus.open(store) as client:
            client.insert("d", random_bits("float32", (100, 1000)), id="t")
            client.delete("d", "t")
        with BackupLock(store).alone():
            assert engine.sweep(in_grace=True).deleted == 0
            monkeypatch.setattr(backup_lock, "_WAIT_S", 0.0)
            ran = run_command("backup", "create", store, tmp_path / "backup")
            assert ran.exit_code == 4
            assert "another backup of this store is running" in ran.errors
        assert engine.sweep(in_grace=True).deleted == 1


def test_a_backup_without_a_payload_that_the_catalogue_names_fails(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    # Without the tensors that need several payloads, whose sizes no row tells.
    fill(store, seed=1)
    lost = sorted(path for path in (store / "chunks").glob("??/*") if path.is_file())[1]
    content = lost.read_bytes()
    for damage, message in ((lost.unlink, "is missing"), (lambda: lost.write_bytes(content[:1000]), "has 1000 bytes")):
        damage()
        ran = refused("create", store, backup)
        assert f"the payload chunks/{lost.parent.name}/{lost.name} {message}" in ran.errors
        assert "there is no complete backup" in refused("verify", backup).errors
        assert "there is no complete backup" in refused("restore", backup, tmp_path / "restored").errors
    lost.write_bytes(content)
    made("create", store, backup)
    assert run_command("backup", "verify", backup).exit_code == 0


def test_damage_of_a_backup_is_found(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    fill(store)
    made("create", store, backup, "--copy")
    payloads = sorted(path for path in (backup / "chunks").glob("??/*") if path.is_file())
    content = bytearray(payloads[0].read_bytes())
    content[5000] ^= 1
    payloads[0].write_bytes(content)
    payloads[1].unlink()
    ran = run_command("backup", "verify", backup)
    assert ran.exit_code == 1
    assert payloads[0].name in ran.output
    assert f"chunks/{payloads[1].parent.name}/{payloads[1].name} is missing" in ran.errors
    assert "The backup is damaged" in refused("restore", backup, tmp_path / "restored").errors
    assert not (tmp_path / "restored/catalogue.db").exists()
    with (backup / "catalogue.db").open("r+b") as file:
        file.seek(5000)
        file.write(b"?")
    assert "is not the one that was backed up" in refused("verify", backup).errors


class _Killed(BaseException):
    """Ends the process, as far as the code under test can see."""


def test_wherever_an_update_ends_there_is_a_complete_backup_of_one_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    fill(store)
    made("create", store, backup)
    seen = set()
    for fault in range(300):
        with tensorus.open(store) as client:
            client.insert("d", random_bits("float32", (100, 1000), 20 + fault), id="new", on_conflict="replace")
        before = find_manifest(backup)
        steps = iter(range(1000))

        def killed_at(call: Any, steps: Any = steps, fault: int = fault) -> Any:
            def step(*arguments: Any, **settings: Any) -> Any:
                if next(steps) == fault:
                    raise _Killed
                return call(*arguments, **settings)

            return step

        with monkeypatch.context() as patched:
            for owner, name in (
                (Files, "sync_folder"), (Files, "sync_data"), (Path, "rename"), (Path, "unlink"), (Path, "hardlink_to"),
                (creating, "write_durably"), (creating, "copy_catalogue"),
            ):  # fmt: skip
                patched.setattr(owner, name, killed_at(getattr(owner, name)))
            try:
                creating.create_backup(store, backup, version="1")
            except _Killed:
                ended = False
            else:
                ended = True
        after = find_manifest(backup)
        assert after is not None
        seen.add(after == before)
        assert not missing_payloads(backup), fault
        if ended:
            break
    else:
        pytest.fail("no update came to its end")
    assert seen == {True, False}
    assert run_command("backup", "verify", backup).exit_code == 0


def test_a_killed_backup_is_no_backup_and_continues_when_it_is_repeated(tmp_path: Path) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    fill(store, 60)
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorus", "backup", "create", str(store), str(backup), "--copy"],
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: process.poll() is not None or len([*(backup / "chunks").glob("??/*")]) >= 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (backup / "backup.json").exists():
        assert "its first `tensorus backup create` did not end" in refused("verify", backup).errors
        assert "there is no complete backup" in refused("restore", backup, tmp_path / "restored").errors
    report = made("create", store, backup, "--copy")
    assert report["present"] >= 4
    assert not [*(backup / "chunks").glob("??/*.part")]
    assert run_command("backup", "verify", backup).exit_code == 0


def test_an_interrupted_restore_is_no_store_and_continues_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backup, restored = tmp_path / "store", tmp_path / "backup", tmp_path / "restored"
    fill(store)
    made("create", store, backup)
    links = iter(range(100))
    original = Path.hardlink_to

    def link(self: Path, target: Path) -> None:
        if next(links) == 2:
            raise OSError(errno.EIO, "input/output error")
        original(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "hardlink_to", link)
        assert "could not restore the backup" in refused("restore", backup, restored).errors
    assert not (restored / "catalogue.db").exists()
    assert made("restore", backup, restored)["present"] >= 1
    assert contents(restored) == contents(store)
    assert "is not empty" in refused("restore", backup, restored).errors


def test_a_disk_that_is_really_full_is_named_and_the_backup_continues_when_there_is_room(tmp_path: Path) -> None:
    store, disk = tmp_path / "store", tmp_path / "disk"
    disk.mkdir()
    fill(store)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system takes root")
    try:
        assert f"the disk of {disk / 'backup'} is full" in refused("create", store, disk / "backup").errors
        assert "there is no complete backup" in refused("verify", disk / "backup").errors
        subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
        report = made("create", store, disk / "backup")
        # The other file system takes no links.
        assert not report["linked"]
        assert report["present"] > 0
        assert run_command("backup", "verify", disk / "backup").exit_code == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("method", ["sync_data", "sync_folder"])
def test_a_full_disk_is_named_and_leaves_the_previous_backup(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, backup = tmp_path / "store", tmp_path / "backup"
    fill(store)
    made("create", store, backup, "--copy")
    before = find_manifest(backup)
    fill(store, 3, seed=10)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Files, method, fail)
        ran = refused("create", store, backup, "--copy")
    assert f"the disk of {backup} is full" in ran.errors
    assert find_manifest(backup) == before
    assert run_command("backup", "verify", backup).exit_code == 0
    assert made("create", store, backup, "--copy")["copied"] == 3


def test_bad_arguments_are_refused_in_words_that_say_what_to_do(tmp_path: Path) -> None:
    store, other, backup = tmp_path / "store", tmp_path / "other", tmp_path / "backup"
    fill(store, 2)
    fill(other, 2)
    made("create", store, backup)
    files = tmp_path / "files"
    files.mkdir()
    (files / "file").touch()
    cases: list[tuple[int, str, tuple[object, ...]]] = [
        (3, "there is no folder", ("create", tmp_path / "nothing", tmp_path / "new")),
        (3, "there is no store in", ("create", files, tmp_path / "new")),
        (1, "is not empty and has no backup in it", ("create", store, files)),
        (1, "is not empty and has no backup in it", ("create", store, other)),
        (1, "are the same folder", ("create", store, store)),
        (1, "is inside the other one", ("create", store, store / "backup")),
        (1, "is inside the other one", ("create", store, tmp_path)),
        (1, "is of another store", ("create", other, backup)),
        (3, "there is no folder", ("verify", tmp_path / "nothing")),
        (1, "there is no complete backup", ("verify", files)),
        (1, "there is no complete backup", ("restore", store, tmp_path / "new")),
        (1, "is not empty", ("restore", backup, files)),
        (1, "are the same folder", ("restore", backup, backup)),
        (2, "is a file", ("create", store, files / "file")),
    ]
    for exit_code, message, arguments in cases:
        ran = run_command("backup", *arguments)
        assert message in ran.errors, (arguments, ran.errors)
        assert ran.exit_code == exit_code, (arguments, ran.errors)
    assert [path.name for path in files.iterdir()] == ["file"]
    assert not (tmp_path / "new").exists()
    assert run_command("backup", "verify", backup).exit_code == 0


def test_a_manifest_that_is_damaged_or_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "store", 2)
    made("create", tmp_path / "store", tmp_path / "backup")
    manifest = tmp_path / "backup/backup.json"
    text = manifest.read_text()
    for damaged in (
        "",
        "{",
        "[]",
        "{}",
        text.replace('"tensors": ', '"tensors": 1'),
        text.replace('"format": 1', '"format": 2'),
    ):
        manifest.write_text(damaged)
        with pytest.raises(BackupError, match=r"backup\.json is damaged"):
            find_manifest(tmp_path / "backup")


def test_values_come_back_with_all_their_bits(tmp_path: Path) -> None:
    values = random_bits("float32", (300, 300))
    with tensorus.open(tmp_path / "store") as client:
        client.create_dataset("d")
        client.insert("d", values, id="t")
        client.insert("d", np.float64(-0.0), id="small")
    made("create", tmp_path / "store", tmp_path / "backup")
    made("restore", tmp_path / "backup", tmp_path / "restored")
    with tensorus.open(tmp_path / "restored") as client:
        assert_same_bits(client.get("d", "t", as_="numpy"), values)
        assert np.signbit(client.get("d", "small", as_="numpy"))
