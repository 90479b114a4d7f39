"""A local store of the test alone, with files that note every call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
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
