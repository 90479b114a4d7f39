"""A process that is idle leaves the log alone while another one writes: both of them may be workers of one server."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.engine import commit, create, stored_tensor
from tensorus_server.catalogue.sqlite import SqliteCatalogue


@pytest.fixture
def other_writer(tmp_path: Path) -> Iterator[int]:
    """The file lock as another process opens it."""
    descriptor = os.open(tmp_path / "writer.lock", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def test_the_log_is_emptied_when_no_other_process_writes(tmp_path: Path, other_writer: int) -> None:
    catalogue = SqliteCatalogue(tmp_path)
    log = tmp_path / "catalogue.db-wal"
    commit(catalogue, stored_tensor(create(catalogue), "t", inline_payload=bytes(60_000)))
    size = log.stat().st_size
    fcntl.flock(other_writer, fcntl.LOCK_EX)
    catalogue.maintain(idle=True)
    assert log.stat().st_size == size > 60_000
    fcntl.flock(other_writer, fcntl.LOCK_UN)
    catalogue.maintain(idle=True)
    assert log.stat().st_size == 0
    # The lock was given back.
    fcntl.flock(other_writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
    catalogue.close()


def test_closing_does_not_wait_for_another_process_that_writes(tmp_path: Path, other_writer: int) -> None:
    catalogue = SqliteCatalogue(tmp_path)
    commit(catalogue, stored_tensor(create(catalogue), "t"))
    fcntl.flock(other_writer, fcntl.LOCK_EX)
    catalogue.close()
    fcntl.flock(other_writer, fcntl.LOCK_UN)
    reopened = SqliteCatalogue(tmp_path)
    assert reopened.tensors.get("dataset", ["t"]) != [None]
    reopened.close()
