"""A disk that is really full: inserts are refused, what is stored stays readable, and room that is made can be used."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
from support.client import run_command
from support.servers import engine_config
from tensorus.embedded import EmbeddedBackend

DISK_BYTES = 24 * 1024 * 1024


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 24 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("elements", [2_000, 300_000], ids=["inline tensors", "tensors in files"])
def test_a_full_disk_loses_nothing_and_takes_inserts_again(tiny_disk: Path, elements: int) -> None:
    def configure(folder: Path) -> object:
        return engine_config(folder, delete_grace_s=0.0)

    stored: list[str] = []
    backend = EmbeddedBackend(tiny_disk / "store", configure)
    with tensorus.Client(backend) as client:
        client.create_dataset("d", preset="none")
        with pytest.raises(tensorus.errors.StorageFullError, match=r"no space is left on the"):
            fill(client, elements, stored)
        assert len(stored) > 3
        assert {info.id for info in client.list("d")} == set(stored)
        for record in client.get_many("d", stored, as_="numpy"):
            assert_same_bits(record.tensor, content(int(record.info.id), elements))

        # Deleting needs a little room for the catalogue's log; an operator makes it by any means.
        make_room(tiny_disk)
        assert client.delete("d", stored[: len(stored) // 2]) == len(stored) // 2
        backend._engine.sweep()
        client.insert("d", content(-1, elements), id="-1")
        kept = [*stored[len(stored) // 2 :], "-1"]
        for record in client.get_many("d", kept, as_="numpy"):
            assert_same_bits(record.tensor, content(int(record.info.id), elements))


def fill(client: tensorus.Client, elements: int, stored: list[str]) -> None:
    """Insert until it fails, and note what was stored."""
    for number in range(100_000):
        client.insert("d", content(number, elements), id=str(number))
        stored.append(str(number))


def content(number: int, elements: int) -> object:
    return random_bits("float32", (elements,), seed=number % 2**32)


def make_room(disk: Path) -> None:
    """Make the disk larger."""
    subprocess.run(["mount", "-o", f"remount,size={2 * DISK_BYTES}", str(disk)], check=True)
    assert shutil.disk_usage(disk).free > 0


@pytest.mark.parametrize("elements", [2_000, 300_000], ids=["inline tensors", "tensors in files"])
def test_on_a_full_disk_deleting_works_and_its_space_can_be_had_at_once(tiny_disk: Path, elements: int) -> None:
    folder = tiny_disk / "store"
    stored: list[str] = []
    with tensorus.Client(EmbeddedBackend(folder, engine_config)) as client:
        client.create_dataset("d", preset="none")
        with pytest.raises(tensorus.errors.StorageFullError):
            fill(client, elements, stored)
        fill_up(tiny_disk)
        # One by one, and all at once: neither answers STORAGE_FULL.
        assert client.delete("d", stored[:1]) == 1
        assert client.delete("d", stored[1:-1]) == len(stored) - 2
        assert [info.id for info in client.list("d")] == stored[-1:]
    # Whoever makes room must be able to begin.
    fill_up(tiny_disk)
    ran = run_command("gc", folder, "--now")
    assert (ran.exit_code, ran.errors) == (0, "")
    if elements == 300_000:
        assert shutil.disk_usage(tiny_disk).free > DISK_BYTES // 2
    with tensorus.Client(EmbeddedBackend(folder, engine_config)) as client:
        assert_same_bits(client.get("d", stored[-1], as_="numpy"), content(int(stored[-1]), elements))


def test_on_a_full_disk_a_dataset_can_be_deleted(tiny_disk: Path) -> None:
    with tensorus.Client(EmbeddedBackend(tiny_disk / "store", engine_config)) as client:
        client.create_dataset("d", preset="none")
        with pytest.raises(tensorus.errors.StorageFullError):
            fill(client, 2_000, stored := [])
        fill_up(tiny_disk)
        assert client.delete_dataset("d") == len(stored)


@pytest.mark.parametrize("keeps", ["a retention", "a snapshot"])
def test_on_a_full_disk_what_is_kept_can_be_given_up(tiny_disk: Path, keeps: str) -> None:
    retention = dt.timedelta(days=1) if keeps == "a retention" else None
    with tensorus.Client(EmbeddedBackend(tiny_disk / "store", engine_config)) as client:
        client.create_dataset("d", preset="none", retention=retention)
        with pytest.raises(tensorus.errors.StorageFullError):
            fill(client, 300_000, stored := [])
        client.delete("d", stored[:1])
        if retention is None:
            client.snapshot("d", "s")
        assert client.delete("d", stored[1:]) == len(stored) - 1
        fill_up(tiny_disk)
        if retention is None:
            client.drop_snapshot("d", "s")
        else:
            client.update_dataset("d", retention=dt.timedelta(0))
    fill_up(tiny_disk)
    ran = run_command("gc", tiny_disk / "store", "--now")
    assert (ran.exit_code, ran.errors) == (0, "")
    assert shutil.disk_usage(tiny_disk).free > DISK_BYTES // 2


def fill_up(disk: Path) -> None:
    """Leave not a byte to anybody."""
    with (disk / f"filler-{time.monotonic_ns()}").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
