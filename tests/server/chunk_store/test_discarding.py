"""Staging that stores nothing keeps as much of the contract as it can."""

from __future__ import annotations

import pytest

from contract.chunk_store_raw import RawNothing
from contract.chunk_store_writing import WritingContract
from tensorus_server.chunk_store.abc import PayloadMissingError, new_payload_key
from tensorus_server.chunk_store.discarding import DiscardingStaging


@pytest.fixture
def store() -> DiscardingStaging:
    return DiscardingStaging()


@pytest.fixture
def raw() -> RawNothing:
    return RawNothing()


class TestDiscardingStaging(WritingContract):
    """What it promises of payloads that are read, it cannot keep."""


def test_what_was_kept_cannot_be_resumed(store: DiscardingStaging) -> None:
    payload_key = new_payload_key()
    writer = store.begin(payload_key)
    writer.append([bytes(1000)])
    assert writer.keep().done()
    writer.park()
    with pytest.raises(PayloadMissingError, match=payload_key):
        store.resume(payload_key, 1000)
