"""The folders that a local store spreads its payloads over, all 256 of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from contract.chunk_store_contract import published
from support.faults import RecordingFiles
from tensorus_server.chunk_store.local import LocalChunkStore


@pytest.fixture(scope="module", autouse=True)
def quick_stores() -> None:
    """Leave the shards as they are: these tests are about them."""


def test_a_new_store_has_256_shards_whose_names_are_durable(tmp_path: Path, files: RecordingFiles) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    LocalChunkStore(folder, files=files).close()
    shards = sorted(path.name for path in (folder / "chunks").iterdir())
    assert shards == [f"{number:02x}" for number in range(256)]
    # From the innermost out: a folder's name is in its parent.
    assert files.calls == [("sync_folder", name) for name in ("chunks", "store", tmp_path.name)]


def test_opening_again_makes_only_what_is_missing(tmp_path: Path, files: RecordingFiles) -> None:
    LocalChunkStore(tmp_path).close()
    LocalChunkStore(tmp_path, files=files).close()
    assert files.calls == []
    (tmp_path / "chunks" / "7f").rmdir()
    LocalChunkStore(tmp_path, files=files).close()
    assert (tmp_path / "chunks" / "7f").is_dir()
    assert ("sync_folder", "chunks") in files.calls


def test_the_next_group_goes_into_the_next_shard(store: LocalChunkStore) -> None:
    shards = [int(published(store, b"x").partition("/")[0], 16) for _ in range(260)]
    assert all((second - first) % 256 == 1 for first, second in itertools.pairwise(shards))
