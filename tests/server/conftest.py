"""What the tests of the engine share: one with a dataset, and a look at what lies in its chunk store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.chunk_store_raw import RawFolder
from support.engine import Reports
from tensorus_codecs.policy import StoragePolicy
from tensorus_server.engine.engine import Engine
from tensorus_server.engine.insert.stream import InsertStream


@pytest.fixture(scope="module", autouse=True)
def quick_stores(few_shards: None) -> None:
    """Give every store few folders."""


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """Return an engine of this test alone, with a dataset "d" that stores values as they are."""
    engine.create_dataset("d", StoragePolicy(preset="none"))
    return engine


@pytest.fixture
def reports() -> Reports:
    """Return a place for what the stream says."""
    return Reports()


@pytest.fixture
def stream(engine: Engine, reports: Reports) -> Iterator[InsertStream]:
    """Return an insert into dataset "d"."""
    opened = engine.open_insert("d", reports)
    yield opened
    opened.abort()


@pytest.fixture
def raw(tmp_path: Path) -> RawFolder:
    """Return a look at what lies in the engine's chunk store."""
    return RawFolder(tmp_path / "store")
