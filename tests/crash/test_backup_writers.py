"""Backups that are made while two processes insert, edit, delete and sweep without any grace period."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tensorus
from support.client import run_command
from support.interrupted import wait_until
from tensorus_server.backup.create import create_backup
from tensorus_server.backup.restoring import restore_backup

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

ROUNDS = 4

WRITER = """
import sys
import numpy as np
import tensorus
from functools import partial
from tensorus.embedded import EmbeddedBackend
from tensorus_server.config import EngineConfig

folder, name = sys.argv[1:]
# Sweeps delete at once what is deleted.
configure = partial(EngineConfig, delete_grace_s=0.0, reserve_bytes=0, reserve_share=0.0)
backend = EmbeddedBackend(folder, configure)
random = np.random.default_rng(ord(name))
with tensorus.Client(backend) as client:
    client.create_dataset("d", preset="none", exist_ok=True)
    number = 0
    while True:
        number += 1
        kept = client.insert("d", random.random((160, 128)), id=f"{name}{number}")
        edited = client.append("d", kept.id, random.random((160, 128)))
        # What is replaced and deleted at once is what a backup could miss.
        client.insert("d", random.random((160, 128)), id=f"{name}-short-lived", on_conflict="replace")
        if number % 3 == 0:
            client.delete("d", f"{name}-short-lived")
        if number > 20 and number % 2:
            client.delete("d", f"{name}{number - 20}")
            print("deleted", f"{name}{number - 20}", "-", flush=True)
        backend._engine.sweep(in_grace=True)
        print("stored", edited.id, edited.value_checksum, flush=True)
"""


class Writer:
    """A process that writes, and what it has acknowledged so far."""

    def __init__(self, store: Path, name: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store), name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[tuple[str, str, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, tensor_id, checksum = line.split()
            self.lines.append((what, tensor_id, checksum))

    def kill(self) -> None:
        self.process.kill()
        self._reader.join()
        self.process.communicate()


def acknowledged(writers: list[Writer], counts: list[int]) -> dict[str, str]:
    """Return the checksums of the tensors that the first lines of each writer acknowledge and no line deletes."""
    deleted = {tensor_id for writer in writers for what, tensor_id, _ in writer.lines if what == "deleted"}
    # A deletion is acknowledged after it is done.
    stored = {
        tensor_id: checksum
        for writer, count in zip(writers, counts, strict=True)
        for what, tensor_id, checksum in writer.lines[:count]
        if what == "stored"
    }
    return {tensor_id: checksum for tensor_id, checksum in stored.items() if tensor_id not in deleted}


def test_backups_are_complete_while_processes_write_and_sweep(tmp_path: Path) -> None:
    store = tmp_path / "store"
    writers = [Writer(store, name) for name in "ab"]
    backups: list[tuple[Path, dict[str, str]]] = []
    try:
        for number in range(ROUNDS):
            before = [len(writer.lines) for writer in writers]
            wait_until(
                lambda before=before: all(
                    len(writer.lines) > count + 5 or writer.process.poll() is not None
                    for writer, count in zip(writers, before, strict=True)
                )
            )
            counts = [len(writer.lines) for writer in writers]
            # Copies and links, new backups and one that is brought up to date.
            backup = tmp_path / f"backup-{number % 3}"
            create_backup(store, backup, version="1", links=number % 2 == 0)
            restored = tmp_path / f"restored-{number}"
            restore_backup(backup, restored)
            # A tensor may have been deleted in the backup before its deletion was acknowledged: let that come first.
            after = [len(writer.lines) for writer in writers]
            wait_until(
                lambda after=after: all(
                    len(writer.lines) > count + 2 or writer.process.poll() is not None
                    for writer, count in zip(writers, after, strict=True)
                )
            )
            backups.append((restored, acknowledged(writers, counts)))
            assert run_command("backup", "verify", backup).exit_code == 0
        assert all(writer.process.poll() is None for writer in writers), [
            writer.process.communicate()[1] for writer in writers if writer.process.poll() is not None
        ]
    finally:
        for writer in writers:
            writer.kill()
    for restored, expected in backups:
        assert expected
        with tensorus.open(restored) as client:
            report = client.verify()
            assert report.is_intact, report
            found = {info.id: info.value_checksum for info in client.list("d")}
        assert expected.items() <= found.items(), json.dumps({**expected})
    assert run_command("verify", "--store", store).exit_code == 0
