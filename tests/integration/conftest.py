"""Fixtures of transfers that are interrupted: a proxy before a server of the test's own, and small limits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import tensorus
from support.interrupted import KIB, PRESETS
from support.proxy import FaultProxy
from tensorus import _insert_stream
from tensorus_server import tensor_writer
from tensorus_server.server import Server


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mark tensors of a megabyte as if they were large."""
    monkeypatch.setattr(tensor_writer, "RESUMABLE_BYTES_MIN", 256 * KIB)
    monkeypatch.setattr(tensor_writer, "MARK_EVERY_BYTES", 128 * KIB)
    monkeypatch.setattr(_insert_stream, "_KEPT_BYTES_MIN", 256 * KIB)
    monkeypatch.setattr(_insert_stream, "_BLOCK_BYTES", 64 * KIB)


@pytest.fixture
def proxy(fresh_server: Server) -> Iterator[FaultProxy]:
    with FaultProxy(fresh_server.address) as running:
        yield running


@pytest.fixture
def direct(fresh_server: Server) -> Iterator[tensorus.Client]:
    """A client that nothing comes between, with a dataset for each preset."""
    with tensorus.connect(fresh_server.address, retry_timeout_s=0) as client:
        for preset in PRESETS:
            client.create_dataset(preset, policy=tensorus.Policy(preset=preset, chunk_bytes=64 * KIB))
        yield client
