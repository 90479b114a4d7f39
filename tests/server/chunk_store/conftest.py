"""A local store with files that note every call, and what a cache stands between: a store below, and a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
from support.caches import CountingStore
from support.faults import RecordingFiles, open_descriptors
from tensorus_server.chunk_store.local import LocalChunkStore


@pytest.fixture
def files() -> RecordingFiles:
    return RecordingFiles()


@pytest.fixture
def store(tmp_path: Path, files: RecordingFiles) -> Iterator[LocalChunkStore]:
    opened = LocalChunkStore(tmp_path, files=files)
    files.calls.clear()
    yield opened
    opened.close()
    assert open_descriptors(tmp_path) == []


@pytest.fixture
def raw(tmp_path: Path) -> RawFolder:
    return RawFolder(tmp_path)


@pytest.fixture
def below() -> CountingStore:
    """Return the store below a cache."""
    return CountingStore()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a cache, which closes every file in it."""
    yield tmp_path / "cache"
    assert open_descriptors(tmp_path) == []
