"""A disk that is really full: inserts are refused, what is stored stays readable, and room that is made can be used."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import tensorus
from support.arrays import assert_same_bits, random_bits
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
