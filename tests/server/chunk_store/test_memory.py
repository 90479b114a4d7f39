"""The chunk store in memory fills every role."""

from __future__ import annotations

import pytest

from contract.chunk_store_contract import ChunkStoreContract, SingleHostContract
from contract.chunk_store_identity import IdentityHolderContract
from contract.chunk_store_kept import KeptPayloadContract
from contract.chunk_store_leases import LeasesContract
from contract.chunk_store_listing import PayloadListingContract, QuarantineContract
from contract.chunk_store_payloads import PayloadStoreContract
from contract.chunk_store_raw import RawMemory
from contract.chunk_store_staging import StagingContract
from tensorus_server.chunk_store.abc import Leases, PayloadMissingError
from tensorus_server.chunk_store.bytes_reader import BytesReader
from tensorus_server.chunk_store.memory import MemoryChunkStore


@pytest.fixture
def store() -> MemoryChunkStore:
    return MemoryChunkStore()


@pytest.fixture
def raw(store: MemoryChunkStore) -> RawMemory:
    return RawMemory(store)


@pytest.fixture
def leases(store: MemoryChunkStore) -> Leases:
    return store.leases


class TestMemoryPayloads(PayloadStoreContract):
    """Nothing beyond the contract."""


class TestMemoryStaging(StagingContract):
    """Likewise."""


class TestMemoryKept(KeptPayloadContract):
    """Likewise."""


class TestMemoryLeases(LeasesContract):
    """Likewise."""


class TestMemoryListing(PayloadListingContract):
    """Likewise."""


class TestMemoryQuarantine(QuarantineContract):
    """Likewise."""


class TestMemoryIdentity(IdentityHolderContract):
    """Likewise."""


class TestMemoryChunkStore(ChunkStoreContract, SingleHostContract):
    """Likewise."""


def test_bytes_are_read_as_a_payload_is() -> None:
    with BytesReader(b"0123") as reader:
        assert reader.read(1, 3) == b"123"
        with pytest.raises(PayloadMissingError, match="payload has 4 bytes, 5 are needed"):
            reader.read(1, 4)
