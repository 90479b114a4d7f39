"""The chunk store in memory keeps the contract."""

from __future__ import annotations

import pytest

from contract.chunk_store_contract import ChunkStoreContract, published
from contract.chunk_store_kept import KeptPayloadContract
from contract.chunk_store_raw import RawMemory
from tensorus_server.chunk_store.abc import PayloadMissingError
from tensorus_server.chunk_store.memory import BytesReader, MemoryChunkStore


@pytest.fixture
def store() -> MemoryChunkStore:
    return MemoryChunkStore()


@pytest.fixture
def raw(store: MemoryChunkStore) -> RawMemory:
    return RawMemory(store)


class TestMemoryChunkStore(ChunkStoreContract):
    """Nothing beyond the contract."""


class TestKeptBytes(KeptPayloadContract):
    """Likewise."""


def test_a_sweep_finds_nothing_unfinished(store: MemoryChunkStore) -> None:
    published(store, b"x")
    assert store.sweep_unfinished() == 0
    assert len(list(store.published())) == 1


def test_bytes_are_read_as_a_payload_is() -> None:
    with BytesReader(b"0123") as reader:
        assert reader.read(1, 3) == b"123"
        with pytest.raises(PayloadMissingError, match="payload has 4 bytes, 5 are needed"):
            reader.read(1, 4)
